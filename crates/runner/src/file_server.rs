//! The file server of a VM, as the runner sees it: a process beside QEMU, started, told what it serves, watched and ended.
//! What it does is the crate `files`.

#![allow(unsafe_code)]

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, getppid, pipe2};

use crate::error::{Fault, RunError};
use crate::limits;
use crate::notice::printable;
use crate::shares::Share;
use files::PORT_FD;
use files::control::{Memory, Region, Shares};
use node::child::{KILLED_ENDS_WITHIN, wait, was_killed};
use qemu::MemoryRegion;

/// How a server ended; the texts are for the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// QEMU has ended before it.
    WithQemu,
    /// Somebody has ended it by a signal, which its user can do as well as an administrator.
    Killed(String),
    /// By itself.
    Failed(String),
}

/// Longest text of the server that is kept; it says one line.
const SAID_MAX: usize = 1000;

/// How long the server may take to read what it is told; it does so first of all.
const HEARD_WITHIN: Duration = Duration::from_secs(20);

/// A server that runs. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct FileServer {
    child: Child,
    control: UnixStream,
    /// Its stderr, which ends when it does.
    stderr: OwnedFd,
    said: Vec<u8>,
    /// Bytes of guest memory that slots may be in; `None` when the server knows where it is.
    memory: Option<u64>,
}

impl FileServer {
    /// Starts it, for a guest that begins with `memory` bytes. Returns it with QEMU's end of the port.
    ///
    /// # Errors
    /// When the node has no room for it, or a hard limit of the task forbids it.
    pub(crate) fn start(shares: &[Share], memory: u64, blocked: SigSet) -> Result<(Self, UnixStream), RunError> {
        Self::spawn(shares, memory, blocked).map_err(|error| {
            let why = format!("the file server of the VM cannot be started: {error}");
            limits::blame(&why).unwrap_or_else(|| RunError::new(Fault::Node, why))
        })
    }

    fn spawn(shares: &[Share], memory: u64, blocked: SigSet) -> io::Result<(Self, UnixStream)> {
        let (port, qemu_port) = UnixStream::pair()?;
        let (control, server_control) = UnixStream::pair()?;
        control.set_write_timeout(Some(HEARD_WITHIN))?;
        let (stderr, server_stderr) = pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
        let shared = |share: &Share| {
            let path = share.served().0.to_owned();
            files::control::Share { path, read_only: share.read_only }
        };
        let mut command = Command::new("/proc/self/exe");
        command.arg0("spank-vm").arg("file-server").env_clear().current_dir("/");
        command.stdin(OwnedFd::from(server_control)).stdout(Stdio::null()).stderr(server_stderr);
        let (runner, fd) = (nix::unistd::getpid(), port.as_raw_fd());
        // SAFETY: the closure runs between fork and exec and makes system calls only: it takes no memory and no lock, which
        // another thread may have held.
        unsafe { command.pre_exec(move || detach(runner, &blocked, fd)) };
        let child = command.spawn()?;
        // With the copies of its descriptors: if it dies, the next line fails and does not wait.
        drop(command);
        let mut server = Self { child, control, stderr, said: Vec::new(), memory: Some(memory) };
        // Not before it runs: many long paths are more than a socket holds.
        let heard = server.control.write_all(&Shares(shares.iter().map(shared).collect()).encode());
        heard.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::other(format!("it reads nothing within {} s", HEARD_WITHIN.as_secs()))
            }
            _ => error,
        })?;
        Ok((server, qemu_port))
    }

    /// Its process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Becomes readable when there is something to read or it has ended.
    pub(crate) fn events(&self) -> BorrowedFd<'_> {
        self.stderr.as_fd()
    }

    /// Bytes of guest memory that it must still be told the place of.
    pub(crate) fn wants_memory(&self) -> Option<u64> {
        self.memory
    }

    /// Tells it where the guest's memory is in QEMU.
    pub(crate) fn tell_memory(&mut self, qemu: u32, regions: &[MemoryRegion]) {
        self.memory = None;
        let region = |region: &MemoryRegion| Region { guest: region.guest, len: region.bytes, host: region.host };
        let memory = Memory { pid: qemu, regions: regions.iter().map(region).collect() };
        // A server that is gone is noticed by its stderr.
        let _ = self.control.write_all(&memory.encode());
    }

    /// How it ended, if it has.
    pub(crate) fn end(&mut self) -> Option<Ended> {
        let mut buffer = [0; 512];
        loop {
            match nix::unistd::read(&self.stderr, &mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    let room = SAID_MAX.saturating_sub(self.said.len());
                    self.said.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(Errno::EAGAIN) => return None,
                Err(_) => break,
            }
        }
        let status = self.reap()?;
        if status.success() {
            return Some(Ended::WithQemu);
        }
        let said = printable(self.said.trim_ascii());
        let why = match (said.is_empty(), status.signal()) {
            (false, None) => said,
            (_, Some(signo)) => format!("the file server of the VM was killed (signal {signo}); the VM was ended"),
            (true, None) => "the file server of the VM failed; the VM was ended".to_owned(),
        };
        Some(if was_killed(status) { Ended::Killed(why) } else { Ended::Failed(why) })
    }

    /// Kills it without waiting.
    pub(crate) fn kill(&mut self) {
        // A child that was not reaped keeps its number.
        let _ = self.child.kill();
    }

    /// Waits for its end, as long as a process needs that is not held by a file system.
    pub(crate) fn reap(&mut self) -> Option<std::process::ExitStatus> {
        wait(&mut self.child, KILLED_ENDS_WITHIN)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.kill();
        if self.reap().is_none() {
            tracing::warn!("the file server {} does not end: a file system of the host hangs", self.id());
        }
    }
}

/// Prepares the child between fork and exec. What remains to be given up it gives up itself.
fn detach(runner: Pid, mask: &SigSet, port: RawFd) -> io::Result<()> {
    // Where Slurm signals every descendant, the server must not react.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?;
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != runner {
        return Err(Errno::ESRCH.into());
    }
    // SAFETY: dup2 on numbers; the copy is not close-on-exec. Where the port has the number already, the flag is taken away.
    let rc = unsafe {
        match port == PORT_FD {
            true => libc::fcntl(port, libc::F_SETFD, 0),
            false => libc::dup2(port, PORT_FD),
        }
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
