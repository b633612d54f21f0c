//! What QEMU's process does between fork and exec, so that it has only what it needs and ends when the runner does.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, geteuid, getppid, setsid};

use super::confine::Ruleset;
use super::sandbox::Filter;

/// What the child needs between fork and exec.
#[derive(Debug)]
pub(crate) struct Newborn {
    /// The process that starts it.
    pub runner: Pid,
    /// Signals that it must not react to.
    pub blocked: SigSet,
    /// Who may reach its memory.
    pub file_server: Option<u32>,
    /// It gets no huge pages.
    pub small_pages: bool,
    /// The descriptors that it inherits.
    pub keep: Vec<RawFd>,
    /// What [`highest_descriptor`] says before the fork.
    pub last_fd: RawFd,
    /// The files that it is held to.
    pub rules: Option<Ruleset>,
    /// The system calls that it is held to, unless it sees to that itself.
    pub filter: Option<Filter>,
}

impl Newborn {
    /// Prepares it. This makes system calls only.
    ///
    /// # Errors
    /// When the system refuses one.
    pub(crate) fn detach(&self) -> io::Result<()> {
        // Its own session: neither the terminal's nor Slurm's group signals reach it.
        setsid()?;
        // Where Slurm signals every descendant (proctrack/linuxproc), QEMU must not react. KVM's own use
        // of SIGUSR1 survives this: QEMU unblocks it in each vCPU thread.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.blocked), None)?;
        // When the runner dies in any way, QEMU dies too: until the program is executed by this, then by its tie. If the runner is
        // dead already, the kernel sends no signal, so end here.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != self.runner {
            return Err(Errno::ESRCH.into());
        }
        if let Some(server) = self.file_server {
            // Where Yama lets only ancestors reach a process's memory, the server may too. Without Yama it is an error.
            // SAFETY: prctl with integers only.
            unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::c_ulong::from(server), 0, 0, 0) };
        }
        if self.small_pages {
            // A kernel without huge pages has none to refuse.
            // SAFETY: prctl with integers only.
            unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
        }
        no_core_dump()?;
        no_capabilities()?;
        // QEMU must not get PMI sockets and other descriptors that slurmstepd left open.
        close_on_exec(self.last_fd)?;
        for &fd in &self.keep {
            // SAFETY: F_SETFD on a descriptor that the parent holds open across the fork.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // Last, because they take rights.
        self.rules.as_ref().map_or(Ok(()), Ruleset::enter)?;
        self.filter.as_ref().map_or(Ok(()), Filter::enter)
    }
}

/// Marks all descriptors but the standard ones; those after `last_fd` are marked already.
fn close_on_exec(last_fd: RawFd) -> io::Result<()> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets flags on descriptors of this process.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if rc == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Kernels before 5.9 do not have it, and before 5.11 it has no such flag.
        Some(libc::ENOSYS | libc::EINVAL) => one_by_one(last_fd),
        _ => Err(error),
    }
}

/// The same on older kernels.
fn one_by_one(last_fd: RawFd) -> io::Result<()> {
    for fd in 3..=last_fd {
        // SAFETY: F_SETFD changes only a flag of a descriptor of this process.
        let rc = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        if rc != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::EBADF) {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The highest number of a descriptor of this process. Those that are opened later are marked when they are opened.
pub(crate) fn highest_descriptor() -> RawFd {
    // Without /proc: more than slurmstepd and this process ever have.
    node::descriptors::open().into_iter().max().unwrap_or(4096)
}

/// A core dump would put the memory of a guest into a file. The hard limit is lowered too, so this cannot be undone.
fn no_core_dump() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// QEMU never has a capability, not even for root: then it acts as an ordinary user with uid 0, and a guest
/// cannot use it to change owners, make devices, or ignore permissions.
fn no_capabilities() -> io::Result<()> {
    if !geteuid().is_root() {
        // exec gives no capability to other users: there is nothing to inherit, and no ambient set without privilege.
        return Ok(());
    }
    const SECBIT_NOROOT: libc::c_ulong = 1 << 0;
    const SECBIT_NOROOT_LOCKED: libc::c_ulong = 1 << 1;
    // SAFETY: prctl with integers only; it changes credentials of this process alone.
    let unroot = || unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED) };
    // SAFETY: as before.
    let no_ambient = || unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    match (no_ambient(), unroot()) {
        (0, 0) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    #[test]
    fn a_kernel_without_close_range_keeps_no_descriptor_open_either() {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: dup gives a new descriptor, without the flag; it ends with the test's process.
        let leaked = unsafe { libc::dup(file.as_raw_fd()) };
        assert!(leaked > 2 && highest_descriptor() >= leaked);
        let last = highest_descriptor();
        let mut list = Command::new("ls");
        list.arg("/proc/self/fd").stdout(Stdio::piped());
        // SAFETY: the closure makes system calls only.
        unsafe { list.pre_exec(move || one_by_one(last)) };
        let listed = String::from_utf8(list.output().unwrap().stdout).unwrap();
        assert!(!listed.lines().any(|number| number == leaked.to_string()), "{listed}");
    }

    #[test]
    fn a_process_whose_memory_is_a_files_gets_no_huge_pages() {
        let status = |small_pages| {
            let mut cat = Command::new("cat");
            cat.arg("/proc/self/status").stdout(Stdio::piped());
            let (runner, last_fd) = (nix::unistd::getpid(), highest_descriptor());
            let (blocked, keep) = (SigSet::empty(), Vec::new());
            let (file_server, rules, filter) = (None, None, None);
            let newborn = Newborn { runner, blocked, file_server, small_pages, keep, last_fd, rules, filter };
            // SAFETY: the closure makes system calls only.
            unsafe { cat.pre_exec(move || newborn.detach()) };
            let said = String::from_utf8(cat.output().unwrap().stdout).unwrap();
            said.lines().find_map(|line| line.strip_prefix("THP_enabled:")).map(|value| value.trim().to_owned())
        };
        // Older kernels than 5.0 do not say so.
        assert_eq!(status(true), status(false).map(|_| "0".to_owned()));
    }
}
