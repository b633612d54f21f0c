//! What is wrong with an archive, in one sentence.

use std::io;

/// `why` continues "the archive …".
pub(super) fn damaged(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive {why}"))
}
