//! Ends a program with this process, whatever either is doing.
//!
//! `PR_SET_PDEATHSIG` alone does not do that: the kernel forgets it where exec changes rights. A site gives its QEMU a capability
//! for networks, or another user's rights; or a security module has a domain of its own for it.

#![allow(unsafe_code)]

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use node::life;

/// What ties a program to this process: it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Tie {
    _breath: PipeWriter,
}

impl Tie {
    /// Ties the program that `command` will start. What other hooks close at exec, they must have marked before.
    ///
    /// # Errors
    /// When descriptors run out.
    pub(crate) fn to_this_process(command: &mut Command) -> io::Result<Self> {
        let (life, breath) = io::pipe()?;
        let tie = move || {
            // The child has a copy of the other end until it executes the program: if this process is gone by then, it ends then.
            life::depend_on(life.as_fd())?;
            // SAFETY: F_SETFD on a descriptor that the closure holds open.
            let kept = unsafe { libc::fcntl(life.as_raw_fd(), libc::F_SETFD, 0) };
            if kept == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: the closure runs between fork and exec and makes system calls only: it takes no memory and no lock, which
        // another thread may have held.
        unsafe { command.pre_exec(tie) };
        Ok(Self { _breath: breath })
    }
}

#[cfg(test)]
mod tests;
