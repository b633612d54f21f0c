//! The disk of a VM that boots its own kernel, as a new image of the same kind. The guest sends what it holds (`disk
//! frozen` of the agent); where it lies in the new file is checked here.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::draft::{Draft, with_absolute_files};
use crate::error::{Context, RunError};
use image::{DEFAULT_MAX_BYTES, DiskFormat, Image, ImageEntry, NewImage};

/// The agent's program that writes the disk.
pub(super) const EXPORTER: [&str; 3] = ["/proc/self/exe", "disk", "frozen"];

/// Makes the image from the guest's stream; `base` is the image that the VM was started from.
pub(super) fn write(
    stream: &mut dyn Read,
    place: &NewImage,
    description: Option<&str>,
    base: &Image,
) -> Result<String, RunError> {
    let draft = Draft::empty(&place.dir, DiskFormat::Raw)?;
    let file = draft.file()?;
    let size = archive::read_disk(stream, DEFAULT_MAX_BYTES, |offset, piece| file.write_all_at(piece, offset))
        .context("the disk")?;
    file.set_len(size).context("the disk")?;
    let mut entry = ImageEntry { format: DiskFormat::Raw, ..base.entry.clone() };
    if let Some(text) = description {
        text.clone_into(&mut entry.description);
    }
    with_absolute_files(&mut entry, base);
    let entry_path = place.dir.join(format!("{}.toml", place.name));
    let replaced = replaced_disk(&entry_path);
    let (_, disk) = draft.publish(entry, &place.name, &entry_path, place.replace)?;
    // VMs that run from it have it open and keep it.
    if let Some(old) = replaced.filter(|old| *old != disk && old.parent() == Some(&place.dir)) {
        let _ = fs::remove_file(old);
    }
    let mib = disk.metadata().map_or(0, |meta| allocated(&meta) >> 20);
    Ok(format!("image '{}' is saved: {} ({mib} MiB)", place.name, entry_path.display()))
}

fn allocated(meta: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(meta) * 512
}

/// The disk of the image that is replaced.
fn replaced_disk(entry_path: &Path) -> Option<std::path::PathBuf> {
    let entry: ImageEntry = toml::from_str(&fs::read_to_string(entry_path).ok()?).ok()?;
    Some(entry_path.parent()?.join(entry.disk))
}

/// Whether there was no room for it.
pub(super) fn is_for_lack_of_room(error: &RunError) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
            return full.contains(&error.kind());
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Catalogue;

    fn base(dir: &Path) -> Image {
        let text =
            "disk = 'b.raw'\nformat = 'qcow2'\nboot = 'full'\nappend = 'root=/dev/vda'\n[full]\nkernel = 'vmlinuz'\n";
        let entry = toml::from_str(text).unwrap();
        Image { name: "base".parse().unwrap(), entry, entry_path: dir.join("base.toml"), disk: dir.join("b.raw") }
    }

    fn save(dir: &Path, name: &str, bytes: &[u8]) -> Result<String, RunError> {
        let place =
            NewImage::find(&format!("{}/{name}", dir.display()).parse().unwrap(), &Catalogue::new(&[])).unwrap();
        let mut stream = Vec::new();
        archive::write_disk(&mut &*bytes, bytes.len() as u64, &mut stream).unwrap();
        write(&mut &*stream, &place, Some("mine"), &base(dir))
    }

    #[test]
    fn a_saved_disk_is_an_image_of_its_own_that_boots_like_its_base() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 200_000];
        bytes[150_000] = 5;
        save(dir.path(), "mine", &bytes).unwrap();
        let entry: ImageEntry = toml::from_str(&fs::read_to_string(dir.path().join("mine.toml")).unwrap()).unwrap();
        assert!(fs::read(dir.path().join(&entry.disk)).unwrap() == bytes);
        assert_eq!((entry.format, entry.description.as_str()), (DiskFormat::Raw, "mine"));
        assert_eq!(entry.full_boot().kernel.unwrap(), dir.path().join("vmlinuz"));
        // Replaced, it takes its old disk with it.
        save(dir.path(), "mine,replace", &[1; 1000]).unwrap();
        let files = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 2);
    }

    #[test]
    fn a_stream_that_breaks_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place =
            NewImage::find(&format!("{}/x", dir.path().display()).parse().unwrap(), &Catalogue::new(&[])).unwrap();
        write(&mut &b"svmdisk1"[..], &place, None, &base(dir.path())).unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
