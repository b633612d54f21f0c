//! One VM as the runner sees it: a process, a channel, and how far it has come.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::heartbeat::{Beat, Heartbeat};
use super::stdio::Output;
use super::timing::Moments;
use crate::notice;
use proto::{
    self, DATA_CHUNK, Decoder, ExitStatus, FailKind, Level, ProtoError, RecvWindow, SendWindow, Stream, ToGuest, ToHost,
};
use qemu::QemuProcess;
use qemu::printable;

/// How far a VM has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Phase {
    /// QEMU runs; the agent has not answered.
    Booting,
    /// The agent has answered and waits for its task.
    Up,
    /// The task's description was sent.
    Starting,
    /// The command runs.
    Running,
    /// Nothing more will come.
    Ended(End),
}

/// How a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its command ended.
    Exited(ExitStatus),
    /// Its command could not be started.
    NotStarted(FailKind, String),
    /// The guest never answered, so nothing of the command ran; the text says why, for the user.
    NeverUp(String),
    /// The VM itself failed later; the text says how.
    Broken(String),
    /// This node lacks something that the VM needs: room for its disk, say.
    NodeFailed(String),
    /// Its command succeeded, but its root could not be saved; the text says why.
    NotSaved(String),
}

/// The two outputs that the VMs of a slot share, and what the agent of a new VM must be told.
#[derive(Debug)]
pub struct Outputs {
    /// The task's stdout.
    pub stdout: Output,
    /// The task's stderr.
    pub stderr: Output,
}

impl Outputs {
    fn of(&mut self, stream: Stream) -> Option<&mut Output> {
        match stream {
            Stream::Stdout => Some(&mut self.stdout),
            Stream::Stderr => Some(&mut self.stderr),
            Stream::Stdin => None,
        }
    }
}

/// Lines that one agent may log; ours says a handful.
const LOG_LINES: usize = 200;

/// Bytes taken from one VM before the others get their turn.
const TURN: usize = 4 * DATA_CHUNK;

/// One VM of a slot.
#[derive(Debug)]
pub struct Vm {
    /// Its number within the slot, from 0.
    pub index: usize,
    /// QEMU.
    pub process: QemuProcess,
    /// How far it has come.
    pub phase: Phase,
    /// When what, for `--timing` and the log.
    pub moments: Moments,
    /// It goes on after a command that succeeded: its root is to be saved.
    pub keep: bool,
    /// Credit for stdin.
    stdin: SendWindow,
    received: [RecvWindow; 2],
    /// Bytes of each output that were passed on, and that `received` was not told of yet.
    passed_on: [usize; 2],
    /// Lines that the agent may still log.
    log_lines: usize,
    heartbeat: Heartbeat,
    /// Silence of a guest after which it is given up.
    pub silence_limit: Option<Duration>,
    decoder: Decoder,
    nonce: u64,
    unsent: Vec<u8>,
    /// Bytes of memory to be plugged in all once the guest is awake.
    memory_to_plug: Option<u64>,
}

impl Vm {
    /// A VM whose QEMU was just started. The HELLO waits in the channel until the agent opens it.
    /// A clone gets up to `memory_to_plug` bytes more once it is awake.
    pub fn new(index: usize, process: QemuProcess, nonce: u64, memory_to_plug: Option<u64>, moments: Moments) -> Self {
        let mut vm = Self {
            index,
            process,
            phase: Phase::Booting,
            moments,
            keep: false,
            stdin: SendWindow::default(),
            received: Default::default(),
            passed_on: [0; 2],
            log_lines: LOG_LINES,
            heartbeat: Heartbeat::default(),
            silence_limit: None,
            decoder: Decoder::new(),
            nonce,
            unsent: Vec::new(),
            memory_to_plug,
        };
        vm.send(ToGuest::Hello { version: proto::VERSION, nonce });
        vm
    }

    /// Whether nothing more will come.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// Whether the agent has answered.
    pub fn is_up(&self) -> bool {
        !matches!(self.phase, Phase::Booting)
    }

