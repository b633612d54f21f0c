//! Reaps dead children of every kind; a descriptor reports their deaths.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::error::{AgentError, Doing};
use super::machine::Reaped;
use super::{kmsg, sys};

/// How long to wait for killed processes before a session goes on. A process that waits for a dead
/// share cannot be killed.
pub(super) const REAP_TIME: Duration = Duration::from_secs(5);

/// Watches for dead children.
#[derive(Debug)]
pub(super) struct Children {
    deaths: SignalFd,
}

impl Children {
    /// Starts to watch; SIGCHLD is blocked from here on.
    pub fn watch() -> Result<Self, AgentError> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let deaths = mask
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
            .doing(|| "watch for dead children".to_owned())?;
        Ok(Self { deaths })
    }

    /// Becomes readable when one has died.
    pub fn events(&self) -> BorrowedFd<'_> {
        self.deaths.as_fd()
    }

    /// Reaps all that are dead, without waiting.
    pub fn reap(&mut self, leaders: &[Pid]) -> Reaped {
        // Signals of one kind merge: one event may stand for many dead children.
        while matches!(self.deaths.read_signal(), Ok(Some(_))) {}
        let mut reaped = Reaped::default();
        loop {
            match sys::reap_one(Pid::from_raw(-1)) {
                Ok(None) => return reaped,
                Ok(Some(found)) if leaders.contains(&found.0) => reaped.leaders.push(found),
                Ok(Some(_)) => {}
                // ECHILD: that was the last one.
                Err(_) => {
                    reaped.none_left = true;
                    return reaped;
                }
            }
        }
    }

    /// Waits, up to a deadline, until the last one is gone. The caller has killed them.
    pub fn reap_all(&mut self) {
        let deadline = Instant::now() + REAP_TIME;
        while !self.reap(&[]).none_left {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                kmsg::note("processes of the last task cannot be killed");
                return;
            };
            let mut set = [PollFd::new(self.deaths.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        }
    }
}
