//! Locks of open files, and how a thread that waits for one is woken.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::c_int;

use super::{Result, check};

/// A range that is or should be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub(crate) kind: i16,
    pub(crate) start: i64,
    /// 0 for all that follows.
    pub(crate) len: i64,
    /// Who holds it; -1 if no single process does.
    pub(crate) pid: i32,
}

/// Which call of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Ask for a lock in the way.
    Ask,
    /// Lock or fail.
    Try,
    /// Lock or wait.
    Wait,
}

/// Locks a range for the open file `fd`, which is the owner.
pub(crate) fn range(fd: BorrowedFd<'_>, how: How, range: &mut Range) -> Result<()> {
    let command = match how {
        How::Ask => libc::F_OFD_GETLK,
        How::Try => libc::F_OFD_SETLK,
        How::Wait => libc::F_OFD_SETLKW,
    };
    // SAFETY: all zeros is a lock.
    let mut lock: libc::flock64 = unsafe { std::mem::zeroed() };
    lock.l_type = range.kind;
    lock.l_whence = libc::SEEK_SET as i16;
    (lock.l_start, lock.l_len) = (range.start, range.len);
    // SAFETY: the lock lives until the call returns.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), command, &raw mut lock) })?;
    *range = Range { kind: lock.l_type, start: lock.l_start, len: lock.l_len, pid: lock.l_pid };
    Ok(())
}

/// `flock`.
pub(crate) fn whole(fd: BorrowedFd<'_>, operation: c_int) -> Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::flock(fd.as_raw_fd(), operation) }).map(drop)
}

/// A thread, as the kernel numbers it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thread(c_int);

/// The signal that ends a wait. It is this module's alone.
const SIGNAL: c_int = libc::SIGUSR1;

extern "C" fn nothing(_: c_int) {}

/// Lets [`SIGNAL`] end a system call and do nothing else.
pub(crate) fn prepare() -> Result<()> {
    // SAFETY: all zeros is an action without flags: calls are not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(c_int) as libc::sighandler_t;
    // SAFETY: the handler does nothing, and the action lives until the call returns.
    check(unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) })?;
    Ok(())
}

/// This thread; the signal reaches it from here on.
pub(crate) fn this_thread() -> Thread {
    // SAFETY: all zeros is a set to be filled; it lives until the calls return.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        Thread(libc::syscall(libc::SYS_gettid) as c_int)
    }
}

/// Wakes a thread of this process from its system call.
pub(crate) fn wake(thread: Thread) {
    // SAFETY: numbers only; a thread that is gone is an error.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.0, SIGNAL) };
}
