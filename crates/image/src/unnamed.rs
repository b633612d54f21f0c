//! Files without a name: whatever process is killed, nothing is left over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names that are tried where a file must have one for a moment; a killed process may have left some.
const TRIES: u32 = 100;

/// An empty file without a name in `dir`, readable and writable.
///
/// Where the file system has no such files (NFS, overlays of some kernels), it has a name until it is open.
///
/// # Errors
/// When `dir` cannot be written.
pub fn unnamed_file(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(dir) {
        Err(error) if says_there_are_none(&error) => {
            named_for_a_moment(options.create_new(true).custom_flags(libc::O_NOFOLLOW), dir)
        }
        other => other,
    }
}

/// Whether an error of `O_TMPFILE` says that the file system has no files without a name. `EISDIR`: a kernel that does not know the
/// flag tries to open the directory. `EINVAL`: some file systems' word.
pub(crate) fn says_there_are_none(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL))
}

fn named_for_a_moment(options: &OpenOptions, dir: &Path) -> io::Result<File> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..TRIES {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".spank-vm.{}.{number}.partial", std::process::id()));
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Ok(file) => return fs::remove_file(&path).map(|()| file),
            error => return error,
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_has_no_name_with_and_without_the_kernel_s_help() {
        let dir = tempfile::tempdir().unwrap();
        let mut plain = OpenOptions::new();
        plain.read(true).write(true).create_new(true).mode(0o600);
        for made in [unnamed_file(dir.path()), named_for_a_moment(&plain, dir.path())] {
            let mut file = made.unwrap();
            file.write_all(b"text").unwrap();
            file.rewind().unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), file.metadata().unwrap().nlink()), ("text", 0));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        let missing = unnamed_file(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
