//! Images: named guest operating systems.
//!
//! An image is an entry `NAME.toml` in one of the site's image directories, beside or pointing to
//! its disk. Images are read-only and are never copied for a job.

#![forbid(unsafe_code)]

mod catalogue;
mod entry;
pub mod import;
mod links;
mod place;
mod staged;

pub use catalogue::{Catalogue, Image, ImageError};
pub use entry::{BootMode, DiskBus, DiskFormat, FullBootEntry, ImageEntry};
pub use import::{DEFAULT_MAX_BYTES, ImportOptions, Imported, import, packer_exists, runs_here};
pub use links::Links;
pub use place::NewImage;
pub use staged::{Staged, clean_up_on_signals};
