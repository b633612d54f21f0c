//! The command's standard streams: pipes, or a terminal; and the sockets that it has besides.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Gid, Uid, fchown, pipe2};

use super::super::error::{AgentError, Doing};
use super::super::sys;
use super::super::task::{TaskSpec, TerminalSize};

/// Group that owns terminals, by convention of every distribution.
const TTY_GROUP: u32 = 5;

/// Where the child's own descriptors begin, if the command has only its three.
const FIRST_FREE: RawFd = 10;

/// The descriptors of the command's standard streams, for both sides.
#[derive(Debug)]
pub(super) struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: Option<OwnedFd>,
    pub terminal: Option<OwnedFd>,
    /// Our ends.
    pub sockets: Vec<OwnedFd>,
    pub child: ChildStdio,
}

/// What becomes 0, 1 and 2 of the command, and its sockets. Closed in the agent once the command has them.
#[derive(Debug)]
pub(super) struct ChildStdio {
    pub raw: [RawFd; 3],
    pub is_terminal: bool,
    pub sockets: Vec<ChildSocket>,
    /// A number from which on no descriptor of the command's is.
    pub first_free: RawFd,
    _owned: Vec<OwnedFd>,
}

/// A socket of the command: its end has a higher number than any of them will have, so that none overwrites another.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChildSocket {
    pub source: RawFd,
    pub number: RawFd,
}

impl Stdio {
    /// Opens them for the user and group `owner`.
    pub fn open(spec: &TaskSpec, owner: (u32, u32)) -> Result<Self, AgentError> {
        let mut stdio = match spec.terminal {
            Some(size) => Self::terminal(size, owner.0).doing(|| "open a terminal".to_owned()),
            None => Self::pipes(spec.merge_stderr, owner).doing(|| "make a pipe".to_owned()),
        }?;
        stdio.add_sockets(&spec.sockets)?;
        Ok(stdio)
    }

    /// Makes a pair of sockets for each of these numbers of the command.
    fn add_sockets(&mut self, numbers: &[u32]) -> Result<(), AgentError> {
        let Some(&highest) = numbers.iter().max() else { return Ok(()) };
        let room = raise_limit_of_files();
        let first_free = highest.saturating_add(1).max(FIRST_FREE as u32);
        // Three streams, the report, and the sockets once more.
        if u64::from(first_free) + 4 + numbers.len() as u64 > room || numbers.iter().any(|&number| number < 3) {
            return Err(AgentError::Unfit(format!("this guest's kernel gives no program a descriptor {highest}")));
        }
        let first_free = first_free as RawFd;
        for &number in numbers {
            let (ours, theirs) = socket_pair(first_free).doing(|| "make a socket".to_owned())?;
            self.sockets.push(ours);
            self.child.sockets.push(ChildSocket { source: theirs.as_raw_fd(), number: number as RawFd });
            self.child._owned.push(theirs);
        }
        self.child.first_free = first_free;
        Ok(())
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
        let child = ChildStdio { raw, is_terminal: false, sockets: Vec::new(), first_free: FIRST_FREE, _owned: owned };
        Ok(Self { stdin, stdout, stderr, terminal: None, sockets: Vec::new(), child })
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
        let raw = [slave.as_raw_fd(); 3];
        let child =
            ChildStdio { raw, is_terminal: true, sockets: Vec::new(), first_free: FIRST_FREE, _owned: Vec::new() };
        Ok(Self { stdin, stdout: master, stderr: None, terminal: Some(slave), sockets: Vec::new(), child })
    }
}

/// Our end of a pair of sockets, which is nonblocking, and the command's, with this number or a higher one.
fn socket_pair(least: RawFd) -> nix::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    set_nonblocking(&ours)?;
    Ok((ours, sys::clone_above(&theirs, least)?))
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

/// Lets the agent have as many descriptors as its hard limit says, and returns how many. The command gets the task's limit.
fn raise_limit_of_files() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        Ok((soft, _)) => soft,
        Err(_) => 0,
    }
}
