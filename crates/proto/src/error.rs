//! What is wrong with a byte stream.

use std::fmt;

use super::MAX_PAYLOAD;

/// Why a byte stream is not the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtoError {
    /// A header announced more than [`MAX_PAYLOAD`] bytes.
    TooLong {
        /// Kind byte of that frame.
        kind: u8,
        /// Announced payload length in bytes.
        len: u32,
    },
    /// A kind byte that no message in this direction has.
    UnknownKind(u8),
    /// The payload does not fit the kind of message.
    Malformed {
        /// Name of the message.
        message: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The peer sent more than the window allows.
    WindowExceeded {
        /// The stream byte.
        stream: u8,
    },
    /// A valid message at a time when it makes no sense.
    OutOfOrder(&'static str),
}

impl fmt::Display for ProtoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { kind, len } => {
                write!(f, "frame of kind {kind} announces {len} bytes, {MAX_PAYLOAD} are allowed")
            }
            Self::UnknownKind(kind) => write!(f, "frame of unknown kind {kind}"),
            Self::Malformed { message, why } => write!(f, "malformed {message} message: {why}"),
            Self::WindowExceeded { stream } => write!(f, "stream {stream} sent more than its window"),
            Self::OutOfOrder(message) => write!(f, "unexpected {message} message"),
        }
    }
}

impl std::error::Error for ProtoError {}
