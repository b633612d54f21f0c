//! One session with the runner: from its HELLO to the end of the connection.

mod collecting;
mod ready;
mod running;
mod tasks;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use proto::{FailKind, ProtoError, ToGuest, ToHost, VERSION};

use super::error::{AgentError, Doing};
use super::machine::Machine;
use super::memory::LOOK_EVERY;
use super::port::{Incoming, Port, SendQueue};
use tasks::Tasks;

/// Maximum number of reads from the port in one round: then it is the turn of the command's output.
const READS_PER_ROUND: usize = 64;

/// The conversation with the runner over one connection of the port.
#[derive(Debug)]
struct Session<'a, M: Machine> {
    port: &'a mut Port,
    conversation: Conversation<'a, M>,
}

/// The state of the conversation, and the task.
#[derive(Debug)]
struct Conversation<'a, M: Machine> {
    machine: &'a mut M,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Before the first HELLO.
    Silent,
    /// Tasks are described, and run.
    Open(Box<Tasks>),
    /// No task can run. Messages that crossed that on the way are ignored.
    Over,
}

/// One session after the other.
///
/// # Errors
/// The port breaks.
pub(super) fn serve(port: &mut Port, machine: &mut impl Machine) -> Result<Infallible, AgentError> {
    loop {
        Session::new(port, machine).serve()?;
        port.wait_for_host()?;
    }
}

impl<'a, M: Machine> Session<'a, M> {
    /// A session that waits for a HELLO.
    pub fn new(port: &'a mut Port, machine: &'a mut M) -> Self {
        port.reset();
        Self { port, conversation: Conversation { machine, phase: Phase::Silent } }
    }

    /// Serves the runner until it disconnects. No task is left when this returns.
    ///
    /// # Errors
    /// The port itself failed.
    pub fn serve(mut self) -> Result<(), AgentError> {
        let outcome = self.converse();
        self.conversation.end_tasks();
        outcome
    }

    fn converse(&mut self) -> Result<(), AgentError> {
        let mut awaits_memory = true;
        loop {
            self.port.flush()?;
            let ready = self.wait(awaits_memory)?;
            if self.conversation.tasks().is_some_and(Tasks::are_running) {
                awaits_memory = awaits_memory && self.conversation.machine.awaits_memory();
            }
            if ready.port && !self.listen()? {
                return Ok(());
            }
            if let Phase::Open(tasks) = &mut self.conversation.phase
                && let Err(error) = tasks.advance(ready.child, self.conversation.machine, &mut self.port.out)
            {
                self.start_over(&error);
            }
        }
    }

    /// Reads what the runner sent; `false` when the runner has gone.
    fn listen(&mut self) -> Result<bool, AgentError> {
        for _ in 0..READS_PER_ROUND {
            match self.port.receive()? {
                Incoming::Bytes => {}
                Incoming::Nothing => return Ok(true),
                Incoming::Disconnected => return Ok(false),
            }
            while let Err(error) = self.obey() {
                self.start_over(&error);
            }
        }
        Ok(true)
    }

    /// Acts on every whole frame that has arrived.
    fn obey(&mut self) -> Result<(), ProtoError> {
        while let Some(frame) = self.port.decoder.next_frame()? {
            let message = ToGuest::parse(frame)?;
            self.conversation.handle(frame.task, message, &mut self.port.out)?;
        }
        Ok(())
    }

    /// Bytes that are not the protocol may be the rest of another session (after a clone): drop the
    /// task and look for the next HELLO.
    fn start_over(&mut self, error: &ProtoError) {
        self.conversation.end_tasks();
        self.conversation.phase = Phase::Silent;
        self.port.resynchronise();
        super::kmsg::note(&AgentError::from(error.clone()).to_string());
    }

