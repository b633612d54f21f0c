//! What can go wrong.

use std::fmt;
use std::io;

/// Why there is no network; for the user, in one line.
#[derive(Debug)]
pub struct NetworkError {
    what: String,
    source: Option<io::Error>,
    is_users: bool,
}

impl NetworkError {
    /// With this text; the node is at fault.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None, is_users: false }
    }

    /// With this text; the request cannot be met anywhere.
    pub fn user(what: impl Into<String>) -> Self {
        Self { is_users: true, ..Self::new(what) }
    }

    /// Whether the request cannot be met anywhere.
    pub fn is_users(&self) -> bool {
        self.is_users
    }

    /// The kernel's reason, if it gave one.
    pub(crate) fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for NetworkError {}

/// Says what was being done.
pub(crate) trait Doing<T> {
    /// `what` is followed by the reason.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, NetworkError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError { what: what(), source: Some(source), is_users: false })
    }
}
