//! The tasks of a session, each on its own: usually one, or all tasks of a node together.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFd;
use nix::unistd::{Pid, read};

use proto::{DATA_CHUNK, FailKind, ProtoError, ToGuest, ToHost};

use super::collecting::Collecting;
use super::ready::Ready;
use super::running::Running;
use crate::clock::PATIENCE;
use crate::error::AgentError;
use crate::exec;
use crate::machine::Machine;
use crate::port::SendQueue;
use crate::pump::OutputPump;
use crate::socket::Listener;
use crate::sys;

/// All tasks of a session.
#[derive(Debug)]
pub(super) struct Tasks {
    /// How many there will be.
    expected: usize,
    list: Vec<Task>,
    /// The first thing that went wrong with the machine: no task can run.
    failure: Option<AgentError>,
    /// Of all commands that were started.
    leaders: Vec<Pid>,
    /// Outputs of ended tasks that other processes of theirs may still write to. What comes there is dropped.
    spilling: Vec<OwnedFd>,
    /// The guest has asked for the time; commands start when it knows that, or then.
    clock_until: Option<Instant>,
}

#[derive(Debug)]
struct Task {
    number: u16,
    state: State,
}

#[derive(Debug)]
enum State {
    Collecting(Box<Collecting>),
    Ready(Box<Ready>),
    Running(Box<Running>),
    /// EXIT or FAILED was sent. Messages that crossed it on the way are ignored.
    Over,
}

impl Task {
    fn running(&self) -> Option<&Running> {
        if let State::Running(running) = &self.state { Some(running) } else { None }
    }

    fn running_mut(&mut self) -> Option<&mut Running> {
        if let State::Running(running) = &mut self.state { Some(running) } else { None }
    }
}

impl Tasks {
    /// None yet, and one will come.
    pub fn new() -> Self {
        Self {
            expected: 1,
            list: Vec::new(),
            failure: None,
            leaders: Vec::new(),
            spilling: Vec::new(),
            clock_until: None,
        }
    }

    /// Those that run.
    fn running(&self) -> impl Iterator<Item = &Running> {
        self.list.iter().filter_map(Task::running)
    }

    /// Whether a command runs.
    pub fn are_running(&self) -> bool {
        self.running().next().is_some()
    }

    /// The leaders of all that may have processes.
    pub fn leaders(&self) -> &[Pid] {
        let is_over =
            self.list.len() == self.expected && self.list.iter().all(|task| matches!(task.state, State::Over));
        if is_over && self.expected == 1 { &[] } else { &self.leaders }
    }

    /// Descriptors that report a leader's death.
    pub fn deaths(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running().filter_map(Running::leader_events)
    }

