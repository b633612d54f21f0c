//! One session with the runner: from its HELLO to the end of the connection.

mod running;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use proto::{FailKind, Level, ProtoError, ToGuest, ToHost, VERSION};

use super::accounts::Account;
use super::error::{AgentError, Doing};
use super::exec;
use super::files::IncomingFile;
use super::machine::{Machine, Share};
use super::memory::LOOK_EVERY;
use super::port::{Incoming, Port, SendQueue};
use super::pump::OutputPump;
use super::task::{Credentials, Priority, ResourceLimit, TaskSpec, TerminalSize};
use running::Running;

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
    /// The task is being described.
    Collecting(Box<Collecting>),
    Running(Box<Running>),
    /// EXIT or FAILED was sent. Messages that crossed it on the way are ignored.
    Over,
}

#[derive(Debug, Default)]
struct Collecting {
    spec: TaskSpec,
    file: Option<IncomingFile>,
    /// The first thing that went wrong. It is reported at START, the only message to which the runner expects an
    /// answer.
    failure: Option<AgentError>,
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
        self.conversation.end_task();
        outcome
    }

    fn converse(&mut self) -> Result<(), AgentError> {
        let mut awaits_memory = true;
        loop {
            self.port.flush()?;
            let ready = self.wait(awaits_memory)?;
            if matches!(self.conversation.phase, Phase::Running(_)) {
                awaits_memory = awaits_memory && self.conversation.machine.awaits_memory();
            }
            if ready.port && !self.listen()? {
                return Ok(());
            }
            if let Phase::Running(running) = &mut self.conversation.phase {
                running.advance(ready.child, self.conversation.machine, &mut self.port.out);
                if running.is_over() {
                    self.conversation.phase = Phase::Over;
                }
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
        self.conversation.end_task();
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
        if let Phase::Running(running) = &self.conversation.phase {
            set.extend(running.leader_events().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        let children = set.len();
        if let Phase::Running(running) = &self.conversation.phase {
            set.extend(running.input.waiting().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
            if self.port.out.has_room() {
                let outputs = running.outputs.iter().filter_map(OutputPump::waiting);
                set.extend(outputs.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            }
            if awaits_memory {
                timeout = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::MAX);
            }
            if let Some(deadline) = running.deadline() {
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
        if let (ToGuest::Clock(nanoseconds), Phase::Running(_)) = (&message, &self.phase) {
            if let Err(error) = self.machine.follow_clock(*nanoseconds) {
                out.send(task, &ToHost::Log { level: Level::Warn, text: error.to_string().as_bytes() });
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
            Phase::Running(running) => running.handle(message, out),
            Phase::Collecting(collecting) if message == ToGuest::Start => {
                let collected = std::mem::take(&mut **collecting);
                self.start(task, collected, out);
                Ok(())
            }
            Phase::Collecting(collecting) => collecting.handle(message, self.machine),
        }
    }

    /// Starts again, whatever was before: a clone may wake up in the middle of its template's session.
    fn greet(&mut self, task: u16, nonce: u64, out: &mut SendQueue) {
        self.end_task();
        let times = self.machine.boot_times();
        self.machine.ask_for_clock();
        out.send(task, &ToHost::Hello { version: VERSION, nonce, times });
        self.phase = match self.machine.boot_error() {
            None => Phase::Collecting(Box::default()),
            Some(error) => {
                out.send(task, &ToHost::Failed(FailKind::Setup, error.to_string().as_bytes()));
                Phase::Over
            }
        };
    }

    /// Leaves nothing of the session behind.
    fn end_task(&mut self) {
        if let Phase::Running(running) = &self.phase {
            self.machine.end_task(running.leader);
        }
        self.phase = Phase::Over;
        self.machine.forget_session();
    }

    fn start(&mut self, task: u16, mut collected: Collecting, out: &mut SendQueue) {
        self.phase = Phase::Over;
        // A file that is open for writing cannot be executed (ETXTBSY), and the last one may be the command.
        collected.file = None;
        if let Some(error) = collected.failure.or_else(|| self.machine.check_links().err()) {
            out.send(task, &ToHost::Failed(FailKind::Setup, error.to_string().as_bytes()));
            return;
        }
        self.machine.wait_for_memory();
        let spawned = match exec::spawn(&collected.spec) {
            Ok(spawned) => spawned,
            Err(error) => {
                out.send(task, &ToHost::Failed(error.kind, error.text.as_bytes()));
                return;
            }
        };
        if let Some(errno) = spawned.cwd_error {
            let cwd = String::from_utf8_lossy(&collected.spec.cwd);
            let text = format!("cannot enter '{cwd}' in the VM: {}; running in /tmp instead", errno.desc());
            out.send(task, &ToHost::Log { level: Level::Warn, text: text.as_bytes() });
        }
        out.send(task, &ToHost::Started(spawned.pid.as_raw() as u32));
        match Running::new(task, spawned) {
            Ok(running) => self.phase = Phase::Running(Box::new(running)),
            Err((leader, error)) => {
                self.machine.end_task(leader);
                out.send(task, &ToHost::Failed(FailKind::Setup, error.to_string().as_bytes()));
            }
        }
    }
}

impl Collecting {
    fn handle<M: Machine>(&mut self, message: ToGuest<'_>, machine: &mut M) -> Result<(), ProtoError> {
        let outcome = self.collect(message, machine)?;
        if let Err(error) = outcome {
            self.failure.get_or_insert(error);
        }
        Ok(())
    }

    /// The outer error is the fault of the runner, the inner one of the guest.
    fn collect<M: Machine>(
        &mut self,
        message: ToGuest<'_>,
        machine: &mut M,
    ) -> Result<Result<(), AgentError>, ProtoError> {
        let spec = &mut self.spec;
        match message {
            ToGuest::Clock(nanoseconds) => return Ok(machine.set_clock(nanoseconds)),
            ToGuest::Hostname(name) => return Ok(machine.set_hostname(name)),
            ToGuest::Entropy(seed) => return Ok(machine.add_entropy(seed)),
            ToGuest::Share { transport, number, path, file, read_only } => {
                let (path, file) = (as_path(path), as_path(file));
                return Ok(machine.mount_share(Share { transport, number, path, file, read_only }));
            }
            ToGuest::Alias { path, target } => return Ok(machine.alias(as_path(path), as_path(target))),
            ToGuest::Home(path) => {
                let credentials = spec.credentials.as_ref().ok_or(ProtoError::OutOfOrder("HOME"))?;
                return Ok(machine.make_home(as_path(path), (credentials.uid, credentials.gid)));
            }
            ToGuest::Link { path, target } => return Ok(machine.link(as_path(path), as_path(target))),
            ToGuest::TakeBack => return Ok(machine.take_back()),
            ToGuest::Cpus(count) => return Ok(machine.use_cpus(count)),
            ToGuest::Memory(bytes) => machine.expect_memory(bytes),
            ToGuest::Zone { name, data } => return Ok(machine.set_zone(name, data)),
            ToGuest::Network(interface) => return Ok(machine.bring_network_up(&interface)),
            ToGuest::Hosts(lines) => return Ok(machine.add_hosts(lines)),
            ToGuest::Resolver(text) => return Ok(machine.set_resolver(text)),
            ToGuest::User { gid, name, gecos, home, shell } => {
                let [name, gecos, home, shell] = [name, gecos, home, shell].map(<[u8]>::to_vec);
                let groups = std::mem::take(&mut spec.account.groups);
                spec.account = Account { gid, name, gecos, home, shell, groups };
                return Ok(self.add_user(machine));
            }
            ToGuest::Group { gid, name } => spec.account.groups.push((gid, name.to_vec())),
            ToGuest::Credentials { uid, gid, umask, groups } => {
                spec.credentials = Some(Credentials { uid, gid, umask, groups });
                return Ok(self.add_user(machine));
            }
            ToGuest::Cwd(path) => spec.cwd = path.to_vec(),
            ToGuest::Arg(arg) => spec.args.push(arg.to_vec()),
            ToGuest::Env(pair) => spec.env.push(pair.to_vec()),
            ToGuest::Rlimit { resource, soft, hard } => spec.limits.push(ResourceLimit { resource, soft, hard }),
            ToGuest::Priority { nice, io } => spec.priority = Some(Priority { nice, io }),
            ToGuest::Pty { rows, cols } | ToGuest::Resize { rows, cols } => {
                spec.terminal = Some(TerminalSize { rows, cols });
            }
            ToGuest::MergeStderr => spec.merge_stderr = true,
            ToGuest::File { mode, path } => {
                let owner = spec.credentials.as_ref().map(|credentials| (credentials.uid, credentials.gid));
                let room = machine.expect_file(as_path(path));
                let created = room.and_then(|()| IncomingFile::create(as_path(path), mode, owner));
                return Ok(created.map(|file| self.file = Some(file)));
            }
            ToGuest::FileData(bytes) => match &mut self.file {
                Some(file) => return Ok(file.append(bytes)),
                // Its creation failed; START will report it.
                None if self.failure.is_some() => {}
                None => return Err(ProtoError::OutOfOrder("FILE-DATA")),
            },
            // A signal that came early: there is no process yet to signal.
            ToGuest::Signal(_) => {}
            ToGuest::Data(..) | ToGuest::Eof(_) | ToGuest::Window(..) => return Err(ProtoError::OutOfOrder("stream")),
            ToGuest::Hello { .. } | ToGuest::Settle | ToGuest::Ping | ToGuest::Start => {}
        }
        Ok(Ok(()))
    }

    /// USER and CREDENTIALS may come in any order; the entry is made when both are known.
    fn add_user<M: Machine>(&self, machine: &mut M) -> Result<(), AgentError> {
        match &self.spec.credentials {
            Some(credentials) if !self.spec.account.name.is_empty() => {
                machine.add_user(&self.spec.account, credentials)
            }
            _ => Ok(()),
        }
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
