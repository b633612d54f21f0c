//! Two directories, one of them seen through a mount: what is done to both must have the same result.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::mounted::{Mounted, Options};

pub struct Pair {
    pub mounted: Mounted,
    /// What is mounted.
    pub host: PathBuf,
    plain: PathBuf,
    _place: TempDir,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(Options { slots: true, ..Options::default() })
    }

    pub fn with(options: Options) -> Self {
        let place = tempfile::Builder::new().prefix("files-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (host, plain) = (place.path().join("host"), place.path().join("plain"));
        std::fs::create_dir(&host).unwrap();
        std::fs::create_dir(&plain).unwrap();
        Self { mounted: Mounted::new(&host, options), host, plain, _place: place }
    }

    /// Where the share is mounted.
    pub fn guest(&self) -> &Path {
        &self.mounted.path
    }

    /// The other one.
    pub fn plain(&self) -> &Path {
        &self.plain
    }

    /// Does the same to both, and compares.
    pub fn both<R: PartialEq + Debug>(&self, what: impl Fn(&Path) -> R) -> R {
        let plain = what(&self.plain);
        let guest = what(self.guest());
        assert_eq!(guest, plain, "through the mount (left) it is not as on the host (right)");
        guest
    }
}

/// The error number of a result.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

/// The error number of one of nix's.
pub fn number<T>(result: nix::Result<T>) -> i32 {
    result.err().map_or(0, |error| error as i32)
}
