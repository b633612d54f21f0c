//! Whether a file is on a disk of this node.

use std::fs::File;

use nix::sys::statfs::fstatfs;

/// Kinds of file systems that live on a disk of the machine, or in its memory, by their magic numbers (statfs(2)).
/// All others, and those that nobody here has heard of, are taken for file systems over a network.
const LOCAL: [(i64, &str); 11] = [
    (0xef53, "ext2, ext3, ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlayfs"),
    (0x7371_7368, "squashfs"),
    (0xe0f5_e1e2, "erofs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
];

/// Whether the file is on this node already.
pub fn is_local(file: &File) -> bool {
    // The number is a word of the processor: 32 bits of it count.
    fstatfs(file).is_ok_and(|at| LOCAL.iter().any(|(magic, _)| *magic == at.filesystem_type().0 & 0xffff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_makes_up_is_no_disk_of_this_node() {
        assert!(is_local(&tempfile::tempfile().unwrap()));
        assert!(!is_local(&File::open("/proc/self/stat").unwrap()));
    }
}
