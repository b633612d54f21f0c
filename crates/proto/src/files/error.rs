//! What is wrong with the bytes of the port.

use std::fmt;

use super::MAX_PAYLOAD;

/// Why a byte stream is not the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesError {
    /// A header announced more than [`MAX_PAYLOAD`] bytes.
    TooLong {
        /// Kind byte of that frame.
        kind: u8,
        /// Announced payload length in bytes.
        len: u32,
    },
    /// The payload does not fit the kind of frame.
    Malformed(
        /// Name of the kind.
        &'static str,
    ),
}

impl fmt::Display for FilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { kind, len } => {
                write!(f, "frame of kind {kind} announces {len} bytes, {MAX_PAYLOAD} are allowed")
            }
            Self::Malformed(name) => write!(f, "malformed {name} frame"),
        }
    }
}

impl std::error::Error for FilesError {}
