//! Data of open files.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::{c_int, off64_t};

use super::{Errno, Result, check, check_long};

/// `pread`: fewer bytes than asked for only at the end of the file. An error that comes later is one of all: a guest's kernel
/// takes a short answer for the end.
pub(crate) fn pread(fd: BorrowedFd<'_>, to: &mut [u8], offset: i64) -> Result<usize> {
    let mut done = 0;
    while done < to.len() {
        let rest = &mut to[done..];
        let at = offset.checked_add(done as i64).ok_or(Errno(libc::EINVAL))?;
        // SAFETY: the buffer lives until the call returns and has that length.
        match check_long(unsafe { libc::pread64(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), at) }) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno(libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The beginning of a file, as far as it is in memory: never waits for a disk or a server.
pub(crate) fn pread_cached(fd: BorrowedFd<'_>, to: &mut [u8]) -> Result<usize> {
    let part = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    // The kernel takes the offset in two halves.
    let (low, high) = (0_usize, 0_usize);
    // SAFETY: the part describes the buffer, which lives until the call returns.
    let rc = unsafe {
        libc::syscall(libc::SYS_preadv2, fd.as_raw_fd(), &raw const part, 1_usize, low, high, libc::RWF_NOWAIT)
    };
    check_long(rc as isize)
}

/// `pwrite`; on a descriptor with O_APPEND the kernel appends whatever the offset is.
pub(crate) fn pwrite(fd: BorrowedFd<'_>, data: &[u8], offset: i64) -> Result<usize> {
    // SAFETY: the data lives until the call returns and has that length.
    check_long(unsafe { libc::pwrite64(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), offset) })
}

/// Appends through a descriptor that was opened without O_APPEND.
pub(crate) fn append(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize> {
    let part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // The kernel takes the offset in two halves.
    let (low, high) = (0_usize, 0_usize);
    // SAFETY: the part describes data that lives until the call returns; the kernel only reads it.
    let rc = unsafe {
        libc::syscall(libc::SYS_pwritev2, fd.as_raw_fd(), &raw const part, 1_usize, low, high, libc::RWF_APPEND)
    };
    check_long(rc as isize)
}

pub(crate) fn ftruncate(fd: BorrowedFd<'_>, len: i64) -> Result<()> {
    // SAFETY: numbers only; so in all calls below that take no pointer.
    check(unsafe { libc::ftruncate64(fd.as_raw_fd(), len) }).map(drop)
}

pub(crate) fn fallocate(fd: BorrowedFd<'_>, mode: c_int, offset: i64, len: i64) -> Result<()> {
    // SAFETY: see ftruncate.
    check(unsafe { libc::fallocate64(fd.as_raw_fd(), mode, offset, len) }).map(drop)
}

pub(crate) fn lseek(fd: BorrowedFd<'_>, offset: i64, whence: c_int) -> Result<u64> {
    // SAFETY: see ftruncate.
    let rc = unsafe { libc::lseek64(fd.as_raw_fd(), offset, whence) };
    u64::try_from(rc).map_err(|_| Errno::last())
}

pub(crate) fn fsync(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: see ftruncate.
    check(unsafe { libc::fsync(fd.as_raw_fd()) }).map(drop)
}

pub(crate) fn fdatasync(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: see ftruncate.
    check(unsafe { libc::fdatasync(fd.as_raw_fd()) }).map(drop)
}

pub(crate) fn syncfs(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: see ftruncate.
    check(unsafe { libc::syncfs(fd.as_raw_fd()) }).map(drop)
}

/// What a close reports: file systems over a network tell here of writes that failed.
pub(crate) fn close_a_copy(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: see ftruncate.
    let copy = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the copy is this function's alone, and is closed whatever close returns.
    check(unsafe { libc::close(copy) }).map(drop)
}

/// Copies within the host's kernel.
pub(crate) fn copy_range(
    from: BorrowedFd<'_>,
    mut at: off64_t,
    to: BorrowedFd<'_>,
    mut to_at: off64_t,
    len: usize,
    flags: u32,
) -> Result<usize> {
    // SAFETY: both offsets live until the call returns. By number: not every C library has the function.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_copy_file_range,
            from.as_raw_fd(),
            &raw mut at,
            to.as_raw_fd(),
            &raw mut to_at,
            len,
            flags,
        )
    };
    check_long(rc as isize)
}

/// An ioctl whose argument is `data`, which the caller knows to be as long as the command says.
pub(crate) fn ioctl(fd: BorrowedFd<'_>, command: u32, data: &mut [u64; 4]) -> Result<c_int> {
    debug_assert!((command >> 16 & 0x3fff) as usize <= size_of_val(data));
    // SAFETY: the command's argument is at most as long as the data, which lives until the call returns.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(command), data.as_mut_ptr()) })
}

/// Reads what has come on a stream.
pub(crate) fn read(fd: BorrowedFd<'_>, to: &mut [u8]) -> Result<usize> {
    loop {
        // SAFETY: the buffer lives until the call returns and has that length.
        match check_long(unsafe { libc::read(fd.as_raw_fd(), to.as_mut_ptr().cast(), to.len()) }) {
            Err(Errno(libc::EINTR)) => {}
            Err(Errno(libc::EAGAIN)) => wait_for(fd, libc::POLLIN)?,
            other => return other,
        }
    }
}

/// Writes all of it to a stream.
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        // SAFETY: the data lives until the call returns and has that length.
        match check_long(unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), data.len()) }) {
            Ok(written) => data = &data[written..],
            Err(Errno(libc::EINTR)) => {}
            Err(Errno(libc::EAGAIN)) => wait_for(fd, libc::POLLOUT)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for a stream that somebody has made nonblocking. QEMU's end of the port; its death ends the wait.
fn wait_for(fd: BorrowedFd<'_>, events: libc::c_short) -> Result<()> {
    let mut one = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one pollfd that lives until the call returns.
    match check(unsafe { libc::poll(&raw mut one, 1, -1) }) {
        Ok(_) | Err(Errno(libc::EINTR)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ends both directions of a stream, for all threads that wait on it.
pub(crate) fn shutdown(fd: BorrowedFd<'_>) {
    // SAFETY: see ftruncate.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

/// One more descriptor for the same open file.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: see ftruncate.
    let copy = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
