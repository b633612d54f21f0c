//! Paths on the command line.

use anyhow::Context;
use request::ImageRef;

/// A relative path starts in the working directory.
pub fn from_here(image: ImageRef) -> anyhow::Result<ImageRef> {
    match image.relative_path() {
        Some(_) => Ok(image.seen_from(&std::env::current_dir().context("the working directory")?)),
        None => Ok(image),
    }
}
