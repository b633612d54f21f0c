//! One command in a VM: its streams' windows, its signals, its end.

use std::time::Instant;

use nix::poll::PollFd;

use super::end::End;
use super::output::Output;
use super::streams::Streams;
use super::way::Way;
use crate::notice::printable;
use crate::progress;
use crate::session::{Address, Outgoing, Refusal};
use crate::signals::{Signal, is_fatal};
use crate::timing::Moments;
use node::progress::Phase;
use proto::{DATA_CHUNK, ExitStatus, ProtoError, RecvWindow, SendWindow, Stream, ToGuest, ToHost};

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The agent does not know it yet.
    Waiting,
    /// Its description was sent.
    Starting,
    /// It runs.
    Running,
    /// Nothing more will come.
    Ended(End),
}

/// An event for a command that cannot take it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Signal(Signal),
    Eof(Stream),
    Resize { rows: u16, cols: u16 },
}

impl Held {
    fn message(self) -> ToGuest<'static> {
        match self {
            Self::Signal(signal) => ToGuest::Signal(signal),
            Self::Eof(stream) => ToGuest::Eof(stream),
            Self::Resize { rows, cols } => ToGuest::Resize { rows, cols },
        }
    }

    /// Whether `later` makes this one useless. The kernel does the same with pending signals: it keeps each signal
    /// once, and of stop and continue only the last one.
    fn is_superseded_by(self, later: Self) -> bool {
        let is = |held, signal| held == Self::Signal(signal as Signal);
        let (stop, go) = (libc::SIGTSTP, libc::SIGCONT);
        match (self, later) {
            (Self::Resize { .. }, Self::Resize { .. }) => true,
            (earlier, later) if is(earlier, stop) && is(later, go) || is(earlier, go) && is(later, stop) => true,
            (earlier, later) => earlier == later,
        }
    }
}

/// A command that is attached to a VM.
#[derive(Debug)]
pub struct Attached {
    /// Its VM and task number.
    pub address: Address,
    /// Its number among those that share the task's streams.
    writer: usize,
    state: State,
    /// In the order they came.
    held: Vec<Held>,
    /// Credit for stdin.
    stdin: SendWindow,
    received: [RecvWindow; 2],
    /// Bytes of each output that were passed on but not yet counted in `received`.
    passed_on: [usize; 2],
    /// What it has besides its streams.
    ways: Vec<Way>,
    started: Option<Instant>,
    first_output: Option<Instant>,
    ended: Option<Instant>,
}

impl Attached {
    /// A command that has yet to be described to the agent. Its output has the number `writer`.
    pub fn new(address: Address, writer: usize) -> Self {
        Self {
            address,
            writer,
            state: State::Waiting,
            held: Vec::new(),
            stdin: SendWindow::default(),
            received: Default::default(),
            passed_on: [0; 2],
            ways: Vec::new(),
            started: None,
            first_output: None,
            ended: None,
        }
    }

    /// Gives it these ways to Slurm.
    pub(super) fn connect(&mut self, ways: Vec<Way>) {
        self.ways = ways;
    }

