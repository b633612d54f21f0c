//! A new disk of an image that boots its own kernel, until it is put in its place with its entry.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::{Blame, Context, Fault, RunError};
use image::{DiskFormat, Image, ImageEntry, Staged, digest};
use qemu::scratch::copy_sparse;
use request::ImageName;

/// A copy of a disk that has no name yet. It disappears unless it is published.
pub(crate) struct Draft {
    file: Staged,
    dir: PathBuf,
    format: DiskFormat,
}

impl Draft {
    /// Copies the image's disk into the directory, which is made: a user's first image may be this one.
    pub(crate) fn copy(image: &Image, dir: &Path) -> Result<Self, RunError> {
        let original = image.open_disk()?;
        fs::create_dir_all(dir).with_context(|| format!("the image directory {}", dir.display()))?;
        let draft = Self::empty(dir, image.entry.format)?;
        copy_sparse(&original, draft.file.file()).with_context(|| format!("copying {}", image.disk.display()))?;
        Ok(draft)
    }

    /// An empty one, to be filled.
    pub(crate) fn empty(dir: &Path, format: DiskFormat) -> Result<Self, RunError> {
        let file =
            Staged::create(dir).with_context(|| format!("the image directory {} cannot be written", dir.display()))?;
        Ok(Self { file, dir: dir.to_owned(), format })
    }

    /// The copy, for a helper VM.
    pub(crate) fn file(&self) -> Result<File, RunError> {
        Ok(self.file.file().try_clone()?)
    }

    /// Gives the disk its name, and writes the entry with name and digest of the disk; with `replace` over one that is
    /// there. Returns entry and disk.
    pub(crate) fn publish(
        self,
        mut entry: ImageEntry,
        name: &ImageName,
        entry_path: &Path,
        replace: bool,
    ) -> Result<(ImageEntry, PathBuf), RunError> {
        let sha256 = digest::of_file(&self.file.path()).context("the digest of the disk")?;
        let extension = self.format.block_driver();
        entry.disk = PathBuf::from(format!("{name}-{}.{extension}", &sha256[..12]));
        entry.sha256 = Some(sha256);
        entry.validate().blame(Fault::Image)?;
        let text = Staged::create(&self.dir).context("the entry")?;
        text.file().write_all(toml::to_string(&entry).blame(Fault::System)?.as_bytes()).context("the entry")?;
        let disk = self.dir.join(&entry.disk);
        // One with the same content has the same name, and may be that of the entry that is there.
        let is_new = !disk.exists();
        self.file.publish(&disk, true).blame(Fault::User)?;
        if let Err(error) = text.publish(entry_path, replace) {
            if is_new {
                let _ = fs::remove_file(&disk);
            }
            return Err(error).blame(Fault::User);
        }
        Ok((entry, disk))
    }
}

/// Kernel and initial RAM disk that an entry names relative to its own directory, named for an entry elsewhere.
pub(crate) fn with_absolute_files(entry: &mut ImageEntry, of: &Image) {
    let Some(full) = &mut entry.full else { return };
    let dir = of.entry_path.parent().unwrap_or(Path::new("/"));
    for file in [&mut full.kernel, &mut full.initrd] {
        *file = file.take().map(|file| dir.join(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_another_entry_has_stays_when_the_new_entry_cannot_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let (name, entry_path) = ("x".parse().unwrap(), dir.path().join("x.toml"));
        let publish = |replace| {
            let draft = Draft::empty(dir.path(), DiskFormat::Raw).unwrap();
            draft.file().unwrap().write_all(b"content").unwrap();
            let entry = ImageEntry::new("x".into(), DiskFormat::Raw);
            draft.publish(entry, &name, &entry_path, replace)
        };
        let (_, disk) = publish(false).unwrap();
        publish(false).unwrap_err();
        assert_eq!(fs::read(&disk).unwrap(), b"content");
        fs::remove_file(&disk).unwrap();
        publish(false).unwrap_err();
        assert!(!disk.exists(), "a disk that nobody has does not stay");
    }

    #[test]
    fn the_first_image_of_a_user_makes_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("not yet/images");
        let (name, disk): (ImageName, _) = ("mine".parse().unwrap(), dir.path().join("theirs.raw"));
        fs::write(&disk, [7; 512]).unwrap();
        let entry = ImageEntry::new(disk.clone(), DiskFormat::Raw);
        let theirs = Image { name: name.clone(), entry: entry.clone(), entry_path: own.join("mine.toml"), disk };
        let draft = Draft::copy(&theirs, &own).unwrap();
        let (_, disk) = draft.publish(entry, &name, &own.join("mine.toml"), false).unwrap();
        assert_eq!(disk.parent(), Some(own.as_path()));
        assert!(fs::read(&disk).unwrap() == [7; 512] && own.join("mine.toml").exists());
    }
}
