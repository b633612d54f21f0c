//! Finds out what a file holds by its first bytes: names and extensions may lie.
//!
//! Only looks at bytes that were read; nothing is mounted, unpacked or given to QEMU. So a file that could
//! lead QEMU to other files (a backing file, an external data file) is recognised before QEMU opens it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How many first bytes are needed to recognise a file: the superblock of btrfs lies at 64 KiB.
pub const HEAD: usize = 68 << 10;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// No bytes at all.
    Empty,
    /// A squashfs file system.
    Squashfs,
    /// An erofs file system.
    Erofs,
    /// An ext2, ext3 or ext4 file system.
    Ext {
        /// Which of them: 2, 3 or 4.
        version: u8,
        /// It was not unmounted: its journal must be replayed, which needs write access.
        needs_recovery: bool,
    },
    /// An xfs file system.
    Xfs,
    /// A btrfs file system.
    Btrfs {
        /// How many disks it is spread over.
        devices: u64,
    },
    /// A FAT file system.
    Fat,
    /// A file system of Windows.
    Ntfs,
    /// A file system of CDs and DVDs.
    Iso9660,
    /// A disk in QEMU's format.
    Qcow2(Qcow2),
    /// A disk in VirtualBox's format.
    Vdi,
    /// A disk in VMware's format.
    Vmdk(Vmdk),
    /// A disk in Microsoft's formats VHD or VHDX.
    Vhd,
    /// A disk with a partition table.
    Partitioned(Partitions),
    /// A LUKS-encrypted disk.
    Luks,
    /// A physical volume of the logical volume manager.
    LvmVolume,
    /// Swap space.
    Swap,
    /// A tar archive; VirtualBox's ova is one.
    Tar,
    /// A container of Apptainer or Singularity.
    Sif,
    /// A zip archive.
    Zip,
    /// Data compressed by this program.
    Compressed(Compression),
    /// None of these.
    Unknown,
}

/// The header of a qcow2 disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Qcow2 {
    /// 2 or 3; 1 is the format before qcow2.
    pub version: u32,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_bytes: u64,
    /// It is a layer over another file.
    pub has_backing_file: bool,
    /// Its data is in another file.
    pub has_data_file: bool,
    /// Its data is encrypted.
    pub is_encrypted: bool,
    /// QEMU found it damaged and refuses to write to it.
    pub is_corrupt: bool,
    /// Where its first table ends, in bytes: a shorter file is truncated.
    table_end: u64,
}

/// Kinds of VMware's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vmdk {
    /// A disk that grows, all in one file.
    Sparse,
    /// The compressed form that ova archives hold.
    Stream,
    /// A text that names the files with the data.
    Descriptor,
}

/// Kinds of partition tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitions {
    /// The PC's old one.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// Compressors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // names of programs
pub enum Compression {
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Compression {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// A file's kind and whether all of it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// What it holds.
    pub content: Content,
    /// Its length in bytes.
    pub bytes: u64,
    /// The least length in bytes that it must have, by its own header.
    pub least_bytes: Option<u64>,
}

impl Probe {
    /// Looks at the beginning of `file`. The position of the file does not matter and stays as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(file: &File) -> io::Result<Self> {
        let mut head = vec![0; HEAD];
        let mut filled = 0;
        while filled < HEAD {
            match file.read_at(&mut head[filled..], filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::of_head(&head[..filled], file.metadata()?.len()))
    }

    /// The same for a file of `bytes` bytes that begins with `head` (up to [`HEAD`] bytes of it).
    pub fn of_head(head: &[u8], bytes: u64) -> Self {
        let head = Head(head);
        let (content, least_bytes) = match bytes {
            0 => (Content::Empty, None),
            // Containers first: bytes inside a disk may look like a file system at the same offset.
            _ => container(head)
                .or_else(|| partitions(head).map(|it| (it, None)))
                .or_else(|| file_system(head))
                .unwrap_or((Content::Unknown, None)),
        };
        Self { content, bytes, least_bytes }
    }

    /// How many bytes are missing at its end, if it is truncated.
    pub fn missing_bytes(&self) -> Option<u64> {
        self.least_bytes.and_then(|least| least.checked_sub(self.bytes)).filter(|&missing| missing > 0)
    }
}

/// The first bytes of a file; a read behind their end finds nothing.
#[derive(Clone, Copy)]
struct Head<'a>(&'a [u8]);

