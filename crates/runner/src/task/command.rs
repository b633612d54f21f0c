//! The command of a task, as its caller names it.

use std::ffi::OsString;
use std::path::PathBuf;

/// The words of a command, and where its file is.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Program and arguments; none is an error.
    pub argv: Vec<OsString>,
    /// `argv[0]` is a batch script that exists on the host only.
    pub batch_script: bool,
    /// Path of that script in the guest, if it is another one.
    pub script_path: Option<PathBuf>,
}

impl From<Vec<OsString>> for Command {
    fn from(argv: Vec<OsString>) -> Self {
        Self { argv, ..Self::default() }
    }
}
