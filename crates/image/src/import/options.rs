//! The options of an import.

use std::path::PathBuf;

use crate::entry::ImageEntry;
use request::ImageName;

/// What to import, and under which name.
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
    /// Entry of the image that this one is made from: its other keys also apply to the new one.
    pub inherits: Option<ImageEntry>,
    /// Processor architecture of its programs, instead of the one found in the programs.
    pub arch: Option<String>,
    /// Limit for the bytes of all files of the image together.
    pub max_bytes: u64,
}
