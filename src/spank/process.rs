//! The few things hooks need from the operating system that the standard library lacks.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

/// Looks up a function of the host program by name.
///
/// For functions that exist only in some Slurm releases: the library is linked with `-z now`, so it
/// would not load at all with a direct reference to a missing symbol.
pub fn symbol(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: dlsym only reads the name; RTLD_DEFAULT needs no handle.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// Whether the calling user may execute `path` (by the real user id, which in a task is the job's).
///
/// # Errors
/// Why not.
pub fn is_executable(path: &Path) -> io::Result<()> {
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: access only reads the NUL-terminated path.
    if unsafe { libc::access(c_path.as_ptr(), libc::X_OK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if path.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
}

/// Lets the program that this process becomes keep a descriptor.
///
/// # Errors
/// As fcntl(2).
pub fn inherit(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fcntl with F_SETFD touches no memory.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Waits until `fd` can be read (or has ended), at most `limit`.
///
/// # Errors
/// As poll(2); a signal is not an error but an early "no".
pub fn readable_within(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: one valid pollfd, borrowed for the time of the call.
    match unsafe { libc::poll(&raw mut entry, 1, millis) } {
        -1 => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
        ready => Ok(ready > 0),
    }
}

/// Ends srun, sbatch or salloc the way they end themselves, so that exit handlers run.
pub fn exit_client(status: c_int) -> ! {
    // SAFETY: called with no lock of the plugin held. An exit handler of sbatch and salloc calls
    // this plugin's slurm_spank_exit and then unloads it; exit never returns into the unloaded code.
    unsafe { libc::exit(status) }
}

/// Ends the forked process that was about to become the task, as slurmstepd does itself when a
/// required plugin fails: without exit handlers, which belong to slurmstepd.
pub fn end_task(status: c_int) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}