impl Head<'_> {
    fn has(self, at: usize, magic: &[u8]) -> bool {
        self.0.get(at..at + magic.len()) == Some(magic)
    }

    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }

    fn le16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn le32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn le64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn be32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn be64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_be_bytes)
    }
}

type Found = Option<(Content, Option<u64>)>;

fn container(head: Head<'_>) -> Found {
    let content = if head.has(0, b"QFI\xfb") {
        let disk = qcow2(head)?;
        return Some((Content::Qcow2(disk), Some(disk.table_end)));
    } else if head.has(0x40, &0xbeda_107f_u32.to_le_bytes()) {
        Content::Vdi
    } else if head.has(0, b"KDMV") {
        // Flag 16: grains are compressed, as in streamOptimized disks.
        let compressed = head.le32(8).is_some_and(|flags| flags & (1 << 16) != 0);
        Content::Vmdk(if compressed { Vmdk::Stream } else { Vmdk::Sparse })
    } else if head.has(0, b"COWD") {
        Content::Vmdk(Vmdk::Sparse)
    } else if head.has(0, b"# Disk DescriptorFile") {
        Content::Vmdk(Vmdk::Descriptor)
    } else if head.has(0, b"vhdxfile") || head.has(0, b"conectix") {
        Content::Vhd
    } else if head.has(0, b"LUKS\xba\xbe") {
        Content::Luks
    } else if (0..4).any(|sector| head.has(sector * 512, b"LABELONE")) {
        Content::LvmVolume
    } else if head.has(32, b"SIF_MAGIC") {
        Content::Sif
    } else if head.has(257, b"ustar") {
        Content::Tar
    } else if head.has(0, b"PK\x03\x04") {
        Content::Zip
    } else if head.has(0, &[0x1f, 0x8b]) {
        Content::Compressed(Compression::Gzip)
    } else if head.has(0, b"\xfd7zXZ\0") {
        Content::Compressed(Compression::Xz)
    } else if head.has(0, &0xfd2f_b528_u32.to_le_bytes()) {
        Content::Compressed(Compression::Zstd)
    } else if head.has(0, b"BZh") {
        Content::Compressed(Compression::Bzip2)
    } else {
        return None;
    };
    Some((content, None))
}

/// Reads the header as docs/interop/qcow2.txt of QEMU describes it.
fn qcow2(head: Head<'_>) -> Option<Qcow2> {
    let version = head.be32(4)?;
    let features = if version >= 3 { head.be64(72)? } else { 0 };
    let table_bytes = u64::from(head.be32(36)?) * 8;
    Some(Qcow2 {
        version,
        virtual_bytes: head.be64(24)?,
        has_backing_file: head.be64(8)? != 0,
        has_data_file: features & 1 << 2 != 0,
        is_encrypted: head.be32(32)? != 0,
        is_corrupt: features & 1 << 1 != 0,
        table_end: head.be64(40)?.saturating_add(table_bytes),
    })
}

fn partitions(head: Head<'_>) -> Option<Content> {
    if head.has(512, b"EFI PART") || head.has(4096, b"EFI PART") {
        return Some(Content::Partitioned(Partitions::Gpt));
    }
    if !head.has(510, &[0x55, 0xaa]) {
        return None;
    }
    // Boot sectors of file systems have the same mark, but code or zeros in the place of a table.
    let entries: Vec<[u8; 16]> = (0..4).filter_map(|number| head.array(446 + 16 * number)).collect();
    let is_sound = |entry: &[u8; 16]| {
        let sectors = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
        entry[0] & 0x7f == 0 && (entry[4] == 0 || sectors > 0)
    };
    let is_table = entries.iter().all(is_sound) && entries.iter().any(|entry| entry[4] != 0);
    (is_table && !head.has(3, b"NTFS    ") && !is_fat(head)).then_some(Content::Partitioned(Partitions::Mbr))
}

fn is_fat(head: Head<'_>) -> bool {
    head.has(54, b"FAT") || head.has(82, b"FAT32")
}

