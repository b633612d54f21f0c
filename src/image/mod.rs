//! Images: named guest operating systems.
//!
//! An image is an entry `NAME.toml` in one of the site's image directories, beside or pointing to
//! its disk. Images are read-only and are never copied for a job.

#![forbid(unsafe_code)]

mod catalogue;
mod entry;
mod import;
mod links;
mod place;
mod staged;

pub use catalogue::{Catalogue, Image, ImageError};
pub use entry::{DiskFormat, ImageEntry};
pub use import::{ImportOptions, import, packer_exists};
pub use links::Links;
pub use place::NewImage;
