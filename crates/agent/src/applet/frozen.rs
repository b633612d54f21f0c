//! The disk of the running system as a stream, as it is when all its file systems stand still.
//!
//! The system is frozen for good: it is a VM's that ends afterwards.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::super::sys;
use super::failure::Failure;

/// Bytes collected before they are written.
const BUFFER: usize = 256 * 1024;

/// Names of block devices that are no disk of the system.
const NO_DISK: [&str; 7] = ["loop", "ram", "zram", "sr", "fd", "dm-", "nbd"];

/// Writes the disk to stdout.
pub(super) fn export() -> Result<(), Failure> {
    let disk = only_disk()?;
    let size = size_of(&disk).map_err(|error| format!("the size of the disk: {error}"))?;
    clear_tmp();
    let file = File::open(Path::new("/dev").join(&disk)).map_err(|error| format!("/dev/{disk}: {error}"))?;
    freeze_all()?;
    // What somebody has read of the disk before is not what is on it now.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(|errno| format!("/dev/{disk}: {errno}"))?;
    let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    archive::write_disk(&mut file.take(size), size, &mut out).map_err(|error| error.to_string())
}

/// A system that is spread over several disks cannot be saved as one.
fn only_disk() -> Result<String, Failure> {
    let entries = fs::read_dir("/sys/block").map_err(|error| format!("/sys/block: {error}"))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let disks: Vec<String> = names.filter(|name| is_disk(name) && size_of(name).is_ok_and(|size| size > 0)).collect();
    match &disks[..] {
        [disk] => Ok(disk.clone()),
        others => Err(format!("the system has {} disks ({}), and one can be saved", others.len(), others.join(", "))),
    }
}

fn is_disk(name: &str) -> bool {
    !NO_DISK.iter().any(|other| name.starts_with(other))
}

/// In bytes; the kernel counts sectors.
fn size_of(disk: &str) -> io::Result<u64> {
    let text = fs::read_to_string(Path::new("/sys/block").join(disk).join("size"))?;
    text.trim().parse::<u64>().map(|sectors| sectors * 512).map_err(io::Error::other)
}

/// The step's own files: an image keeps none of them.
fn clear_tmp() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let _ = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// The root last, because the others are mounted in it.
fn freeze_all() -> Result<(), Failure> {
    let mounts = fs::read("/proc/self/mounts").map_err(|error| format!("/proc/self/mounts: {error}"))?;
    let mut places = on_disks(&String::from_utf8_lossy(&mounts));
    places.sort_by_key(|place| std::cmp::Reverse(place.as_os_str().len()));
    // What deleted files have left is not saved.
    let open: Vec<(File, PathBuf)> =
        places.into_iter().filter_map(|place| Some((File::open(&place).ok()?, place))).collect();
    nix::unistd::sync();
    for (directory, _) in &open {
        let _ = sys::trim(directory);
    }
    let mut frozen = Vec::new();
    for (directory, place) in &open {
        let device = directory.metadata().map(|meta| meta.st_dev()).unwrap_or_default();
        if frozen.contains(&device) {
            continue;
        }
        match sys::freeze(directory) {
            Ok(()) => frozen.push(device),
            // A file system without a journal, such as that of a boot loader, which nobody writes to.
            Err(Errno::EOPNOTSUPP) if place != Path::new("/") => {
                let _ = nix::unistd::syncfs(directory);
            }
            Err(errno) => return Err(format!("{} cannot be frozen: {}", place.display(), errno.desc())),
        }
    }
    Ok(())
}

/// The places where file systems of disks are mounted.
fn on_disks(mounts: &str) -> Vec<PathBuf> {
    let words = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mounted = words.filter(|words| words.len() > 2 && words[0].starts_with("/dev/") && words[2] != "fuse");
    mounted.map(|words| PathBuf::from(words[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_of_disks_are_frozen_and_no_others() {
        let mounts = "sysfs /sys sysfs rw 0 0\n/dev/vda1 / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n\
                      /dev/vda15 /boot/efi vfat rw 0 0\nspank-vm /home/ada fuse rw 0 0\n/dev/fuse /x fuse rw 0 0\n";
        assert_eq!(on_disks(mounts), [PathBuf::from("/"), PathBuf::from("/boot/efi")]);
    }

    #[test]
    fn a_loop_device_is_no_disk() {
        assert!(is_disk("vda") && is_disk("sda") && !is_disk("loop0") && !is_disk("sr0") && !is_disk("zram0"));
    }
}
