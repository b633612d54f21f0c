//! Extended attributes of what an O_PATH descriptor refers to.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use libc::c_int;

use super::{FdPath, Result, check, check_long};

/// Length of the value, or the value if the buffer is not empty.
pub(crate) fn get(fd: BorrowedFd<'_>, name: &CStr, to: &mut [u8]) -> Result<usize> {
    let path = FdPath::new(fd);
    // SAFETY: the strings and the buffer live until the call returns; so in all calls below.
    check_long(unsafe { libc::getxattr(path.path().as_ptr(), name.as_ptr(), to.as_mut_ptr().cast(), to.len()) })
}

/// Length of the list of names, or the list if the buffer is not empty.
pub(crate) fn list(fd: BorrowedFd<'_>, to: &mut [u8]) -> Result<usize> {
    let path = FdPath::new(fd);
    // SAFETY: see get.
    check_long(unsafe { libc::listxattr(path.path().as_ptr(), to.as_mut_ptr().cast(), to.len()) })
}

pub(crate) fn set(fd: BorrowedFd<'_>, name: &CStr, value: &[u8], flags: c_int) -> Result<()> {
    let path = FdPath::new(fd);
    let (value, len) = (value.as_ptr().cast(), value.len());
    // SAFETY: see get.
    check(unsafe { libc::setxattr(path.path().as_ptr(), name.as_ptr(), value, len, flags) }).map(drop)
}

pub(crate) fn remove(fd: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // SAFETY: see get.
    check(unsafe { libc::removexattr(FdPath::new(fd).path().as_ptr(), name.as_ptr()) }).map(drop)
}
