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

/// Reads `parts` from the byte `at` on, as much as `to` takes.
pub(crate) fn read(pid: c_int, parts: &[Part], at: usize, to: &mut [u8]) -> Result<()> {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let (remote, count) = remote(parts, at, to.len())?;
    // SAFETY: the local range is the buffer; the remote ranges are of another process, and the kernel checks them.
    let rc = unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), count as u64, 0) };
    whole(check_long(rc)?, to.len())
}

/// Writes `data` to `parts` from the byte `at` on.
pub(crate) fn write(pid: c_int, parts: &[Part], at: usize, data: &[u8]) -> Result<()> {
    let local = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let (remote, count) = remote(parts, at, data.len())?;
    // SAFETY: as in read; the kernel only reads the local range.
    let rc = unsafe { libc::process_vm_writev(pid, &raw const local, 1, remote.as_ptr(), count as u64, 0) };
    whole(check_long(rc)?, data.len())
}

/// `len` bytes of `parts` from the byte `skip` on, as the kernel wants them.
fn remote(parts: &[Part], mut skip: usize, mut len: usize) -> Result<([libc::iovec; PARTS_MAX / 4], usize)> {
    let mut ranges = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS_MAX / 4];
    let mut count = 0;
    for part in parts {
        if len == 0 {
            break;
        }
        if skip >= part.len {
            skip -= part.len;
            continue;
        }
        let range = ranges.get_mut(count).ok_or(Errno(libc::EINVAL))?;
        let (start, rest) = (part.address.wrapping_add(skip as u64), part.len - skip);
        *range = libc::iovec { iov_base: start as *mut libc::c_void, iov_len: rest.min(len) };
        skip = 0;
        len -= range.iov_len;
        count += 1;
    }
    if len == 0 { Ok((ranges, count)) } else { Err(Errno(libc::EINVAL)) }
}

/// A transfer that ends early met memory that is not there.
fn whole(done: usize, wanted: usize) -> Result<()> {
    if done == wanted { Ok(()) } else { Err(Errno(libc::EFAULT)) }
}
