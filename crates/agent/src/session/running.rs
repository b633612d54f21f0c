//! A command that runs: its streams, its signals, its end.
//!
//! The end of the last task is the session's: all processes are killed first, as slurmstepd does at the end of a step.
//! If other tasks go on, or are still to come, so do the processes that the command has started.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use proto::{DATA_CHUNK, ExitStatus, ProtoError, Stream, ToGuest, ToHost};

use crate::children::REAP_TIME;
use crate::error::{AgentError, Doing};
use crate::exec::Spawned;
use crate::machine::Machine;
use crate::port::SendQueue;
use crate::pump::{InputPump, OutputPump, output_index};
use crate::socket::{Listener, SocketPump};
use crate::sys;

/// A task's command.
#[derive(Debug)]
pub(super) struct Running {
    task: u16,
    pub leader: Pid,
    /// Readable when the leader has died; dropped when it was reaped. Kernels before 5.3 do not have it: there the
    /// machine's own watch over children reports the death.
    leader_fd: Option<OwnedFd>,
    pub input: InputPump,
    /// Standard output and standard error.
    pub outputs: [OutputPump; 2],
    /// What it has besides.
    pub sockets: Vec<SocketPump>,
    /// Where it finds its server: connections are the last of the sockets.
    listener: Option<TcpListener>,
    /// Our copy of the command's side of its terminal. Without it, a shell that closes its three
    /// descriptors for a moment would look like the end of the output.
    terminal: Option<OwnedFd>,
    /// The terminal's other side, to change its size.
    master: Option<OwnedFd>,
    end: Option<End>,
    over: bool,
    buffer: Vec<u8>,
}

/// How long the end of a terminal is waited for that nobody of the command has open any more.
const TERMINAL_TIME: Duration = Duration::from_secs(2);

/// The time between the leader's death and EXIT.
#[derive(Debug)]
struct End {
    status: ExitStatus,
    /// Deadline of the wait for processes that cannot be killed, and then for what a terminal still has to bring.
    deadline: Instant,
    /// Nothing is waited for, or it is gone.
    none_left: bool,
    /// A terminal of an old kernel may still have to bring what was written last.
    awaits_terminal: bool,
    /// Others go on.
    is_one_of_several: bool,
}

impl Running {
    /// Takes over a command that was just started.
    ///
    /// # Errors
    /// The pid to clean up after, and why the command cannot be watched.
    pub fn new(task: u16, spawned: Spawned, listener: Option<Listener>) -> Result<Self, (Pid, AgentError)> {
        let leader = spawned.pid;
        let is_terminal = spawned.terminal.is_some();
        let leader_fd = match sys::pidfd(leader) {
            Ok(fd) => Some(fd),
            Err(Errno::ENOSYS) => None,
            Err(errno) => return Err((leader, AgentError::Os { doing: "watch the command".to_owned(), errno })),
        };
        let master = match is_terminal {
            true => Some(
                spawned
                    .stdout
                    .try_clone()
                    .doing(|| "watch the terminal".to_owned())
                    .map_err(|error| (leader, error))?,
            ),
            false => None,
        };
        let mut sockets: Vec<_> =
            (0..).zip(spawned.sockets).map(|(place, socket)| SocketPump::new(place, socket)).collect();
        let first = sockets.len() as u8;
        let connections = listener.as_ref().map_or(0, |listener| listener.connections);
        sockets.extend((first..first + connections).map(SocketPump::place));
        let listener = listener.map(|listener| listener.socket);
        Ok(Self {
            task,
            leader,
            leader_fd,
            input: InputPump::new(spawned.stdin, is_terminal),
            outputs: [
                OutputPump::new(Stream::Stdout, Some(spawned.stdout)),
                OutputPump::new(Stream::Stderr, spawned.stderr),
            ],
            sockets,
            listener,
            terminal: spawned.terminal,
            master,
            end: None,
            over: false,
            buffer: vec![0; DATA_CHUNK],
        })
    }

