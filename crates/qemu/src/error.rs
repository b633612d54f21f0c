//! Errors of this crate: always a file, a program or a system call, and what it was needed for. The callers know whose
//! fault it is.

use std::fmt;
use std::io;

/// `Display` says what was needed; the source is the system's reason, if there is one.
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

    /// The system's reason, if there is one.
    pub fn reason(&self) -> Option<&io::Error> {
        self.source.as_ref()
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

/// Adds what a system operation was needed for.
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
