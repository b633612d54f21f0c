//! Why nothing was imported, and whether more room would have helped.

use std::fmt;
use std::io;

/// Why an archive could not become an image.
#[derive(Debug)]
pub struct ImportError {
    why: anyhow::Error,
    lacks_room: bool,
}

impl ImportError {
    /// Whether another directory, or more room in this one, would have helped.
    pub fn is_for_lack_of_room(&self) -> bool {
        self.lacks_room
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() { write!(f, "{:#}", self.why) } else { write!(f, "{}", self.why) }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.why.source()
    }
}

impl From<anyhow::Error> for ImportError {
    fn from(why: anyhow::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let mut kinds = why.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
        let lacks_room = kinds.any(|kind| matches!(kind, StorageFull | QuotaExceeded | FileTooLarge));
        Self { why, lacks_room }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_full_disk_is_found_below_other_words_and_a_damaged_archive_is_none() {
        let failed = |kind| ImportError::from(Err::<(), _>(io::Error::from(kind)).context("reading").unwrap_err());
        assert!(failed(io::ErrorKind::StorageFull).is_for_lack_of_room());
        assert!(failed(io::ErrorKind::QuotaExceeded).is_for_lack_of_room());
        assert!(!failed(io::ErrorKind::UnexpectedEof).is_for_lack_of_room());
        let error = failed(io::ErrorKind::StorageFull);
        assert_eq!(format!("{error:#}"), format!("{:#}", anyhow::Error::from(error)));
    }
}