    /// Waits until something can be done.
    fn wait(&self, awaits_memory: bool) -> Result<Ready, AgentError> {
        let mut port_events = PollFlags::POLLIN;
        port_events.set(PollFlags::POLLOUT, !self.port.out.is_empty());
        let mut set = vec![PollFd::new(self.port.as_fd(), port_events)];
        let mut timeout = PollTimeout::NONE;
        if let Some(orphans) = self.conversation.machine.orphan_events() {
            set.push(PollFd::new(orphans, PollFlags::POLLIN));
        }
        let tasks = self.conversation.tasks();
        if let Some(tasks) = tasks {
            set.extend(tasks.deaths().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        let children = set.len();
        if let Some(tasks) = tasks {
            set.extend(tasks.inputs().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
            set.extend(tasks.sockets(self.port.out.has_room()));
            set.extend(tasks.spilling().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            if self.port.out.has_room() {
                set.extend(tasks.outputs().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            }
            if awaits_memory && tasks.are_running() {
                timeout = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::MAX);
            }
            if let Some(deadline) = tasks.deadline() {
                let left = deadline.saturating_duration_since(Instant::now());
                timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            }
        }
        match poll(&mut set, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).doing(|| "wait for events".to_owned()),
        }
        let any = |fds: &[PollFd]| fds.iter().any(|fd| fd.any().unwrap_or(true));
        Ok(Ready { port: any(&set[..1]), child: any(&set[1..children]) })
    }
}

/// What ended a wait. The command's streams are nonblocking, so they are simply tried.
#[derive(Debug, Clone, Copy)]
struct Ready {
    port: bool,
    child: bool,
}

impl<M: Machine> Conversation<'_, M> {
    fn tasks(&self) -> Option<&Tasks> {
        if let Phase::Open(tasks) = &self.phase { Some(tasks) } else { None }
    }

    fn handle(&mut self, task: u16, message: ToGuest<'_>, out: &mut SendQueue) -> Result<(), ProtoError> {
        if let ToGuest::Hello { nonce, .. } = message {
            self.greet(task, nonce, out);
            return Ok(());
        }
        if message == ToGuest::Ping && !matches!(self.phase, Phase::Silent) {
            self.machine.ask_for_clock();
            out.send(task, &ToHost::Pong);
            return Ok(());
        }
        // The answer to PONG, or this VM was stopped for a while.
        if let ToGuest::Clock(nanoseconds) = &message
            && self.tasks().is_some_and(Tasks::are_running)
        {
            if let Err(error) = self.machine.follow_clock(*nanoseconds) {
                out.send(task, &ToHost::Warning(error.to_string().as_bytes()));
            }
            return Ok(());
        }
        if message == ToGuest::Settle {
            self.machine.settle();
            out.send(task, &ToHost::Synced);
            return Ok(());
        }
        match &mut self.phase {
            Phase::Silent => Err(ProtoError::OutOfOrder("message before HELLO")),
            Phase::Over => Ok(()),
            Phase::Open(tasks) => tasks.handle(task, message, self.machine, out),
        }
    }

    /// Starts again, whatever was before: a clone may wake up in the middle of its template's session.
    fn greet(&mut self, task: u16, nonce: u64, out: &mut SendQueue) {
        self.end_tasks();
        let times = self.machine.boot_times();
        self.machine.meet_clock();
        out.send(task, &ToHost::Hello { version: VERSION, nonce, times });
        self.phase = match self.machine.boot_error() {
            None => Phase::Open(Box::new(Tasks::new())),
            Some(error) => {
                out.send(task, &ToHost::Failed(FailKind::Setup, error.to_string().as_bytes()));
                Phase::Over
            }
        };
    }

    /// Leaves nothing of the session behind.
    fn end_tasks(&mut self) {
        let leaders = self.tasks().map(Tasks::leaders).unwrap_or_default().to_vec();
        if !leaders.is_empty() {
            self.machine.end_tasks(&leaders);
        }
        self.phase = Phase::Over;
        self.machine.forget_session();
    }
}