    /// Descriptors to write to.
    pub fn inputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running().filter_map(|running| running.input.waiting())
    }

    /// Descriptors to read from or to accept from, while there is room for what they say.
    pub fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running()
            .flat_map(|running| running.outputs.iter().filter_map(OutputPump::waiting).chain(running.waiting()))
    }

    /// Sockets that something can be done with, while there is room for what they say.
    pub fn sockets(&self, has_room: bool) -> impl Iterator<Item = PollFd<'_>> {
        self.running().flat_map(move |running| running.sockets.iter().filter_map(move |socket| socket.wanted(has_room)))
    }

    /// Descriptors to read from in any case.
    pub fn spilling(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.spilling.iter().map(AsFd::as_fd)
    }

    /// When to look again even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.running().filter_map(Running::deadline).chain(self.clock_until).min()
    }

    /// Acts on a message for the task of this number.
    pub fn handle<M: Machine>(
        &mut self,
        number: u16,
        message: ToGuest<'_>,
        machine: &mut M,
        out: &mut SendQueue,
    ) -> Result<(), ProtoError> {
        if let ToGuest::Tasks(count) = message {
            self.expected = usize::from(count).max(1);
            return Ok(());
        }
        if let ToGuest::Clock(nanoseconds) = message
            && self.clock_until.is_some()
        {
            return self.hear_clock(nanoseconds, machine, out);
        }
        let at = self.list.iter().position(|task| task.number == number).unwrap_or_else(|| {
            self.list.push(Task { number, state: State::Collecting(Box::default()) });
            self.list.len() - 1
        });
        match &mut self.list[at].state {
            State::Over => Ok(()),
            State::Running(running) => running.handle(message, out),
            State::Collecting(collecting) if message == ToGuest::Start => {
                let collected = std::mem::take(&mut **collecting);
                // A command that runs would see the clock jump.
                if self.clock_until.is_none() && !self.are_running() && machine.ask_again_for_clock() {
                    out.send(0, &ToHost::AskClock);
                    self.clock_until = Some(Instant::now() + PATIENCE);
                }
                self.list[at].state = if self.clock_until.is_some() {
                    State::Ready(Box::new(Ready::new(collected)))
                } else {
                    self.start(number, collected, machine, out)
                };
                Ok(())
            }
            State::Ready(ready) => ready.keep(message),
            State::Collecting(collecting) => collecting.handle(message, machine, &mut self.failure),
        }
    }

    /// The answer to ASK-CLOCK. It was asked for only when no command ran.
    fn hear_clock<M: Machine>(
        &mut self,
        nanoseconds: u64,
        machine: &mut M,
        out: &mut SendQueue,
    ) -> Result<(), ProtoError> {
        if let Err(error) = machine.set_clock(nanoseconds) {
            self.failure.get_or_insert(error);
        }
        if machine.ask_again_for_clock() {
            out.send(0, &ToHost::AskClock);
            return Ok(());
        }
        self.start_those_that_are_ready(machine, out)
    }

    fn start_those_that_are_ready<M: Machine>(
        &mut self,
        machine: &mut M,
        out: &mut SendQueue,
    ) -> Result<(), ProtoError> {
        self.clock_until = None;
        for at in 0..self.list.len() {
            let Task { number, state } = &mut self.list[at];
            if !matches!(state, State::Ready(_)) {
                continue;
            }
            let (number, State::Ready(ready)) = (*number, std::mem::replace(state, State::Over)) else { continue };
            let Ready { collected, later } = *ready;
            self.list[at].state = self.start(number, collected, machine, out);
            for message in later {
                self.handle(number, message, machine, out)?;
            }
        }
        Ok(())
    }

    fn start<M: Machine>(&mut self, task: u16, collected: Collecting, machine: &mut M, out: &mut SendQueue) -> State {
        self.spawn(task, collected, machine, out).map_or(State::Over, |running| State::Running(Box::new(running)))
    }

    fn spawn<M: Machine>(
        &mut self,
        task: u16,
        mut collected: Collecting,
        machine: &mut M,
        out: &mut SendQueue,
    ) -> Option<Running> {
        // A file that is open for writing cannot be executed (ETXTBSY), and the last one may be the command.
        collected.file = None;
        let failure = self.failure.as_ref().or(collected.failure.as_ref()).map(ToString::to_string);
        if let Some(why) = failure.or_else(|| machine.check_links().err().map(|error| error.to_string())) {
            out.send(task, &ToHost::Failed(FailKind::Setup, why.as_bytes()));
            return None;
        }
        machine.wait_for_memory();
        // Before the command could look for it.
        let listener = match collected.spec.listener.map(Listener::open).transpose() {
            Ok(listener) => listener,
            Err(error) => {
                out.send(task, &ToHost::Failed(FailKind::Setup, error.to_string().as_bytes()));
                return None;
            }
        };
        let spawned = match exec::spawn(&collected.spec) {
            Ok(spawned) => spawned,
            Err(error) => {
                out.send(task, &ToHost::Failed(error.kind, error.text.as_bytes()));
                return None;
            }
        };
        if let Some(errno) = spawned.cwd_error {
            let cwd = String::from_utf8_lossy(&collected.spec.cwd);
            let text = format!("cannot enter '{cwd}' in the VM: {}; running in /tmp instead", errno.desc());
            out.send(task, &ToHost::Warning(text.as_bytes()));
        }
        let pid = spawned.pid;
        self.leaders.push(pid);
        match Running::new(task, spawned, listener) {
            Ok(running) => {
                out.send(task, &ToHost::Started(pid.as_raw() as u32));
                Some(running)
            }
            Err((leader, error)) => {
                sys::signal_process(leader, libc::SIGKILL as u8);
                out.send(task, &ToHost::Failed(FailKind::Setup, error.to_string().as_bytes()));
                None
            }
        }
    }

    /// Moves everything forward that can be moved now. `child_died` says that reaping is due.
    ///
    /// # Errors
    /// The fault of the runner: what it has said to a command that waited.
    pub fn advance<M: Machine>(
        &mut self,
        child_died: bool,
        machine: &mut M,
        out: &mut SendQueue,
    ) -> Result<(), ProtoError> {
        if self.clock_until.is_some_and(|until| Instant::now() >= until) {
            self.start_those_that_are_ready(machine, out)?;
        }
        if child_died {
            self.reap(machine, out);
        }
        for task in &mut self.list {
            let State::Running(running) = &mut task.state else { continue };
            running.advance(machine, out);
            if running.is_over() {
                self.spilling.extend(running.spilling());
                task.state = State::Over;
            }
        }
        self.spilling.retain(is_open);
        Ok(())
    }

    fn reap<M: Machine>(&mut self, machine: &mut M, out: &mut SendQueue) {
        let reaped = machine.reap(&self.leaders);
        let mut none_left = reaped.none_left;
        for (leader, status) in reaped.leaders {
            let Some(at) = self.list.iter().position(|task| task.running().is_some_and(|it| it.leader == leader))
            else {
                continue;
            };
            let has_ended = |task: &Task| match &task.state {
                State::Collecting(_) | State::Ready(_) => false,
                State::Running(running) => running.is_dead() || running.leader == leader,
                State::Over => true,
            };
            let is_last = self.list.len() >= self.expected && self.list.iter().all(has_ended);
            if is_last {
                // A step ends with its last task, so background processes are killed too.
                machine.kill_tasks(&self.leaders);
                none_left = machine.reap(&self.leaders).none_left;
            }
            if let Some(running) = self.list[at].running_mut() {
                running.died(status, is_last, out);
            }
        }
        if none_left {
            self.list.iter_mut().filter_map(Task::running_mut).for_each(Running::none_left);
        }
    }
}

/// Drops what can be read there; `false` at the end.
fn is_open(fd: &OwnedFd) -> bool {
    let mut buffer = [0; DATA_CHUNK / 4];
    match read(fd, &mut buffer) {
        Ok(n) => n > 0,
        Err(errno) => matches!(errno, Errno::EAGAIN | Errno::EINTR),
    }
}
