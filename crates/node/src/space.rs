//! The file system of a cache: its kind, and how much of it caches may take.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::mounts::unescape;
use crate::sys;

/// Least that caches leave free of their file system: one part in so many…
const RESERVE_PART: u64 = 20;
/// … but never more than this.
const RESERVE_MOST: u64 = 4 << 30;
/// Of a file system that others use too, one cache takes one part in so many.
const SHARED_PART: u64 = 4;

/// The storage of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A disk of this machine.
    Disk,
    /// Its memory. A job's writes there are charged to the job.
    Memory,
    /// A file server, or something unknown.
    Network,
}

/// Kinds of file systems by their magic numbers (statfs(2)).
const LOCAL: [(u32, Medium, &str); 11] = [
    (0xef53, Medium::Disk, "ext2, ext3, ext4"),
    (0x5846_5342, Medium::Disk, "xfs"),
    (0x9123_683e, Medium::Disk, "btrfs"),
    (0x0102_1994, Medium::Memory, "tmpfs"),
    (0x8584_58f6, Medium::Memory, "ramfs"),
    (OVERLAY, Medium::Disk, "overlayfs"),
    (0x7371_7368, Medium::Disk, "squashfs"),
    (0xe0f5_e1e2, Medium::Disk, "erofs"),
    (0x2fc1_2fc1, Medium::Disk, "zfs"),
    (0xf2f5_2010, Medium::Disk, "f2fs"),
    (0xca45_1a4e, Medium::Disk, "bcachefs"),
];

const OVERLAY: u32 = 0x794c_7630;

/// The storage of a file.
///
/// # Errors
/// As fstatfs(2).
pub fn medium(file: &File) -> io::Result<Medium> {
    let magic = sys::statfs(file)?.magic;
    if magic == OVERLAY {
        // A node that booted from the network has its writable layer in memory.
        return Ok(upper_medium(file).unwrap_or(Medium::Disk));
    }
    Ok(of_magic(magic))
}

fn of_magic(magic: u32) -> Medium {
    LOCAL.iter().find(|(number, ..)| *number == magic).map_or(Medium::Network, |(_, medium, _)| *medium)
}

/// The storage of the writable layer of the overlay that holds `file`, if its path can still be used.
fn upper_medium(file: &File) -> Option<Medium> {
    let dev = file.metadata().ok()?.dev();
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let upper = upper_dir(&String::from_utf8_lossy(&mounts), dev)?;
    match of_magic(sys::statfs(&File::open(upper).ok()?).ok()?.magic) {
        Medium::Memory => Some(Medium::Memory),
        _ => None,
    }
}

/// The directory of the writable layer of the overlay with that device number (proc_pid_mountinfo(5)).
fn upper_dir(mounts: &str, dev: u64) -> Option<PathBuf> {
    let number = format!("{}:{}", libc::major(dev), libc::minor(dev));
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&number))?;
    let options = line.split_once(" - ")?.1.split(' ').nth(2)?;
    options.split(',').find_map(|option| option.strip_prefix("upperdir=")).map(unescape)
}

/// A file system's size and what is free, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub bytes: u64,
    /// What users may still fill.
    pub free: u64,
    /// Whether only our caches use it.
    pub is_own: bool,
}

impl Space {
    /// That of the file system with `dir`, which is a cache directory or something in it.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn of(dir: &Path, cache_dir: &Path) -> io::Result<Self> {
        let at = sys::statfs(&File::open(dir)?)?;
        // Usually all caches lie in one directory.
        let ours = cache_dir.parent().unwrap_or(cache_dir);
        let is_own = dir.ancestors().take_while(|dir| dir.starts_with(ours)).any(is_mount_point);
        Ok(Self { bytes: at.blocks * at.block, free: at.available * at.block, is_own })
    }

    /// What every cache must leave free.
    pub fn reserve(&self) -> u64 {
        (self.bytes / RESERVE_PART).min(RESERVE_MOST)
    }

    /// The most that one cache may take, all users and the site together.
    pub fn budget(&self) -> u64 {
        if self.is_own { self.bytes - self.reserve() } else { self.bytes / SHARED_PART }
    }

    /// The part of the reserve that is in use.
    pub fn lacks(&self) -> u64 {
        self.reserve().saturating_sub(self.free)
    }

    /// How much of the free space a cache may still take.
    pub fn usable(&self) -> u64 {
        self.free.saturating_sub(self.reserve())
    }
}

/// Whether the directory is where another file system begins, other than the root.
fn is_mount_point(dir: &Path) -> bool {
    let device = |dir: &Path| fs::metadata(dir).map(|meta| meta.dev()).ok();
    dir.parent().is_some_and(|parent| device(parent).is_some() && device(parent) != device(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_the_kernel_makes_up_is_no_disk_of_this_node_and_tmpfs_is_memory() {
        assert_ne!(medium(&tempfile::tempfile().unwrap()).unwrap(), Medium::Network);
        assert_eq!(medium(&File::open("/proc/self/stat").unwrap()).unwrap(), Medium::Network);
        if let Ok(shm) = File::open("/dev/shm") {
            assert_eq!(medium(&shm).unwrap(), Medium::Memory);
        }
    }

    #[test]
    fn the_writable_layer_of_an_overlay_is_found() {
        let mounts = "22 1 0:21 / /proc rw - proc proc rw\n\
                      30 1 0:40 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/ro,upperdir=/run/up\\040x,workdir=/w\n";
        assert_eq!(upper_dir(mounts, libc::makedev(0, 40)).unwrap(), Path::new("/run/up x"));
        assert_eq!(upper_dir(mounts, libc::makedev(0, 21)), None);
    }

    #[test]
    fn a_part_of_the_file_system_stays_free_and_of_a_shared_one_most() {
        let shared = Space { bytes: 40 * GIB, free: 3 * GIB, is_own: false };
        assert_eq!((shared.reserve(), shared.usable(), shared.budget()), (2 * GIB, GIB, 10 * GIB));
        let own = Space { bytes: 1000 * GIB, free: GIB, is_own: true };
        assert_eq!((own.reserve(), own.usable(), own.budget()), (4 * GIB, 0, 996 * GIB));
    }

    #[test]
    fn a_directory_is_not_taken_for_a_file_system_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("cache");
        fs::create_dir(&inner).unwrap();
        let space = Space::of(&inner, &inner).unwrap();
        assert!(!space.is_own && space.bytes >= space.free && space.bytes > 0, "{space:?}");
    }

    #[test]
    fn a_file_system_that_is_mounted_for_caches_is_their_own_for_each_shelf() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let shelf = dir.path().join("users/1000");
        fs::create_dir_all(&shelf).unwrap();
        let is_own = |cache_dir: &Path| Space::of(&shelf, cache_dir).unwrap().is_own;
        assert!(is_own(Path::new("/dev/shm")) && is_own(dir.path()));
        assert!(!is_own(&dir.path().join("users")), "others use it too");
    }
}