fn file_system(head: Head<'_>) -> Found {
    const BTRFS: usize = 64 << 10;
    const EROFS: usize = 1 << 10;
    if head.has(0, b"hsqs") {
        return Some((Content::Squashfs, head.le64(40)));
    }
    if head.has(EROFS, &0xe0f5_e1e2_u32.to_le_bytes()) {
        let (shift, blocks) = (u32::from(*head.0.get(EROFS + 12)?), u64::from(head.le32(EROFS + 36)?));
        return Some((Content::Erofs, blocks.checked_shl(shift)));
    }
    if head.has(0, b"XFSB") {
        return Some((Content::Xfs, head.be64(8)?.checked_mul(u64::from(head.be32(4)?))));
    }
    if let Some(found) = ext(head) {
        return Some(found);
    }
    if head.has(BTRFS + 0x40, b"_BHRfS_M") {
        let devices = head.le64(BTRFS + 0x88)?;
        let bytes = head.le64(BTRFS + 0x70).filter(|_| devices == 1);
        return Some((Content::Btrfs { devices }, bytes));
    }
    let content = if head.has(3, b"NTFS    ") {
        Content::Ntfs
    } else if head.has(510, &[0x55, 0xaa]) && is_fat(head) {
        Content::Fat
    } else if head.has(0x8001, b"CD001") {
        Content::Iso9660
    } else if head.has(4086, b"SWAPSPACE2") {
        Content::Swap
    } else {
        return None;
    };
    Some((content, None))
}

fn ext(head: Head<'_>) -> Found {
    const SUPER: usize = 1 << 10;
    const JOURNAL: u32 = 0x4;
    const RECOVER: u32 = 0x4;
    const EXTENTS: u32 = 0x40;
    const BITS_64: u32 = 0x80;
    let (inodes, low, shift) = (head.le32(SUPER)?, head.le32(SUPER + 4)?, head.le32(SUPER + 24)?);
    // The magic number has only 16 bits, so these fields are checked too.
    if head.le16(SUPER + 56)? != 0xef53 || inodes == 0 || low == 0 || shift > 6 {
        return None;
    }
    let (compatible, incompatible) = (head.le32(SUPER + 92)?, head.le32(SUPER + 96)?);
    let high = if incompatible & BITS_64 != 0 { head.le32(SUPER + 0x150)? } else { 0 };
    let version = match (incompatible & (EXTENTS | BITS_64) != 0, compatible & JOURNAL != 0) {
        (true, _) => 4,
        (false, true) => 3,
        (false, false) => 2,
    };
    let blocks = u64::from(high) << 32 | u64::from(low);
    let content = Content::Ext { version, needs_recovery: incompatible & RECOVER != 0 };
    Some((content, blocks.checked_mul(1024 << shift)))
}

/// In words that fit "the file holds …".
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("nothing"),
            Self::Squashfs => f.write_str("a squashfs file system"),
            Self::Erofs => f.write_str("an erofs file system"),
            Self::Ext { version, .. } => write!(f, "an ext{version} file system"),
            Self::Xfs => f.write_str("an xfs file system"),
            Self::Btrfs { .. } => f.write_str("a btrfs file system"),
            Self::Fat => f.write_str("a FAT file system"),
            Self::Ntfs => f.write_str("a file system of Windows (NTFS)"),
            Self::Iso9660 => f.write_str("a CD or DVD (ISO 9660)"),
            Self::Qcow2(Qcow2 { version: 1, .. }) => f.write_str("a disk in QEMU's old format (qcow, not qcow2)"),
            Self::Qcow2(_) => f.write_str("a qcow2 disk"),
            Self::Vdi => f.write_str("a disk of VirtualBox (vdi)"),
            Self::Vmdk(Vmdk::Descriptor) => f.write_str("the description of a disk of VMware (vmdk) without its data"),
            Self::Vmdk(_) => f.write_str("a disk of VMware (vmdk)"),
            Self::Vhd => f.write_str("a disk of Hyper-V (vhd, vhdx)"),
            Self::Partitioned(Partitions::Mbr) => f.write_str("a disk with a partition table (MBR)"),
            Self::Partitioned(Partitions::Gpt) => f.write_str("a disk with a partition table (GPT)"),
            Self::Luks => f.write_str("an encrypted disk (LUKS)"),
            Self::LvmVolume => f.write_str("a volume of the logical volume manager (LVM)"),
            Self::Swap => f.write_str("swap space"),
            Self::Tar => f.write_str("a tar archive"),
            Self::Sif => f.write_str("a container (sif)"),
            Self::Zip => f.write_str("a zip archive"),
            Self::Compressed(with) => write!(f, "data compressed with {}", with.program()),
            Self::Unknown => f.write_str("nothing that is known here"),
        }
    }
}

#[cfg(test)]
mod tests;
