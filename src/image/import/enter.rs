//! The disk and its entry appear in the catalogue, whole and at once.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::ImportOptions;
use super::staged::Staged;
use crate::digest;
use crate::image::catalogue::Image;
use crate::image::entry::{BootMode, DiskFormat, ImageEntry};

/// What is wrong with the name shows before anything is read.
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
    fs::create_dir_all(dir).with_context(|| format!("image directory {}", dir.display()))?;
    Staged::new(dir, options.name.as_str(), "disk")
}

/// Gives the disk its name and writes the entry.
///
/// # Errors
/// When a file cannot be written; nothing has changed then.
pub fn publish(staged: Staged, options: &ImportOptions, arch: String) -> anyhow::Result<Image> {
    let ImportOptions { name, dir, .. } = options;
    let sha256 = digest::of_file(staged.path()).with_context(|| staged.path().display().to_string())?;
    // A new disk gets a new name: jobs that run from the old one keep it until they end.
    let disk = PathBuf::from(format!("{name}-{}.squashfs", &sha256[..12]));
    let entry = ImageEntry {
        description: options.description.clone(),
        disk: disk.clone(),
        format: DiskFormat::Squashfs,
        boot: BootMode::Kit,
        append: options.append.clone(),
        arch,
        sha256: Some(sha256),
        full: None,
    };
    let draft = Staged::new(dir, name.as_str(), "entry")?;
    fs::write(draft.path(), toml::to_string(&entry)?).with_context(|| draft.path().display().to_string())?;
    name_must_be_free(options)?;
    staged.publish(&dir.join(&disk))?;
    let entry_path = entry_path(options);
    draft.publish(&entry_path)?;
    Ok(Image { name: name.clone(), entry, entry_path, disk: dir.join(disk) })
}
