//! Making an image from a root file system archive.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use super::catalogue::Image;
use super::entry::{BootMode, DiskFormat, ImageEntry};
use crate::digest;
use crate::request::ImageName;

/// What to import and as what.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Name of the new image.
    pub name: ImageName,
    /// Directory that gets the disk and the entry.
    pub dir: PathBuf,
    /// One line for people.
    pub description: String,
    /// More words for the guest kernel's command line.
    pub append: String,
    /// Replace an image of that name.
    pub replace: bool,
}

/// Packs the tar archive that `archive` yields into a squashfs image and enters it in the catalogue.
///
/// Nothing of the archive is unpacked on the host: `sqfstar` turns it into a file system as it is
/// read, so owners and devices need no privilege and odd paths can do no harm.
///
/// # Errors
/// When the name is taken, `sqfstar` is missing or refuses the archive, or the directory cannot be written.
/// Nothing is left behind then.
pub fn import(archive: &mut dyn Read, options: &ImportOptions) -> anyhow::Result<Image> {
    let ImportOptions { name, dir, .. } = options;
    std::fs::create_dir_all(dir).with_context(|| format!("image directory {}", dir.display()))?;
    let entry_path = dir.join(format!("{name}.toml"));
    if entry_path.exists() && !options.replace {
        bail!("image '{name}' exists in {}: --replace overwrites it", dir.display());
    }

    // A new disk gets a new name: jobs that run from the old one keep it until they end.
    let mut staged = Staged::new(dir.join(format!(".{name}.{}.partial", std::process::id())));
    pack(archive, staged.path())?;
    let sha256 = digest::of_file(staged.path()).with_context(|| staged.path().display().to_string())?;
    let disk = PathBuf::from(format!("{name}-{}.squashfs", &sha256[..12]));
    staged.rename(&dir.join(&disk))?;

    let entry = ImageEntry {
        description: options.description.clone(),
        disk: disk.clone(),
        format: DiskFormat::Squashfs,
        boot: BootMode::Kit,
        append: options.append.clone(),
        arch: std::env::consts::ARCH.to_owned(),
        sha256: Some(sha256),
        full: None,
    };
    let mut staged = Staged::new(dir.join(format!(".{name}.{}.toml", std::process::id())));
    std::fs::write(staged.path(), toml::to_string(&entry)?)?;
    staged.rename(&entry_path)?;
    Ok(Image { name: name.clone(), entry, entry_path, disk: dir.join(disk) })
}

fn pack(archive: &mut dyn Read, disk: &Path) -> anyhow::Result<()> {
    // lz4: under emulation the guest decompresses on a slow processor, and size matters less than start time.
    let mut packer = Command::new("sqfstar")
        .args(["-quiet", "-no-progress", "-comp", "lz4", "-b", "128K"])
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("sqfstar cannot be started: install squashfs-tools")?;
    let mut input = packer.stdin.take().context("no pipe to sqfstar")?;
    let copied = std::io::copy(archive, &mut input).and_then(|bytes| input.flush().map(|()| bytes));
    drop(input);
    let output = packer.wait_with_output().context("waiting for sqfstar")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last_line = said.lines().last().unwrap_or("no reason given").trim();
    ensure!(output.status.success(), "the archive cannot be packed: {last_line}");
    let bytes = copied.context("reading the archive")?;
    ensure!(bytes > 0, "the archive is empty");
    Ok(())
}

/// A file that disappears unless it is renamed to its final place.
struct Staged {
    path: PathBuf,
    done: bool,
}

impl Staged {
    fn new(path: PathBuf) -> Self {
        Self { path, done: false }
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn rename(&mut self, to: &Path) -> anyhow::Result<()> {
        std::fs::rename(&self.path, to).with_context(|| to.display().to_string())?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
