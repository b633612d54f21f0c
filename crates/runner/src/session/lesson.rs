//! What the first clone of a template teaches for later ones.

use std::fmt;
use std::io;

use super::backing::Backing;
use qemu::Written;

type Keep = dyn FnOnce(&Written) -> io::Result<()>;

/// Keeps the pages that a clone has written until its commands run.
pub struct Lesson(Box<Keep>);

impl Lesson {
    /// `keep` is called once, or never if the commands do not begin.
    pub fn new(keep: impl FnOnce(&Written) -> io::Result<()> + 'static) -> Self {
        Self(Box::new(keep))
    }

    /// The commands run now.
    pub(super) fn learn(self, clone: &Backing) {
        let kept = clone.written().and_then(|written| self.0(&written));
        kept.unwrap_or_else(|error| tracing::debug!("what the clone has written is not kept: {error}"));
    }
}

impl fmt::Debug for Lesson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lesson")
    }
}
