//! What can go wrong in the guest, as one sentence each.

use std::fmt;

use nix::errno::Errno;

use proto::ProtoError;

/// Why the agent could not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentError {
    /// The kernel refused.
    Os {
        /// What was attempted, as "cannot …" continues it.
        doing: String,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Something in the image, the kit or the task is wrong.
    Unfit(String),
    /// The runner sent something that makes no sense.
    Protocol(ProtoError),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os { doing, errno } => write!(f, "cannot {doing}: {}", errno.desc()),
            Self::Unfit(why) => f.write_str(why),
            Self::Protocol(error) => write!(f, "the runner does not speak the protocol: {error}"),
        }
    }
}

impl std::error::Error for AgentError {}

impl From<ProtoError> for AgentError {
    fn from(error: ProtoError) -> Self {
        Self::Protocol(error)
    }
}

/// Adds to an error what was attempted.
pub(super) trait Doing<T> {
    /// `what` continues "cannot …", e.g. `mount /dev/vda`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, AgentError>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, AgentError> {
        self.map_err(|errno| AgentError::Os { doing: what(), errno })
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, AgentError> {
        self.map_err(|error| AgentError::Os {
            doing: what(),
            errno: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        })
    }
}
