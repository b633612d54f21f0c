//! The memory of another process.

#![allow(unsafe_code)]

use libc::c_int;

use super::{Errno, Result, check_long};

/// A part of the other process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) len: usize,
}

/// Ranges that the kernel takes in one call.
const PARTS_MAX: usize = 1024;

/// Reads the beginning of `parts`, as much as `to` takes.
pub(crate) fn read(pid: c_int, parts: &[Part], to: &mut [u8]) -> Result<()> {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let (remote, count) = remote(parts, to.len())?;
    // SAFETY: the local range is the buffer; the remote ranges are of another process, and the kernel checks them.
    let rc = unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), count as u64, 0) };
    whole(check_long(rc)?, to.len())
}

/// Writes `data` to the beginning of `parts`.
pub(crate) fn write(pid: c_int, parts: &[Part], data: &[u8]) -> Result<()> {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let (remote, count) = remote(parts, data.len())?;
    // SAFETY: as in read; the kernel only reads the local range.
    let rc = unsafe { libc::process_vm_writev(pid, &raw const local, 1, remote.as_ptr(), count as u64, 0) };
    whole(check_long(rc)?, data.len())
}

/// The first `len` bytes of `parts` as the kernel wants them.
fn remote(parts: &[Part], mut len: usize) -> Result<([libc::iovec; PARTS_MAX / 4], usize)> {
    let mut ranges = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS_MAX / 4];
    let mut count = 0;
    for part in parts {
        if len == 0 {
            break;
        }
        let range = ranges.get_mut(count).ok_or(Errno(libc::EINVAL))?;
        *range = libc::iovec { iov_base: part.address as *mut libc::c_void, iov_len: part.len.min(len) };
        len -= range.iov_len;
        count += 1;
    }
    if len == 0 { Ok((ranges, count)) } else { Err(Errno(libc::EINVAL)) }
}

/// A transfer that ends early met memory that is not there.
fn whole(done: usize, wanted: usize) -> Result<()> {
    if done == wanted { Ok(()) } else { Err(Errno(libc::EFAULT)) }
}
