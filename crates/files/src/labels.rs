//! Labels that the host's security modules give to files: for a guest they are not there.

use std::os::fd::BorrowedFd;

use proto::files::is_label;

use super::sys::{Result, xattr};

/// The kernel's own limit of a list of names.
const LIST_MAX: usize = 64 * 1024;

/// Bytes of names that may have come since their length was asked for.
const MORE: usize = 256;

/// The names of a file's attributes, each with a zero behind it. Labels are left out: who copies a file with all that is
/// listed must not fail for one that cannot be had.
pub(crate) fn names(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let len = xattr::list(fd, &mut [])?;
    if len == 0 {
        return Ok(Vec::new());
    }
    let mut names = vec![0; (len + MORE).min(LIST_MAX)];
    let len = xattr::list(fd, &mut names)?;
    names.truncate(len);
    let is_there = |name: &&[u8]| !is_label(name.strip_suffix(b"\0").unwrap_or(name));
    Ok(names.split_inclusive(|byte| *byte == 0).filter(is_there).collect::<Vec<_>>().concat())
}