    /// The descriptor that reports the leader's death.
    pub fn leader_events(&self) -> Option<BorrowedFd<'_>> {
        self.leader_fd.as_ref().map(AsFd::as_fd)
    }

    /// When to look again even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.end.as_ref().filter(|end| !end.none_left || end.awaits_terminal).map(|end| end.deadline)
    }

    /// Whether EXIT was sent.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Acts on a message of the runner.
    pub fn handle(&mut self, message: ToGuest<'_>, out: &mut SendQueue) -> Result<(), ProtoError> {
        match message {
            ToGuest::Data(Stream::Stdin, bytes) => {
                let credit = self.input.receive(bytes)?;
                self.give_back(credit, out);
            }
            ToGuest::Eof(Stream::Stdin) => self.input.end(),
            ToGuest::Data(Stream::Socket(place), bytes) => self.socket(place)?.receive(bytes)?,
            ToGuest::Eof(Stream::Socket(place)) => self.socket(place)?.end()?,
            ToGuest::Window(Stream::Socket(place), bytes) => self.socket(place)?.refill(bytes)?,
            // Nobody reads this output any more: the command's next write to it is SIGPIPE, as on the host.
            ToGuest::Eof(stream) => {
                let index = output_index(stream).ok_or(ProtoError::OutOfOrder("EOF"))?;
                self.outputs[index].cut_off(self.task, out);
            }
            ToGuest::Window(stream, bytes) => {
                let index = output_index(stream).ok_or(ProtoError::OutOfOrder("WINDOW"))?;
                self.outputs[index].refill(bytes)?;
            }
            ToGuest::Signal(signo) => self.signal(signo),
            ToGuest::Resize { rows, cols } => {
                if let Some(master) = &self.master {
                    // If the terminal is closing, its size does not matter.
                    let _ = sys::set_terminal_size(master.as_fd(), rows, cols);
                }
            }
            _ => return Err(ProtoError::OutOfOrder("task description")),
        }
        Ok(())
    }

    /// Moves everything forward that can be moved now.
    pub fn advance<M: Machine>(&mut self, machine: &mut M, out: &mut SendQueue) {
        let credit = self.input.pass_on();
        self.give_back(credit, out);
        if let Some(end) = self.end.as_mut().filter(|end| end.awaits_terminal && Instant::now() >= end.deadline) {
            end.awaits_terminal = false;
            // A stranger has it open, or it would have ended.
            self.outputs.iter_mut().for_each(OutputPump::finish_for_all);
        }
        for output in &mut self.outputs {
            if out.has_room() {
                output.pass_on(self.task, &mut self.buffer, out);
            }
            while output.is_finishing() && out.has_room() {
                output.pass_on(self.task, &mut self.buffer, out);
            }
        }
        self.accept();
        for socket in &mut self.sockets {
            socket.pass_on(self.task, &mut self.buffer, out);
        }
        self.finish(machine, out);
    }

    /// The listener, while a connection could be taken.
    pub fn waiting(&self) -> Option<BorrowedFd<'_>> {
        let listener = self.listener.as_ref().filter(|_| self.sockets.iter().any(SocketPump::is_free))?;
        Some(listener.as_fd())
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        for place in self.sockets.iter_mut().filter(|socket| socket.is_free()) {
            // A connection that has gone again, or cannot be had now, is the command's to try again.
            let Ok((connection, _)) = listener.accept() else { return };
            if connection.set_nonblocking(true).and(connection.set_nodelay(true)).is_ok() {
                place.connect(connection.into());
            }
        }
    }

    fn socket(&mut self, place: u8) -> Result<&mut SocketPump, ProtoError> {
        self.sockets.get_mut(usize::from(place)).ok_or(ProtoError::OutOfOrder("a socket that the task does not have"))
    }

    /// Whether its leader has died.
    pub fn is_dead(&self) -> bool {
        self.end.is_some()
    }

    /// Its leader was reaped. `is_last` says that all processes were killed because of that.
    pub fn died(&mut self, status: ExitStatus, is_last: bool, out: &mut SendQueue) {
        let (deadline, none_left) = (Instant::now() + REAP_TIME, !is_last);
        self.end = Some(End { status, deadline, none_left, awaits_terminal: false, is_one_of_several: !is_last });
        self.leader_fd = None;
        self.terminal = None;
        if !is_last {
            self.outputs.iter_mut().for_each(OutputPump::finish);
        }
        let credit = self.input.stop();
        self.give_back(credit, out);
    }

    /// No process is left.
    pub fn none_left(&mut self) {
        let Some(end) = &mut self.end else { return };
        let is_new = !std::mem::replace(&mut end.none_left, true);
        match self.master {
            None => self.outputs.iter_mut().for_each(OutputPump::finish_for_all),
            Some(_) if is_new => {
                end.awaits_terminal = true;
                end.deadline = Instant::now() + TERMINAL_TIME;
            }
            Some(_) => {}
        }
    }

    /// What others of its processes may still write to, after EXIT.
    pub fn spilling(&mut self) -> impl Iterator<Item = OwnedFd> {
        self.outputs.iter_mut().filter_map(OutputPump::take_spilling)
    }

    fn give_back(&mut self, credit: Option<u32>, out: &mut SendQueue) {
        if let Some(bytes) = credit {
            out.send(self.task, &ToHost::Window(Stream::Stdin, bytes));
        }
    }

    /// Signals only the command, as slurmstepd does; the command decides what its children get.
    /// The leader was not reaped before `end` is set, so its
    /// number cannot belong to anybody else yet.
    fn signal(&self, signo: u8) {
        if self.end.is_none() {
            // Numbers outside nix's enum (real-time signals) are signals too.
            sys::signal_process(self.leader, signo);
        }
    }

    /// Sends EXIT once nothing is left and all output was sent.
    fn finish<M: Machine>(&mut self, machine: &mut M, out: &mut SendQueue) {
        let Some(end) = &self.end else { return };
        if !end.none_left {
            if Instant::now() < end.deadline {
                return;
            }
            let text = b"processes of the command could not be killed; they end with the VM";
            out.send(self.task, &ToHost::Warning(text));
            for output in &mut self.outputs {
                output.cut_off(self.task, out);
            }
        }
        if !self.outputs.iter().all(OutputPump::has_ended) {
            return;
        }
        self.listener = None;
        for socket in &mut self.sockets {
            socket.finish(self.task, &mut self.buffer, out);
        }
        if let Some(text) = machine.killed_for_memory() {
            out.send(self.task, &ToHost::Warning(text.as_bytes()));
        }
        // Others may keep the host busy for ever. What this command wrote itself is there.
        if !end.is_one_of_several
            && let Err(error) = machine.sync_shares()
        {
            out.send(self.task, &ToHost::Warning(error.to_string().as_bytes()));
        }
        out.send(self.task, &ToHost::Exit(end.status));
        self.over = true;
    }
}
