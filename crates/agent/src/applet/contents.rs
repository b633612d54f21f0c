//! Recognises what a disk or partition holds by its first bytes.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::super::rootfs::{FsType, SUPER_BLOCK_AREA};

/// What is on a disk or partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Contents {
    /// A file system that a root may have.
    FileSystem(FsType),
    /// Something else, in words.
    Other(&'static str),
}

/// The first bytes; fewer if the partition is smaller.
pub(super) fn start_of(device: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(SUPER_BLOCK_AREA);
    File::open(device)?.take(SUPER_BLOCK_AREA as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Magic numbers of what cannot be a root here: offset, bytes, name.
const OTHERS: [(usize, &[u8], &str); 12] = [
    (0, b"LUKS\xba\xbe", "LUKS (encrypted)"),
    (0, b"-FVE-FS-", "BitLocker (encrypted)"),
    (512, b"LABELONE", "LVM"),
    (0, b"LABELONE", "LVM"),
    (4086, b"SWAPSPACE2", "swap"),
    (3, b"NTFS    ", "NTFS"),
    (3, b"EXFAT   ", "exFAT"),
    (82, b"FAT32   ", "FAT"),
    (54, b"FAT1", "FAT"),
    (4096, b"\xfc\x4e\x2b\xa9", "Linux RAID"),
    (0x8001, b"CD001", "ISO 9660"),
    (1024, b"H+", "HFS+"),
];

impl Contents {
    /// Recognises content by these first bytes.
    pub fn detect(start: &[u8]) -> Self {
        let begins = |offset: usize, magic: &[u8]| start.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        // Containers first: traces of an older file system may still be on the disk.
        if let Some((.., name)) = OTHERS.iter().find(|(offset, magic, _)| begins(*offset, magic)) {
            return Self::Other(name);
        }
        match FsType::detect(start) {
            Some(kind) => Self::FileSystem(kind),
            None if start.iter().all(|&byte| byte == 0) => Self::Other("empty"),
            None => Self::Other("unknown"),
        }
    }

    /// Its name in a message.
    pub fn name(&self) -> &'static str {
        match self {
            Self::FileSystem(kind) => kind.name(),
            Self::Other(name) => name,
        }
    }
}

/// Whether an ext file system waits for its journal to be replayed.
pub(super) fn needs_recovery(kind: FsType, start: &[u8]) -> bool {
    kind == FsType::Ext4 && start.get(1024 + 0x60).is_some_and(|incompatible| incompatible & 4 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_foreign_file_systems_are_told_by_name() {
        for (offset, magic, name) in OTHERS {
            let mut disk = vec![0; SUPER_BLOCK_AREA];
            disk[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(Contents::detect(&disk), Contents::Other(name));
        }
        assert_eq!(Contents::detect(&[0; 4096]), Contents::Other("empty"));
        assert_eq!(Contents::detect(&[1; 100]), Contents::Other("unknown"));
    }

    #[test]
    fn uuid_and_label_are_those_of_fstab() {
        let mut disk = vec![0; SUPER_BLOCK_AREA];
        disk[1024 + 56..][..2].copy_from_slice(b"\x53\xef");
        disk[1024 + 0x68..][..16].copy_from_slice(&(0..16).collect::<Vec<u8>>());
        disk[1024 + 0x78..][..4].copy_from_slice(b"root");
        let Contents::FileSystem(kind) = Contents::detect(&disk) else { panic!() };
        assert_eq!(kind.uuid(&disk).unwrap(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(kind.label(&disk).unwrap(), "root");
        assert!(!needs_recovery(kind, &disk));
    }
}
