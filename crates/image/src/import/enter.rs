//! Puts the disk and its entry into the catalogue, whole and in one step.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::options::ImportOptions;
use crate::catalogue::Image;
use crate::digest;
use crate::entry::{BootMode, ImageEntry};
use crate::format::DiskFormat;
use crate::staged::Staged;

/// Checks the name before anything is read.
///
/// # Errors
/// The name is taken.
pub fn name_must_be_free(options: &ImportOptions) -> anyhow::Result<()> {
    let ImportOptions { name, dir, .. } = options;
    if entry_path(options).exists() && !options.replace {
        bail!("image '{name}' exists in {}: --replace overwrites it", dir.display());
    }
    Ok(())
}

fn entry_path(options: &ImportOptions) -> PathBuf {
    options.dir.join(format!("{}.toml", options.name))
}

/// The file to write the disk to.
///
/// # Errors
/// When the directory cannot be written.
pub fn begin(options: &ImportOptions) -> anyhow::Result<Staged> {
    let dir = &options.dir;
    fs::create_dir_all(dir)
        .and_then(|()| Staged::create(dir))
        .with_context(|| format!("the image directory {} cannot be written", dir.display()))
}

/// Gives the disk its name and writes the entry.
///
/// # Errors
/// When a file cannot be written; nothing has changed then.
pub fn publish(staged: Staged, options: &ImportOptions, arch: String) -> anyhow::Result<Image> {
    let ImportOptions { name, dir, .. } = options;
    staged.file().sync_all().context("writing the new disk")?;
    let sha256 = digest::of_file(&staged.path()).context("reading the new disk")?;
    // A new disk gets a new name, so that running jobs keep the old disk until they end.
    let disk = PathBuf::from(format!("{name}-{}.squashfs", &sha256[..12]));
    let entry_path = entry_path(options);
    let old = options.replace.then(|| disk_of(&entry_path)).flatten().filter(|old| *old != dir.join(&disk));
    ensure!(!is_interrupted(), "interrupted by a signal");
    staged.publish(&dir.join(&disk), true)?;

    let inherited = options.inherits.clone().unwrap_or_else(|| ImageEntry::new(PathBuf::new(), DiskFormat::Squashfs));
    let entry = ImageEntry {
        description: options.description.clone(),
        disk: disk.clone(),
        format: DiskFormat::Squashfs,
        boot: BootMode::Kit,
        append: options.append.clone(),
        arch,
        sha256: Some(sha256),
        full: None,
        ..inherited
    };
    let published = Staged::create(dir).map_err(anyhow::Error::from).and_then(|staged| {
        staged.file().write_all(toml::to_string(&entry)?.as_bytes())?;
        staged.publish(&entry_path, options.replace)
    });
    if let Err(error) = published {
        // The image of that name may have this very disk: its name is that of its content.
        if disk_of(&entry_path).as_deref() != Some(&dir.join(&disk)) {
            let _ = fs::remove_file(dir.join(&disk));
        }
        return Err(error);
    }
    if let Some(old) = old {
        // Running VMs have the old disk open; VMs that start now look the entry up again.
        let _ = fs::remove_file(old);
    }
    Ok(Image { name: name.clone(), entry, entry_path, disk: dir.join(disk) })
}

/// The disk beside an entry that is about to be replaced; one that lies elsewhere is not ours to remove.
fn disk_of(entry_path: &Path) -> Option<PathBuf> {
    let entry: ImageEntry = toml::from_str(&fs::read_to_string(entry_path).ok()?).ok()?;
    let dir = entry_path.parent()?;
    Some(dir.join(entry.disk)).filter(|disk| disk.parent() == Some(dir))
}

/// Whether a signal is pending that will end this process. While a VM is saved, signals are blocked and read
/// later; a process that was told to end must not publish anything any more.
fn is_interrupted() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let pending = |key| {
        let mask = status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0)
    };
    let ending =
        [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM].iter().fold(0, |mask, n| mask | 1 << (n - 1));
    (pending("SigPnd:") | pending("ShdPnd:")) & ending != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::DEFAULT_MAX_BYTES;

    #[test]
    fn a_disk_that_an_entry_has_stays_when_the_same_disk_cannot_be_entered_again() {
        let dir = tempfile::tempdir().unwrap();
        let options = ImportOptions {
            name: "x".parse().unwrap(),
            dir: dir.path().to_owned(),
            description: String::new(),
            append: String::new(),
            replace: false,
            inherits: None,
            arch: None,
            max_bytes: DEFAULT_MAX_BYTES,
        };
        let enter = || {
            let staged = begin(&options).unwrap();
            staged.file().write_all(b"the same").unwrap();
            publish(staged, &options, "x86_64".to_owned())
        };
        let first = enter().unwrap();
        // As if two imports of one archive had begun at once.
        let error = format!("{:#}", enter().unwrap_err());
        assert!(error.contains("x.toml"), "{error}");
        assert_eq!(fs::read(&first.disk).unwrap(), b"the same");
    }
}
