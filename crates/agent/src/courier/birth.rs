//! The courier's birth.

#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

/// Starts a process that runs `life` and ends with it.
///
/// It is a child that `waitpid` does not see unless asked for (`__WCLONE`): "no child is left" still means that the task has
/// no process left. It shares no memory with this process, which must have one thread only.
pub(super) fn give_birth(life: impl FnOnce(&Kept)) -> nix::Result<Pid> {
    // SAFETY: clone without flags is fork, but its end sends no SIGCHLD. This process has one thread, so the child finds no
    // lock held and nothing half done.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0) })?;
    if pid != 0 {
        return Ok(Pid::from_raw(pid as i32));
    }
    // It must never go on as a second agent.
    let _ = catch_unwind(AssertUnwindSafe(|| life(&Kept)));
    // SAFETY: _exit ends this process and runs nothing of the agent's.
    unsafe { libc::_exit(1) }
}

/// Proof that this is the courier's process.
#[derive(Debug)]
pub(super) struct Kept;

impl Kept {
    /// Settles into a life of its own, with these descriptors and no others.
    pub fn settle(&self, keep: [&dyn AsRawFd; 2]) {
        let name = c"spank-vm-files";
        // SAFETY: setsid has no arguments; prctl with integers and a string that lives for ever. PR_SET_IO_FLUSHER (57) keeps
        // this process from waiting for shares when it needs memory; kernels before 5.6 do not know it.
        unsafe {
            libc::setsid();
            libc::prctl(libc::PR_SET_NAME, name.as_ptr());
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(57, 1, 0, 0, 0);
        }
        // The kernel must find others when memory runs out: without this process no program could read its files.
        let _ = fs::write("/proc/self/oom_score_adj", "-1000");
        let _ = std::env::set_current_dir("/");
        close_others(&keep.map(AsRawFd::as_raw_fd));
    }
}

/// Closes what the agent had open: its port must end with the agent.
fn close_others(keep: &[RawFd]) {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !keep.contains(fd)) {
        // SAFETY: these are copies of the agent's descriptors, whose owners never run in this process.
        unsafe { libc::close(fd) };
    }
}
