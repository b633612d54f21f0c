//! One pass over an image's disk: its bytes to the copy, their digest on the way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::super::signals::{Signal, is_fatal};
use super::terms::CopyTerms;
use crate::notice;
use image::digest::hex;

/// Bytes read at once: central file systems are fast with large requests.
const BLOCK: usize = 1 << 20;

/// How a pass ended.
#[derive(Debug)]
pub enum Pass {
    /// With the whole disk.
    Complete {
        /// Its digest.
        sha256: String,
        /// How many bytes were read, each once.
        bytes: u64,
    },
    /// The deadline passed.
    TooSlow,
    /// A signal came that ends the task.
    Interrupted(Signal),
}

/// Which side failed.
#[derive(Debug)]
pub enum CopyError {
    /// The image cannot be read, also not in place.
    Source(io::Error),
    /// The copy cannot be written.
    Target(io::Error),
}

/// Copies `source` from its beginning to its end. Blocks of zeros become holes.
///
/// # Errors
/// When a side fails.
pub fn copy(
    source: &File,
    target: &File,
    deadline: Instant,
    terms: &CopyTerms<'_>,
    name: &str,
) -> Result<Pass, CopyError> {
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut notice_at = terms.notice_at;
    let mut bytes = 0;
    loop {
        let n = match source.read_at(&mut block, bytes) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Source(error)),
        };
        hash.update(&block[..n]);
        if block[..n].iter().any(|&byte| byte != 0) {
            target.write_all_at(&block[..n], bytes).map_err(CopyError::Target)?;
        }
        bytes += n as u64;
        let now = Instant::now();
        if notice_at.is_some_and(|moment| now >= moment) {
            notice_at = None;
            notice::line(&format!("{name} is copied to this node … (first use here, later starts are fast)"));
        }
        if now >= deadline {
            return Ok(Pass::TooSlow);
        }
        while let Some(signal) = terms.signals.next() {
            if is_fatal(signal) {
                return Ok(Pass::Interrupted(signal));
            }
        }
    }
    target.set_len(bytes).map_err(CopyError::Target)?;
    Ok(Pass::Complete { sha256: hex(&hash.finalize()), bytes })
}
