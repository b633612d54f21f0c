//! The command's standard streams: pipes, or a terminal.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::unistd::{Gid, Uid, fchown, pipe2};

use super::super::error::{AgentError, Doing};
use super::super::task::{TaskSpec, TerminalSize};

/// Group that owns terminals, by convention of every distribution.
const TTY_GROUP: u32 = 5;

/// The descriptors of the command's standard streams, for both sides.
#[derive(Debug)]
pub(super) struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
    pub terminal: Option<OwnedFd>,
    pub child: ChildStdio,
}

/// What becomes 0, 1 and 2 of the command. Closed in the agent once the command has them.
#[derive(Debug)]
pub(super) struct ChildStdio {
    pub raw: [RawFd; 3],
    pub is_terminal: bool,
    _owned: Vec<OwnedFd>,
}

impl Stdio {
    /// Opens them for the user and group `owner`.
    pub fn open(spec: &TaskSpec, owner: (u32, u32)) -> Result<Self, AgentError> {
        match spec.terminal {
            Some(size) => Self::terminal(size, owner.0).doing(|| "open a terminal".to_owned()),
            None => Self::pipes(spec.merge_stderr, owner).doing(|| "make a pipe".to_owned()),
        }
    }

    fn pipes(merge_stderr: bool, owner: (u32, u32)) -> nix::Result<Self> {
        let (child_in, stdin) = pipe2(OFlag::O_CLOEXEC)?;
        let (stdout, child_out) = pipe2(OFlag::O_CLOEXEC)?;
        let mut raw = [child_in.as_raw_fd(), child_out.as_raw_fd(), child_out.as_raw_fd()];
        let mut owned = vec![child_in, child_out];
        let mut stderr = None;
        if !merge_stderr {
            let (ours, child_err) = pipe2(OFlag::O_CLOEXEC)?;
            raw[2] = child_err.as_raw_fd();
            owned.push(child_err);
            stderr = Some(ours);
        }
        // Only our ends are nonblocking: the command's ends are separate file descriptions, and programs expect them to
        // block.
        for fd in [Some(&stdin), Some(&stdout), stderr.as_ref()].into_iter().flatten() {
            set_nonblocking(fd)?;
        }
        // Programs open them again by their names (/dev/stdout), which is a question of the pipe's owner and mode.
        for fd in &owned {
            give_to(fd, owner.0, owner.1)?;
        }
        let child = ChildStdio { raw, is_terminal: false, _owned: owned };
        Ok(Self { stdin, stdout, stderr, terminal: None, child })
    }

    fn terminal(size: TerminalSize, uid: u32) -> nix::Result<Self> {
        let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None)?;
        for fd in [&master, &slave] {
            fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        give_to(&slave, uid, TTY_GROUP)?;
        set_nonblocking(&master)?;
        let stdin = master.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let child = ChildStdio { raw: [slave.as_raw_fd(); 3], is_terminal: true, _owned: Vec::new() };
        Ok(Self { stdin, stdout: master, stderr: None, terminal: Some(slave), child })
    }
}

/// EPERM: in tests the agent is not root, and everything already belongs to the user.
fn give_to(fd: &OwnedFd, uid: u32, gid: u32) -> nix::Result<()> {
    match fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Err(Errno::EPERM) => Ok(()),
        given => given,
    }
}

fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
