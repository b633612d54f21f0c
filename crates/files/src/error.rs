//! Why the server cannot go on.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the server cannot go on. Errors of single requests go to the guest and are not here.
#[derive(Debug)]
pub enum ServeError {
    /// The runner's messages end early or are none of ours.
    Control(
        /// What happened.
        io::Error,
    ),
    /// A share cannot be opened: its owner's fault, or the node's.
    Share {
        /// Its path on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The port cannot be read or written.
    Port(
        /// Why.
        io::Error,
    ),
    /// The guest does not speak the protocol.
    Guest(
        /// What it sent.
        proto::files::FilesError,
    ),
    /// The guest's courier speaks another version: its kit is of another release.
    Version {
        /// The courier's version.
        guest: u16,
    },
    /// The process cannot be prepared: the node's fault.
    Process {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(_) => f.write_str("file server: the runner's description of the shares is not complete"),
            Self::Share { path, .. } => write!(f, "cannot share {}", path.display()),
            Self::Port(_) => f.write_str("file server: cannot use the port to the guest"),
            Self::Guest(_) => f.write_str("file server: the guest sends nonsense"),
            Self::Version { guest } => write!(
                f,
                "file server: the guest speaks version {guest}, this is version {}: make the kit again with 'spank-vm kit build'",
                proto::files::VERSION
            ),
            Self::Process { what, .. } => write!(f, "file server: cannot {what}"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Control(source) | Self::Port(source) => Some(source),
            Self::Share { source, .. } | Self::Process { source, .. } => Some(source),
            Self::Guest(source) => Some(source),
            Self::Version { .. } => None,
        }
    }
}