    /// Whether the agent waits for its task.
    pub fn is_waiting_for_task(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Queues a message. What is queued is bounded: stdin by its window, the rest by being rare.
    pub fn send(&mut self, message: ToGuest<'_>) {
        message.encode(0, &mut self.unsent);
    }

    /// Queues the messages of a task's description and the start of its command.
    pub fn start(&mut self, description: &[u8]) {
        self.unsent.extend_from_slice(description);
        self.phase = Phase::Starting;
    }

    /// Bytes of stdin that may be sent now.
    pub fn stdin_room(&self) -> usize {
        self.stdin.available().min(DATA_CHUNK)
    }

    /// Queues bytes of stdin, at most [`Vm::stdin_room`].
    pub fn send_stdin(&mut self, bytes: &[u8]) {
        self.stdin.spend(bytes.len());
        self.send(ToGuest::Data(Stream::Stdin, bytes));
    }

    /// Notes that output of this VM was written, and returns the credit.
    pub fn output_written(&mut self, stream: Stream, bytes: usize) {
        self.passed_on[stream as usize - 1] += bytes;
        self.return_credit();
    }

    /// A guest that sends and does not read gets no credit, else what is queued for it would grow.
    fn return_credit(&mut self) {
        if self.unsent.len() > DATA_CHUNK || self.has_ended() {
            return;
        }
        for (number, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let bytes = std::mem::take(&mut self.passed_on[number]);
            if let Some(credit) = self.received[number].consume(bytes) {
                self.send(ToGuest::Window(stream, credit));
            }
        }
    }

    /// Whether something waits to be sent.
    pub fn wants_to_send(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Bytes that wait to be sent.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Sends what the channel takes now.
    pub fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.process.channel.write(&self.unsent[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Anything but a full channel means QEMU is gone; reading finds out how.
                Err(_) => break,
            }
        }
        self.unsent.drain(..sent);
        self.return_credit();
    }

    /// Takes what the agent sent.
    pub fn receive(&mut self, outputs: &mut Outputs) {
        let mut buf = [0; DATA_CHUNK];
        let mut taken = 0;
        while taken < TURN && !self.has_ended() {
            match self.process.channel.read(&mut buf) {
                Ok(0) => self.lost(outputs),
                Ok(n) => {
                    taken += n;
                    if let Err(error) = self.decode(&buf[..n], outputs) {
                        self.fail(format!("the guest does not speak the protocol: {error}"), outputs);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.lost(outputs),
            }
        }
    }

    fn decode(&mut self, bytes: &[u8], outputs: &mut Outputs) -> Result<(), ProtoError> {
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.push(bytes);
        while let Some(frame) = decoder.next_frame()? {
            if self.heartbeat.answered() {
                notice::line("the guest answers again");
            }
            self.handle(ToHost::parse(frame)?, outputs)?;
        }
        self.decoder = decoder;
        Ok(())
    }

    fn handle(&mut self, message: ToHost<'_>, outputs: &mut Outputs) -> Result<(), ProtoError> {
        match (&self.phase, message) {
            (Phase::Booting, ToHost::Hello { version, nonce, times }) => {
                // Another nonce answers a session before this one.
                if nonce == self.nonce {
                    self.moments.ready = Some(Instant::now());
                    self.moments.boot = times;
                    tracing::debug!(vm = self.index, "the guest is up; describing the task");
                    self.phase = Phase::Up;
                    if let Some(bytes) = self.memory_to_plug {
                        // Nobody waits for it: it arrives faster than a command can use it up.
                        self.process.monitor.plug(bytes);
                    }
                    if version != proto::VERSION {
                        let why = format!(
                            "the boot kit's agent speaks protocol {version}, this program {}: rebuild the kit with \
                             'spank-vm kit build'",
                            proto::VERSION
                        );
                        self.fail(why, outputs);
                    }
                }
            }
            (_, ToHost::Log { level, text }) => self.log(level, text),
            (Phase::Starting, ToHost::Started(_)) => {
                self.moments.started = Some(Instant::now());
                self.phase = Phase::Running;
                self.heartbeat.begin(Instant::now(), self.silence_limit);
                tracing::debug!(vm = self.index, "the command runs");
            }
            (Phase::Up | Phase::Starting, ToHost::Failed(kind, text)) => {
                let text = printable(text);
                self.end(End::NotStarted(kind, text), outputs);
            }
            (Phase::Running, ToHost::Data(stream @ (Stream::Stdout | Stream::Stderr), bytes)) => {
                self.moments.first_output.get_or_insert_with(Instant::now);
                self.received[stream as usize - 1].receive(stream as u8, bytes.len())?;
                outputs.of(stream).expect("an output").push(self.index, bytes);
            }
            (Phase::Running, ToHost::Pong) => {}
            (Phase::Running, ToHost::Eof(stream)) => {
                if let Some(output) = outputs.of(stream) {
                    output.flush_partial(self.index);
                }
            }
            (Phase::Running, ToHost::Window(Stream::Stdin, bytes)) => self.stdin.refill(bytes)?,
            (Phase::Running, ToHost::Exit(status)) => self.end(End::Exited(status), outputs),
            // What was on its way when the VM was declared ended.
            (Phase::Ended(_), _) => {}
            (_, ToHost::Hello { .. }) => return Err(ProtoError::OutOfOrder("HELLO")),
            (_, ToHost::Started(_)) => return Err(ProtoError::OutOfOrder("STARTED")),
            (_, ToHost::Failed(..)) => return Err(ProtoError::OutOfOrder("FAILED")),
            (_, ToHost::Data(..)) => return Err(ProtoError::OutOfOrder("DATA")),
            (_, ToHost::Eof(_)) => return Err(ProtoError::OutOfOrder("EOF")),
            (_, ToHost::Window(..)) => return Err(ProtoError::OutOfOrder("WINDOW")),
            (_, ToHost::Pong) => return Err(ProtoError::OutOfOrder("PONG")),
            (_, ToHost::Synced) => return Err(ProtoError::OutOfOrder("SYNCED")),
            (_, ToHost::Exit(_)) => return Err(ProtoError::OutOfOrder("EXIT")),
        }
        Ok(())
    }

    /// Reads what QEMU has to tell beside the channel. A disk that cannot be written or read has stopped the VM.
    pub fn read_texts(&mut self, outputs: &mut Outputs) {
        self.process.read_texts();
        if let Some(why) = self.process.monitor.disk_error() {
            self.end(End::NodeFailed(why), outputs);
        }
    }

    /// Passes a line of the agent on. Their number is limited: they are not under flow control, and the
    /// administrator's journal is not the guest's to fill.
    fn log(&mut self, level: Level, text: &[u8]) {
        let Some(left) = self.log_lines.checked_sub(1) else { return };
        self.log_lines = left;
        let text = if left > 0 { printable(text) } else { "the agent says too much; the rest is left out".to_owned() };
        match level {
            Level::Warn => notice::line(&format!("warning: {text}")),
            Level::Info => tracing::info!(vm = self.index, "agent: {text}"),
            Level::Debug => tracing::debug!(vm = self.index, "agent: {text}"),
        }
    }

    /// By when the guest must have come further; `boot_deadline` is for its first answer, and what is left to do
    /// until its command runs may take `patience`.
    pub fn deadline(&self, boot_deadline: Instant, patience: Duration) -> Option<Instant> {
        match self.phase {
            Phase::Booting => Some(boot_deadline),
            Phase::Up | Phase::Starting => self.moments.ready.map(|ready| ready + patience),
            Phase::Running => self.heartbeat.next(),
            Phase::Ended(_) => None,
        }
    }

    /// Asks a guest whose command runs whether it is still there, and acts on its silence.
    pub fn check_heartbeat(&mut self, now: Instant, outputs: &mut Outputs) {
        let process = &self.process;
        match self.heartbeat.beat(now, || process.is_stopped()) {
            None => {}
            Some(Beat::Ask) => self.send(ToGuest::Ping),
            Some(Beat::Warn(silence)) => {
                self.process.read_texts();
                let (silence, words) = (silence.as_secs(), self.process.last_words());
                notice::line(&format!(
                    "warning: the guest has not answered for {silence} s{words}; it may come back, and scancel ends it"
                ));
            }
            Some(Beat::GiveUp(silence)) => {
                self.process.read_texts();
                let why =
                    format!("the guest has not answered for {} s{}", silence.as_secs(), self.process.last_words());
                self.fail(why, outputs);
            }
        }
    }

    /// Ends the VM because of something that is not its command's doing.
    pub fn fail(&mut self, why: String, outputs: &mut Outputs) {
        let end = if self.phase == Phase::Booting { End::NeverUp(why) } else { End::Broken(why) };
        self.end(end, outputs);
    }

    /// Ends the VM: QEMU is killed unless it is to be kept, its last unfinished lines are passed on.
    fn end(&mut self, end: End, outputs: &mut Outputs) {
        self.moments.ended = Some(Instant::now());
        if !(self.keep && end == End::Exited(ExitStatus::Code(0))) {
            self.process.kill();
        }
        outputs.stdout.flush_partial(self.index);
        outputs.stderr.flush_partial(self.index);
        self.unsent.clear();
        self.phase = Phase::Ended(end);
    }

    /// Waits until QEMU is gone.
    pub fn reap(&mut self) {
        self.process.finish();
        self.moments.resumed = self.process.monitor.resumed();
        self.moments.gone = Some(Instant::now());
    }

    /// The channel broke.
    fn lost(&mut self, outputs: &mut Outputs) {
        let why = self.process.exit_reason();
        self.fail(why, outputs);
    }
}
