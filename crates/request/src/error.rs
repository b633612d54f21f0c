//! Why something is refused.

use std::fmt;

/// Why a value of an option or a request is refused. The text names the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError(pub(crate) String);

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequestError {}
