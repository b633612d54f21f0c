//! The courier: a process of its own that carries the guest's file requests between `/dev/fuse` and the port to the file
//! server on the host (it is the pump of [`proto::files`]).
//!
//! It is a process and not a part of the agent, because whoever serves `/dev/fuse` must never touch a share: it would wait
//! for itself. The agent may: it makes mount points below shares, enters directories and executes programs there.
//!
//! ```text
//! agent ── control: mounts, kill, drain, end ──► courier ── slots, one thread ──► port ═══ file server
//!   └── mount(2) ──► guest's kernel ── /dev/fuse, one descriptor a share ──┘
//! ```
//!
//! It is born before a template is saved, so a clone has it already. It also kills the task's processes for an agent that is
//! PID 1: `kill(-1)` spares its caller and PID 1, and both must live.

mod birth;
mod carry;
mod control;
mod held;
mod number;
mod pipe;
mod place;
mod request;
mod slots;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::error::{AgentError, Doing};
use control::{Control, Order};
use number::Number;

/// How long the courier may take, and the host for the last requests: whoever wrote has waited for that already.
const PATIENCE: Duration = Duration::from_secs(5);

/// The agent's side.
#[derive(Debug)]
pub(super) struct Courier {
    control: Control,
    /// Number of the last order.
    order: u32,
    /// Number of the last session. Clones begin with the same: what their ports hold is their template's.
    last: u64,
    /// The session, if there is one.
    session: Number,
    /// Its process.
    pub pid: Pid,
}

impl Courier {
    /// Starts it on a port that was opened nonblocking. This process must have one thread only.
    pub fn start(port: OwnedFd) -> Result<Self, AgentError> {
        let (ours, theirs) = Control::pair().doing(|| "make a socket".to_owned())?;
        let session = Number::shared().doing(|| "get memory".to_owned())?;
        let number = session.clone();
        let pid = birth::give_birth(move |kept| carry::run(port, theirs, number, kept));
        let pid = pid.doing(|| "start the process that carries files".to_owned())?;
        Ok(Self { control: ours, order: 0, last: 0, session, pid })
    }

    /// Serves the share `number` on a descriptor of `/dev/fuse` that was just mounted; its requests belong to the session in
    /// which the first of them is made.
    pub fn serve(&mut self, number: u16, fuse: &OwnedFd) -> Result<(), AgentError> {
        self.ask(Order::Serve(number), Some(fuse), PATIENCE)
    }

    /// Begins a session, if there is none. The host hears of it with the first request.
    pub fn begin(&mut self) {
        if self.session.get() == 0 {
            self.last += 1;
            self.session.set(self.last);
        }
    }

    /// Kills every process of this guest but PID 1 and the courier.
    pub fn kill_all(&mut self) -> Result<(), AgentError> {
        self.ask(Order::KillAll, None, PATIENCE)
    }

    /// Waits until the host has answered every request.
    pub fn drain(&mut self) -> Result<(), AgentError> {
        if self.session.get() != 0 { self.ask(Order::Drain, None, PATIENCE) } else { Ok(()) }
    }

    /// Ends the session: its shares are gone, whoever still has files open there.
    pub fn end(&mut self) {
        if self.session.get() != 0 {
            self.session.set(0);
            // A courier that does not answer has nothing that could be ended.
            let _ = self.ask(Order::End, None, PATIENCE);
        }
    }

    fn ask(&mut self, order: Order, fd: Option<&OwnedFd>, patience: Duration) -> Result<(), AgentError> {
        self.order = self.order.wrapping_add(1);
        let dead = || AgentError::Unfit("the process that carries files between guest and host has died".to_owned());
        self.control.send(self.order, order, fd.map(AsFd::as_fd)).map_err(|_| dead())?;
        let deadline = Instant::now() + patience;
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let within = patience.as_secs();
                return Err(AgentError::Unfit(match order {
                    Order::Drain => format!("the host has not finished its work on shared files within {within} s"),
                    _ => format!("the process that carries files did not answer within {within} s"),
                }));
            };
            let mut set = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            match self.control.answer() {
                Ok(Some(number)) if number == self.order => return Ok(()),
                // To an order that was given up.
                Ok(_) => {}
                Err(_) => return Err(dead()),
            }
        }
    }
}
