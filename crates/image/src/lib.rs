//! Images: named guest operating systems.
//!
//! An image is an entry `NAME.toml` in one of the catalogue's directories, beside or pointing to
//! its disk, or a disk file that a user names. Images are read-only.

// println! and eprintln! panic when the reader has left.
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![forbid(unsafe_code)]

pub mod allow;
mod catalogue;
pub mod digest;
mod dirs;
mod entry;
mod fitness;
mod format;
pub mod import;
pub mod kit;
mod links;
pub mod mistake;
mod new_image;
pub mod probe;
pub mod slim;
mod staged;
mod unnamed;
pub mod whole;

pub use catalogue::{Catalogue, Image, ImageError};
pub use dirs::{ImageDir, Owner, Person, check_pattern};
pub use entry::{BootMode, DiskBus, FullBootEntry, ImageEntry};
pub use format::DiskFormat;
pub use import::{DEFAULT_MAX_BYTES, ImportError, ImportOptions, Imported, import, packer_exists, runs_here};
pub use links::Links;
pub use new_image::NewImage;
pub use staged::{Staged, StagedDir, clean_up_on_signals};
pub use unnamed::unnamed_file;
