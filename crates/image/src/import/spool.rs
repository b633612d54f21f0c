//! A file without a name, for data that must be read twice but arrives only once.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;

use super::progress::Progress;
use crate::unnamed::unnamed_file;

/// The file. It has no name, so nothing is left over when a process dies.
#[derive(Debug)]
pub struct Spool {
    file: File,
}

impl Spool {
    /// An empty file in `dir`, which needs room for the image anyway.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)
            .and_then(|()| unnamed_file(dir))
            .map(|file| Self { file })
            .with_context(|| format!("the image directory {} cannot be written", dir.display()))
    }

    /// A file with everything that `content` yields.
    ///
    /// # Errors
    /// When it cannot be read or the disk is full.
    pub fn filled(self, content: &mut dyn Read, progress: &Progress) -> io::Result<Self> {
        progress.wait("reading");
        io::copy(content, &mut &self.file).map_err(|error| match error.raw_os_error() {
            Some(libc::EFBIG) => {
                io::Error::new(io::ErrorKind::FileTooLarge, "the archive grew beyond the limit for files (ulimit -f)")
            }
            _ => error,
        })?;
        Ok(self)
    }

    /// Another handle of the same file.
    ///
    /// # Errors
    /// When there are no more file descriptors.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}
