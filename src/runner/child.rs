//! The QEMU process: started with nothing it does not need, and gone when the runner is.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{getppid, setsid};

/// Descriptors that QEMU inherits; the runner keeps the other ends.
#[derive(Debug)]
pub struct Inherited {
    /// QEMU's end of the channel.
    pub channel: UnixStream,
    /// QEMU's end of the console.
    pub console: UnixStream,
    /// The VM's private disk.
    pub scratch: File,
}

/// A running QEMU and the runner's ends of its streams, all nonblocking. Dropping it kills QEMU.
#[derive(Debug)]
pub struct QemuProcess {
    child: Child,
    /// The channel to the agent. It ends when QEMU does.
    pub channel: UnixStream,
    /// What the guest's kernel prints.
    pub console: UnixStream,
    /// What QEMU complains about.
    pub stderr: OwnedFd,
}

impl QemuProcess {
    /// Starts `qemu`; `args` gets the descriptors by the numbers they have in the child.
    ///
    /// # Errors
    /// When descriptors run out or the program cannot be executed.
    pub fn spawn(qemu: &Path, scratch: File, args: impl FnOnce(&Inherited) -> Vec<OsString>) -> anyhow::Result<Self> {
        let (channel, qemu_channel) = UnixStream::pair().context("channel")?;
        let (console, qemu_console) = UnixStream::pair().context("console")?;
        channel.set_nonblocking(true)?;
        console.set_nonblocking(true)?;
        let inherited = Inherited { channel: qemu_channel, console: qemu_console, scratch };
        let keep = [inherited.channel.as_raw_fd(), inherited.console.as_raw_fd(), inherited.scratch.as_raw_fd()];

        let mut command = Command::new(qemu);
        command.args(args(&inherited)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // QEMU gets no environment of the job: nothing in it is for QEMU, some of it could steer its libraries.
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
        let runner = nix::unistd::getpid();
        // SAFETY: the closure runs between fork and exec of a single-threaded process and makes system calls only.
        unsafe { command.pre_exec(move || detach(runner, keep)) };
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", qemu.display()))?;
        let stderr: OwnedFd = child.stderr.take().context("no pipe for QEMU's messages")?.into();
        set_nonblocking(&stderr)?;
        Ok(Self { child, channel, console, stderr })
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How QEMU ended, if it did without being killed by us.
    ///
    /// The channel closes a moment before the process can be waited for; QEMU that closed it and
    /// still lives a second later is stuck.
    pub fn ended_by_itself(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            // Only on the way to an error message: not worth a descriptor to wait on.
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Kills QEMU, waits for its end and says how it ended (by itself, if it had before).
    ///
    /// # Errors
    /// When the system does not let us wait, which it always does for a child.
    pub fn finish(&mut self) -> io::Result<ExitStatus> {
        // A child that was not waited for keeps its id, so this cannot hit a stranger.
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for QemuProcess {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// What becomes of the child between fork and exec.
fn detach(runner: nix::unistd::Pid, keep: [RawFd; 3]) -> io::Result<()> {
    // Its own session: neither the terminal's nor Slurm's group signals reach it.
    setsid()?;
    // Where Slurm signals every descendant (proctrack/linuxproc) QEMU must not be the one that obeys.
    // KVM's own use of SIGUSR1 survives this: QEMU unblocks it in each vCPU thread.
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ] {
        mask.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
    // However the runner dies, QEMU does; if it died already, there was nobody left to notice.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != runner {
        return Err(io::Error::other("the runner is gone"));
    }
    // PMI sockets and whatever else slurmstepd left open is not for QEMU.
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only sets flags on descriptors of this process.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in keep {
        // SAFETY: F_SETFD on a descriptor that the parent holds open across the fork.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn set_nonblocking(fd: &OwnedFd) -> anyhow::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
