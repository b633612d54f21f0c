//! Installs the agent in an image that boots its own kernel: on a copy of its disk, in a helper VM.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::error::{Blame, Context, Fault, RunError, ensure};
use super::rework::{self, Answer, SERIAL};
use crate::config::Config;
use image::import::disk::Disk;
use image::{BootMode, DiskFormat, FullBootEntry, Image, ImageEntry, clean_up_on_signals};
use request::ImageName;

/// How to install the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstallOptions {
    /// The partition with the root, if there are several.
    pub partition: Option<u32>,
    /// The btrfs subvolume with the root, if there are several.
    pub subvolume: Option<String>,
    /// Accept a kernel that cannot mount shares.
    pub without_shares: bool,
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The kernel that the image boots.
    pub kernel: String,
    /// The init that starts its agent: `systemd` or `sysvinit`.
    pub init: String,
    /// The helper's warnings.
    pub warnings: Vec<String>,
    /// The entry's new text.
    pub entry: ImageEntry,
    /// The disk that has the agent.
    pub disk: PathBuf,
}

/// A new image in the directory `dir`, made from a disk that is in no catalogue yet.
///
/// # Errors
/// When the name is taken, or the file is no disk that VMs can run from.
pub fn image_of_disk(disk: &Path, name: ImageName, dir: &Path, description: String) -> Result<Image, RunError> {
    let entry_path = dir.join(format!("{name}.toml"));
    ensure!(
        !entry_path.exists(),
        Fault::User,
        "image '{name}' exists in {}: 'spank-vm image remove' removes it",
        dir.display()
    );
    let format = Disk::of_path(disk).blame(Fault::Image)?.format;
    ensure!(
        format.is_bootable(),
        Fault::Image,
        "{0} has a format that VMs do not run from: 'qemu-img convert -O qcow2 {0} NEW.qcow2' makes one that they do",
        disk.display()
    );
    let disk = fs::canonicalize(disk).with_context(|| disk.display().to_string())?;
    let entry = ImageEntry { description, ..ImageEntry::new(disk.clone(), format) };
    Ok(Image { name, entry, entry_path, disk })
}

/// Puts the agent into `image`: a changed copy of its disk takes the place of the old one in the entry, which becomes
/// `boot = "full"`. The old disk stays where it is, for the jobs that run from it.
///
/// # Errors
/// When the image is no disk, has no system or kernel that supports the agent, or files cannot be written. Then
/// nothing has changed.
pub fn install_agent(config: &Config, image: &Image, options: InstallOptions) -> Result<Installed, RunError> {
    let entry = &image.entry;
    ensure!(
        !entry.format.is_file_system(),
        Fault::Image,
        "image '{}' is a file system without a boot loader, made for boot = \"kit\": a full boot needs a whole disk",
        image.name
    );
    let dir = image.entry_path.parent().unwrap_or(Path::new("/"));
    clean_up_on_signals().blame(Fault::System)?;
    let draft = Draft::copy(image, dir)?;

    let has_kernel = entry.full_boot().kernel.is_some();
    let answer = run_helper(config, draft.file()?, entry.format, has_kernel, options)
        .with_context(|| format!("image '{}'", image.name))?;

    let full = FullBootEntry {
        shares: answer.is_true("shares"),
        memory_hotplug: answer.is_true("memory_hotplug"),
        ..entry.full_boot()
    };
    let mut warnings = answer.warnings.clone();
    let mut append = entry.append.clone();
    if !append.is_empty() && !has_kernel {
        warnings
            .push(format!("append = \"{append}\" is left out: the image's boot loader has the kernel's command line"));
        append.clear();
    }
    let changed = ImageEntry { boot: BootMode::Full, append, full: Some(full), ..entry.clone() };
    let (changed, disk) = draft.publish(changed, &image.name, &image.entry_path, true)?;
    Ok(Installed {
        kernel: answer.value("kernel").to_owned(),
        init: answer.value("init").to_owned(),
        warnings,
        entry: changed,
        disk,
    })
}

fn run_helper(
    config: &Config,
    disk: File,
    format: DiskFormat,
    has_kernel: bool,
    options: InstallOptions,
) -> Result<Answer, RunError> {
    let partition = options.partition.unwrap_or(0).to_string();
    let kernel = if has_kernel { "given" } else { "own" };
    let shares = if options.without_shares { "optional" } else { "needed" };
    let mut arguments =
        vec!["disk", "install-agent", SERIAL, "--partition", &partition, "--kernel", kernel, "--shares", shares];
    if let Some(name) = &options.subvolume {
        arguments.extend(["--subvolume", name]);
    }
    let answer = rework::ask(config, disk, format, &arguments)?;
    ensure!(!answer.value("kernel").is_empty(), Fault::Guest, "the helper VM gave no answer");
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_image_is_refused_before_anything_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.toml"), "disk = 'x'\nformat = 'squashfs'\n").unwrap();
        let entry = toml::from_str("disk = 'x'\nformat = 'squashfs'\n").unwrap();
        let (entry_path, disk) = (dir.path().join("x.toml"), dir.path().join("x"));
        let image = Image { name: "x".parse().unwrap(), entry, entry_path, disk };
        let error = install_agent(&Config::default(), &image, InstallOptions::default()).unwrap_err().to_string();
        assert!(error.contains("a full boot needs a whole disk"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
