//! What an import is told.

use std::path::PathBuf;

use crate::entry::ImageEntry;
use request::ImageName;

/// What to import and as what.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Name of the new image.
    pub name: ImageName,
    /// Directory that gets the disk and the entry.
    pub dir: PathBuf,
    /// One line for people.
    pub description: String,
    /// More words for the guest kernel's command line.
    pub append: String,
    /// Replace an image of that name.
    pub replace: bool,
    /// Entry of an image that this one is made of: whatever else it says holds for the new one.
    pub inherits: Option<ImageEntry>,
    /// Processor architecture of its programs, instead of what they tell themselves.
    pub arch: Option<String>,
    /// Most bytes that the files of the image may have together.
    pub max_bytes: u64,
}
