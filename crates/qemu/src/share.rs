//! Host directories in the guest.

use std::path::PathBuf;

/// A host directory that is mounted in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// 9p mount tag and QEMU id.
    pub tag: String,
    /// Directory on the host.
    pub source: PathBuf,
    /// Absolute path in the guest.
    pub target: PathBuf,
    /// Writes are refused.
    pub read_only: bool,
}
