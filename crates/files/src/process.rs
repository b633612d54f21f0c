//! The process around the server: it takes what the runner gave it, and gives up what it does not need.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::error::ServeError;

/// The descriptors that the runner left for this process: the control stream and the port.
///
/// # Errors
/// If they are not open.
pub fn inherited(port: libc::c_int) -> Result<(OwnedFd, OwnedFd), ServeError> {
    let take = |fd: libc::c_int| {
        // SAFETY: F_SETFD on a number touches no memory; it fails for what is not open.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(ServeError::Process { what: "find its descriptors", source: io::Error::last_os_error() });
        }
        // SAFETY: the descriptor is open, and by the contract with the runner it is this function's alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    Ok((take(0)?, take(port)?))
}

/// Makes this process the user and nothing more, and lets it die with its parent.
///
/// # Errors
/// If the kernel refuses.
pub fn confine(port: libc::c_int) -> Result<(), ServeError> {
    let done = |what: &'static str, rc: libc::c_int| match rc {
        0 => Ok(()),
        _ => Err(ServeError::Process { what, source: io::Error::last_os_error() }),
    };
    // SAFETY: prctl with integers only.
    done("follow the runner's end", unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // SAFETY: setsid has no arguments. A process that leads a group already keeps it.
    unsafe { libc::setsid() };
    // SAFETY: as above.
    done("give up privileges", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    without_capabilities(&done)?;
    raise_limits(&done)?;
    close_beyond(port);
    Ok(())
}

/// What is open beyond the port came from whoever started the runner: slurmstepd leaves a task the socket to its PMI server.
fn close_beyond(port: libc::c_int) {
    // SAFETY: nothing in this process has opened a descriptor yet.
    if unsafe { libc::syscall(libc::SYS_close_range, port + 1, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // Kernels before 5.9 do not have it. The list is complete before the first one is closed, and its own descriptor with it.
    let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<libc::c_int> = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|&number| number > port) {
        // SAFETY: as above; the number of the list itself is free by now.
        unsafe { libc::close(number) };
    }
}

/// A server of root acts as the owner of root's files, like any user.
fn without_capabilities(done: &dyn Fn(&'static str, libc::c_int) -> Result<(), ServeError>) -> Result<(), ServeError> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: prctl with integers only. Without ambient capabilities it fails on no kernel that knows them.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    // SAFETY: header and data have the sizes of that version and live until the call returns.
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    done("give up capabilities", rc as libc::c_int)
}

/// What limits a program of the user holds in the guest already; here only the hard limits count.
fn raise_limits(done: &dyn Fn(&'static str, libc::c_int) -> Result<(), ServeError>) -> Result<(), ServeError> {
    for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_FSIZE, libc::RLIMIT_AS, libc::RLIMIT_DATA, libc::RLIMIT_NPROC] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a limit of our own.
        done("read its limits", unsafe { libc::getrlimit(resource, &raw mut limit) })?;
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above.
        done("raise its limits", unsafe { libc::setrlimit(resource, &raw const limit) })?;
    }
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as above. A core dump would hold what the guest's files hold.
    done("forbid core dumps", unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    // A write beyond the hard limit is an error of that request, not the end of the server.
    // SAFETY: SIG_IGN installs no handler of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    Ok(())
}

/// No file of more than a MiB, for all that this process writes: a fuzzer must not fill the machine.
#[cfg(fuzzing)]
pub(crate) fn small_files() {
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: the limit lives until the call returns.
    unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    // SAFETY: SIG_IGN installs no handler of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
