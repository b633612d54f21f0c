//! A VM's private disk: a file without a name, so that no killed process can leave it over.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::unistd::Whence;

use super::error::{QemuError, WantedFor};
use image::unnamed_file;

/// Makes a copy of `original` (the kit's empty file system, or a template's) without a name in `dir`.
///
/// The file system is sparse: only the few hundred KiB that hold data are copied, so the cost does
/// not depend on its size.
///
/// # Errors
/// When `dir` cannot be written or is full.
pub fn create(original: &File, dir: &Path) -> Result<File, QemuError> {
    unnamed_file(dir)
        .and_then(|disk| copy_sparse(original, &disk).map(|()| disk))
        .wanted_for(|| format!("no private disk can be made in {} ('scratch_dir')", dir.display()))
}

/// Copies what holds data; `target` is empty.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_sparse(source: &File, target: &File) -> io::Result<()> {
    target.set_len(source.metadata()?.len())?;
    let mut buf = vec![0; 256 * 1024];
    for extent in data_extents(source)? {
        let mut position = extent.start;
        while position < extent.end {
            let wanted = buf.len().min((extent.end - position) as usize);
            let n = source.read_at(&mut buf[..wanted], position)?;
            if n == 0 {
                return Ok(());
            }
            // Extents are not always punched where a block is all zeros.
            if buf[..n].iter().any(|&byte| byte != 0) {
                target.write_all_at(&buf[..n], position)?;
            }
            position += n as u64;
        }
    }
    Ok(())
}

/// The parts of a file that hold data, in order.
///
/// # Errors
/// When the file system does not answer.
pub fn data_extents(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut extents = Vec::new();
    let mut position = 0;
    while let Some(start) = seek(file, position, Whence::SeekData)? {
        let end = seek(file, start, Whence::SeekHole)?.unwrap_or(start);
        if end <= start {
            break;
        }
        extents.push(start..end);
        position = end;
    }
    Ok(extents)
}

/// The next data or hole at or after `from`; `None` after the last.
fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    match nix::unistd::lseek(file, from as libc::off_t, whence) {
        Ok(at) => Ok(Some(at as u64)),
        Err(nix::errno::Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_is_equal_sparse_and_has_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("template");
        let file = File::create(&template).unwrap();
        file.set_len(1 << 30).unwrap();
        for (offset, text) in [(0, b"head"), (700 << 20, b"midd"), ((1 << 30) - 4, b"tail")] {
            file.write_all_at(text, offset).unwrap();
        }
        let copy = create(&File::open(&template).unwrap(), dir.path()).unwrap();
        let meta = copy.metadata().unwrap();
        assert_eq!((meta.len(), meta.nlink()), (1 << 30, 0));
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let mut found = [0; 4];
        copy.read_exact_at(&mut found, 700 << 20).unwrap();
        assert_eq!(&found, b"midd");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let original = tempfile::tempfile().unwrap();
        let error = format!("{:#}", create(&original, Path::new("/nonexistent")).unwrap_err());
        assert!(error.contains("/nonexistent") && error.contains("scratch_dir"), "{error}");
    }
}
