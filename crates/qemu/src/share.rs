//! Directories and files of the host in the guest.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Most shares of a VM over 9p: each is a device of its own, and the bus has room for 31 with all others.
pub const MAX_NINE_P_SHARES: usize = 24;

/// A directory or a file of the host that is mounted in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// 9p mount tag and QEMU id.
    pub tag: String,
    /// Directory or file on the host.
    pub source: PathBuf,
    /// Absolute path in the guest.
    pub target: PathBuf,
    /// Writes are refused.
    pub read_only: bool,
    /// The source is a single file.
    pub is_file: bool,
}

impl Share {
    /// The directory that is served, and the name of the one file in it that is shared; an empty name is all of it.
    pub fn served(&self) -> (&Path, &OsStr) {
        match (self.source.parent(), self.source.file_name()) {
            (Some(parent), Some(name)) if self.is_file => (parent, name),
            _ => (&self.source, OsStr::new("")),
        }
    }
}