    /// Whether the agent does not know it yet.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<&End> {
        if let State::Ended(end) = &self.state { Some(end) } else { None }
    }

    /// Whether nothing more will come.
    pub fn has_ended(&self) -> bool {
        self.end().is_some()
    }

    /// Adds its moments to those of its VM.
    pub fn complete(&self, moments: &mut Moments) {
        (moments.started, moments.first_output, moments.ended) = (self.started, self.first_output, self.ended);
    }

    /// Sends its description and START, and then the events that were kept for it.
    pub fn start(&mut self, description: &[u8], out: &mut Outgoing) {
        out.send_frames(description);
        for held in self.held.drain(..) {
            out.send(self.address.task, &held.message());
        }
        self.state = State::Starting;
    }

    /// Ends it, unless it has ended: its last unfinished lines are passed on.
    pub fn finish(&mut self, end: End, streams: &mut Streams) {
        if !self.has_ended() {
            self.ended = Some(Instant::now());
            self.state = State::Ended(end);
            streams.outputs().for_each(|output| output.flush_partial(self.writer));
        }
    }

    /// Passes a signal on. A command that has not started gets it later, or ends because of it, like a process
    /// before exec.
    pub fn signal(&mut self, signal: Signal, streams: &mut Streams, out: &mut Outgoing) {
        if self.is_waiting() && is_fatal(signal) {
            self.finish(End::Exited(ExitStatus::Signal(signal)), streams);
        }
        self.tell(Held::Signal(signal), out);
    }

    /// Tells it that this stream is closed on our side, for reading or writing.
    pub fn end_of(&mut self, stream: Stream, out: &mut Outgoing) {
        self.tell(Held::Eof(stream), out);
    }

    /// Tells it its terminal's size.
    pub fn resize(&mut self, rows: u16, cols: u16, out: &mut Outgoing) {
        self.tell(Held::Resize { rows, cols }, out);
    }

    fn tell(&mut self, what: Held, out: &mut Outgoing) {
        match self.state {
            State::Waiting => {
                self.held.retain(|held| !held.is_superseded_by(what));
                self.held.push(what);
            }
            State::Starting | State::Running => out.send(self.address.task, &what.message()),
            State::Ended(_) => {}
        }
    }

    /// Bytes of stdin that may be sent now.
    pub fn stdin_room(&self) -> usize {
        // Nothing is read before it runs: a failed start leaves stdin untouched.
        if self.is_running() { self.stdin.available().min(DATA_CHUNK) } else { 0 }
    }

    /// Sends bytes of stdin, at most [`Attached::stdin_room`].
    pub fn send_stdin(&mut self, bytes: &[u8], out: &mut Outgoing) {
        self.stdin.spend(bytes.len());
        out.send(self.address.task, &ToGuest::Data(Stream::Stdin, bytes));
    }

    /// Notes that some of its output was written, so credit must be returned.
    pub fn output_written(&mut self, stream: Stream, bytes: usize) {
        self.passed_on[index(stream)] += bytes;
    }

    /// The sockets to poll.
    pub fn wanted(&self) -> impl Iterator<Item = PollFd<'_>> {
        // Nothing is read before it runs.
        self.ways.iter().filter(|_| self.is_running()).filter_map(Way::wanted)
    }

    /// Moves what can be moved between its sockets and those of the task. Returns lines for the user.
    pub fn pass_sockets(&mut self, out: &mut Outgoing) -> Vec<String> {
        let (task, is_running) = (self.address.task, self.is_running());
        let ways = self.ways.iter_mut().filter(|_| is_running);
        ways.filter_map(|way| way.pass_on(task, out)).collect()
    }

    /// Returns credit for what was written. A guest that sends but does not read gets none, or its queue would
    /// grow.
    pub fn return_credit(&mut self, out: &mut Outgoing) {
        if out.len() > DATA_CHUNK || self.has_ended() {
            return;
        }
        self.ways.iter_mut().for_each(|way| way.answer(self.address.task, out));
        if self.passed_on == [0; 2] {
            return;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let bytes = std::mem::take(&mut self.passed_on[index(stream)]);
            if let Some(credit) = self.received[index(stream)].consume(bytes) {
                out.send(self.address.task, &ToGuest::Window(stream, credit));
            }
        }
    }

    /// Takes a message of the agent about it.
    ///
    /// # Errors
    /// A message that is not allowed now.
    pub fn hear(&mut self, message: ToHost<'_>, streams: &mut Streams) -> Result<(), Refusal> {
        match (&self.state, message) {
            // The message was sent before the command was declared ended.
            (State::Ended(_), _) => {}
            (State::Starting, ToHost::Started(_)) => {
                self.started = Some(Instant::now());
                self.state = State::Running;
                progress::enter(Phase::Run);
                tracing::debug!(vm = self.address.vm, "the command runs");
            }
            (State::Waiting | State::Starting, ToHost::Failed(kind, text)) => {
                self.finish(End::NotStarted(kind, printable(text)), streams);
            }
            (State::Running, ToHost::Data(Stream::Socket(place), bytes)) => {
                if let Some(line) = self.way(place)?.hear(bytes)? {
                    streams.notice(&format!("error: {line}"));
                }
            }
            (State::Running, ToHost::Eof(Stream::Socket(place))) => self.way(place)?.close()?,
            (State::Running, ToHost::Window(Stream::Socket(place), bytes)) => self.way(place)?.refill(bytes)?,
            (State::Running, ToHost::Data(stream, bytes)) => {
                let output = of(streams, stream).ok_or(ProtoError::OutOfOrder("DATA"))?;
                self.first_output.get_or_insert_with(Instant::now);
                self.received[index(stream)].receive(stream.number(), bytes.len())?;
                output.push(self.writer, bytes);
            }
            (State::Running, ToHost::Eof(stream)) => {
                if let Some(output) = of(streams, stream) {
                    output.flush_partial(self.writer);
                }
            }
            (State::Running, ToHost::Window(Stream::Stdin, bytes)) => self.stdin.refill(bytes)?,
            (State::Running, ToHost::Exit(status)) => self.finish(End::Exited(status), streams),
            (_, message) => return Err(ProtoError::OutOfOrder(name(&message)).into()),
        }
        Ok(())
    }

    fn way(&mut self, place: u8) -> Result<&mut Way, ProtoError> {
        self.ways.get_mut(usize::from(place)).ok_or(ProtoError::OutOfOrder("a socket that the task does not have"))
    }
}

fn of(streams: &mut Streams, stream: Stream) -> Option<&mut Output> {
    match stream {
        Stream::Stdout => Some(&mut streams.stdout),
        Stream::Stderr => Some(&mut streams.stderr),
        Stream::Stdin | Stream::Socket(_) => None,
    }
}

/// The index of an output among the two.
fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

fn name(message: &ToHost<'_>) -> &'static str {
    match message {
        ToHost::Hello { .. } => "HELLO",
        ToHost::Started(_) => "STARTED",
        ToHost::Failed(..) => "FAILED",
        ToHost::Data(..) => "DATA",
        ToHost::Eof(_) => "EOF",
        ToHost::Window(..) => "WINDOW",
        ToHost::Exit(_) => "EXIT",
        ToHost::Pong => "PONG",
        ToHost::AskClock => "ASK-CLOCK",
        ToHost::Synced => "SYNCED",
        ToHost::Warning(_) => "WARNING",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(signals: &[i32]) -> Vec<Held> {
        let mut out = Outgoing::default();
        let mut command = Attached::new(Address { vm: 0, task: 0 }, 0);
        signals.iter().for_each(|&signal| command.tell(Held::Signal(signal as Signal), &mut out));
        assert!(out.is_empty());
        command.held
    }

    #[test]
    fn what_comes_for_a_command_that_has_not_started_is_kept_as_the_kernel_does() {
        let signal = |signal: i32| Held::Signal(signal as Signal);
        let (urg, winch, stop, go) = (libc::SIGURG, libc::SIGWINCH, libc::SIGTSTP, libc::SIGCONT);
        assert_eq!(held(&[urg, winch, urg]), [signal(winch), signal(urg)]);
        assert_eq!(held(&[stop, go, stop, urg, go]), [signal(urg), signal(go)]);
    }
}
