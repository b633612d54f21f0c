//! What this crate fails with: always a file, a program or a system call, and what it was wanted for. Whose fault that
//! is, its users know.

use std::fmt;
use std::io;

/// `Display` says what was wanted; its source is the system's reason, where there is one.
#[derive(Debug)]
pub struct QemuError {
    what: String,
    source: Option<io::Error>,
}

impl QemuError {
    /// Something is not as it must be.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }
}

impl fmt::Display for QemuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for QemuError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// Says what an operation of the system was wanted for.
pub(crate) trait WantedFor<T> {
    /// The same error with `what`.
    ///
    /// # Errors
    /// The same.
    fn wanted_for(self, what: impl FnOnce() -> String) -> Result<T, QemuError>;
}

impl<T, E: Into<io::Error>> WantedFor<T> for Result<T, E> {
    fn wanted_for(self, what: impl FnOnce() -> String) -> Result<T, QemuError> {
        self.map_err(|error| QemuError { what: what(), source: Some(error.into()) })
    }
}
