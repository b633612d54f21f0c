//! Trees of files as tar archives: what the agent sends out of a guest, and what images are made of.
//!
//! | file | what |
//! | --- | --- |
//! | `write.rs` | entries to a stream |
//! | `read.rs`, `pax.rs`, `sparse.rs` | any dialect of tar to entries, with bounds on everything (runner) |
//! | `export.rs` | a directory to a stream |
//! | `disk.rs` | a whole disk as a stream, which is no tar archive |
//!
//! The dialect written is POSIX 2001 (pax): long names, numbers of any size, extended attributes.

#![forbid(unsafe_code)]

mod disk;
mod error;
mod export;
mod pax;
mod read;
mod sparse;
mod write;

pub use disk::{read_disk, write_disk};
pub use export::{Export, ExportError};
pub use read::{Reader, Skip};
pub use write::Writer;

/// Size of a tar block in bytes: every part of an archive is a multiple of it.
const BLOCK: usize = 512;

/// One file, directory or other thing in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name. When read: as it is in the archive. When written: relative, without `.` and `..`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds since the epoch.
    pub mtime: u64,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Its name with the namespace, e.g. `security.capability`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of that many bytes, which follow.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link with that target.
    Symlink(Vec<u8>),
    /// Another name of the entry with that path.
    HardLink(Vec<u8>),
    /// A character device, by its major and minor number.
    CharDevice(u32, u32),
    /// A block device, by its major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

impl Kind {
    /// Bytes of content that follow the entry.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(size) => *size,
            _ => 0,
        }
    }
}

/// Bytes after `size` bytes of content up to the next block.
fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// A path or name for a message: short, and without characters that control a terminal.
pub fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).flat_map(char::escape_debug).collect()
}
