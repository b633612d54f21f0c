//! Why a copy could not be made; kept on its shelf for later tasks that want it.

use node::shelf::{ImageCopy, Shelf};

/// Why a copy could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The image itself must not be used.
    pub fatal: bool,
    /// One line.
    pub why: String,
}

impl Failure {
    /// Notes that the copy cannot be made from this source file.
    pub fn note(&self, shelf: &Shelf<ImageCopy>, digest: &str, source: &str) {
        shelf.note_failure(digest, &format!("{}\n{source}\n{}", self.fatal, self.why));
    }

    /// Why making it from this source file failed, if that was a short while ago.
    pub fn recent(shelf: &Shelf<ImageCopy>, digest: &str, source: &str) -> Option<Self> {
        let text = shelf.recent_failure(digest)?;
        let mut lines = text.splitn(3, '\n');
        let (fatal, of, why) = (lines.next()?, lines.next()?, lines.next()?);
        if of != source {
            shelf.forget_failure(digest);
            return None;
        }
        Some(Self { fatal: fatal == "true", why: why.to_owned() })
    }
}
