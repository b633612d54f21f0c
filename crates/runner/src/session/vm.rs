//! One VM and the session with its agent: QEMU, its monitor and its channel, the guest's progress and deadline,
//! and why it ended. Commands are not known here; the listener handles them.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::backing::Backing;
use super::channel::{Address, Listener, Outgoing, Refusal};
use super::clock::{AwakeClock, Deadline};
use super::failure::Failure;
use super::heartbeat::{Beat, Heartbeat};
use super::keeper_frames::{Attach, Word};
use super::lesson::Lesson;
use super::wall_clock::{Answers, wall_clock};
use crate::file_server::{Ended, FileServer};
use crate::notice::printable;
use crate::progress;
use crate::timing::Moments;
use proto::{self, DATA_CHUNK, Decoder, ProtoError, ToGuest, ToHost};
use qemu::{DiskError, Monitor, QemuProcess, VmSize};

/// Bytes taken from one VM before the others get their turn.
const TURN: usize = 4 * DATA_CHUNK;

/// Warnings that one agent may send; ours sends only a few.
const WARNINGS_MOST: usize = 200;

/// What a VM must do next, and its deadline.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    deadline: Deadline,
    within: Duration,
    what: &'static str,
    advice: &'static str,
}

impl Wait {
    /// `what` says that it was not done, like `no answer`. In the message it is followed by the time and by `advice`.
    pub fn new(clock: &AwakeClock, within: Duration, what: &'static str, advice: &'static str) -> Self {
        Self { deadline: clock.deadline(within), within, what, advice }
    }

    /// For the agent's answer to the HELLO.
    pub fn answer(clock: &AwakeClock, within: Duration, advice: &'static str) -> Self {
        Self::new(clock, within, "no answer", advice)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The agent has not answered the HELLO.
    Greeting,
    /// It has answered and takes messages.
    Up,
    /// Nothing more will come.
    Over(Option<Failure>),
}

/// A VM with its process. Dropping it kills QEMU.
#[derive(Debug)]
pub struct Vm {
    /// Its number among those of its loop, from 0.
    pub number: usize,
    /// Times of events, for `--timing` and the log, without those of its tasks.
    pub moments: Moments,
    pub(super) process: Backing,
    /// What is said to a keeper after each HELLO.
    attach: Option<Attach>,
    /// What the keeper says of the VM.
    size: Option<VmSize>,
    /// Serves its shares, if there are any.
    file_server: Option<FileServer>,
    phase: Phase,
    has_answered: bool,
    nonce: u64,
    decoder: Decoder,
    out: Outgoing,
    wait: Option<Wait>,
    heartbeat: Heartbeat,
    answers: Answers,
    /// Total bytes of memory to plug when the guest is awake.
    memory_to_plug: Option<u64>,
    /// Warnings that the agent may still send.
    warnings: usize,
    /// Waits for the commands to begin.
    pub lesson: Option<Lesson>,
}

impl Vm {
    /// A VM whose QEMU was just started. A clone gets up to `memory_to_plug` bytes more when it is awake.
    pub fn new(number: usize, process: QemuProcess, memory_to_plug: Option<u64>, moments: Moments) -> Self {
        Self { memory_to_plug, ..Self::behind(Backing::Qemu(Box::new(process)), number, moments) }
    }

    /// A VM that a keeper has for several tasks.
    pub(crate) fn of_keeper(keeper: UnixStream, attach: Attach, moments: Moments) -> Self {
        Self { attach: Some(attach), ..Self::behind(Backing::Keeper(keeper), 0, moments) }
    }

    fn behind(process: Backing, number: usize, moments: Moments) -> Self {
        Self {
            number,
            moments,
            process,
            attach: None,
            size: None,
            file_server: None,
            phase: Phase::Greeting,
            has_answered: false,
            nonce: 0,
            decoder: Decoder::new(),
            out: Outgoing::default(),
            wait: None,
            heartbeat: Heartbeat::default(),
            answers: Answers::default(),
            memory_to_plug: None,
            warnings: WARNINGS_MOST,
            lesson: None,
        }
    }

    /// The VM's shares are served by this process: they end together.
    pub(crate) fn serve_files(&mut self, server: FileServer) {
        self.file_server = Some(server);
    }

    /// Begins a new session; the agent forgets all earlier ones. The HELLO waits in the channel until the agent
    /// opens it. `nonce` is any number that no earlier session of this guest had.
    pub fn greet(&mut self, nonce: u64, wait: Wait) {
        (self.phase, self.nonce, self.wait) = (Phase::Greeting, nonce, Some(wait));
        self.decoder.resynchronise();
        (self.heartbeat, self.answers) = (Heartbeat::default(), Answers::default());
        self.out.clear();
        self.out.send(0, &ToGuest::Hello { version: proto::VERSION, nonce });
        if let Some(attach) = &self.attach {
            let mut frame = Vec::new();
            attach.encode(&mut frame);
            self.out.send_frames(&frame);
        }
        // It may have been stopped since the last session.
        self.check_disks();
    }

    /// Sets what must happen next, and by when.
    pub fn expect(&mut self, wait: Wait) {
        self.wait = Some(wait);
    }

    /// Gives the next step more time.
    pub fn give_time(&mut self, more: Duration) {
        if let Some(wait) = &mut self.wait {
            wait.deadline.extend(more);
            wait.within += more;
        }
    }

    /// What must happen next.
    pub fn expected(&self) -> Option<Wait> {
        self.wait
    }

    /// Commands run from now on, for any time: only the heartbeat is checked. Silence of `limit` ends the VM.
    pub fn look_after(&mut self, clock: &AwakeClock, limit: Option<Duration>) {
        self.wait = None;
        self.heartbeat.begin(clock, limit);
    }

    /// The first command runs: what this clone has written until now is kept.
    pub fn learn(&mut self) {
        self.lesson.take().into_iter().for_each(|lesson| lesson.learn(&self.process));
    }

    fn ask(&mut self) {
        self.answers.ping();
        self.out.send(0, &ToGuest::Ping);
    }

    /// Whether the agent has answered, and the VM lives.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Whether the agent has ever answered.
    pub fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    /// Why it ended, if that was unexpected.
    pub fn failure(&self) -> Option<&Failure> {
        if let Phase::Over(failure) = &self.phase { failure.as_ref() } else { None }
    }

    /// The frames that wait to be sent.
    pub fn out(&mut self) -> &mut Outgoing {
        &mut self.out
    }

    /// Whether something waits to be sent.
    pub fn wants_to_send(&self) -> bool {
        !self.out.is_empty()
    }

    /// Sends what the channel takes now.
    pub fn flush(&mut self) {
        self.process.flush(&mut self.out);
    }

    /// QEMU's monitor, if QEMU is this process's own.
    pub fn monitor(&mut self) -> Option<&mut Monitor> {
        self.process.monitor()
    }

    /// The VM's processors, if its keeper has told them.
    pub fn processors(&self) -> Option<u32> {
        self.size.map(|size| size.cpus)
    }

    /// The channel, to be polled.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.process.channel()
    }

    /// Other descriptors to poll; they end when QEMU does, but that is noticed through the channel.
    pub fn texts(&self) -> [BorrowedFd<'_>; 4] {
        let [console, stderr, monitor] = self.process.texts();
        // Without a server nothing more is waited for.
        let server = self.file_server.as_ref().map_or(console, FileServer::events);
        [console, stderr, monitor, server]
    }

    /// When to look again, even if nothing has happened.
    pub fn deadline(&self) -> Option<Deadline> {
        match self.phase {
            Phase::Over(_) => None,
            _ => self.wait.map(|wait| wait.deadline).or(self.heartbeat.next()),
        }
    }

    /// Reads the agent's messages. Everything before its answer belongs to an earlier session.
    pub fn receive(&mut self, buffer: &mut [u8], listener: &mut dyn Listener) {
        let mut taken = 0;
        while taken < TURN && !self.is_over() {
            match self.process.read(buffer) {
                Ok(0) => self.lost(),
                Ok(n) => {
                    taken += n;
                    match self.decode(&buffer[..n], listener) {
                        Ok(()) => {}
                        Err(Refusal::Protocol(error)) => {
                            self.fail(Failure::Broken(format!("the guest does not speak the protocol: {error}")));
                        }
                        Err(Refusal::Reason(why)) => self.fail(Failure::Broken(why)),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.lost(),
            }
        }
    }

    fn decode(&mut self, bytes: &[u8], listener: &mut dyn Listener) -> Result<(), Refusal> {
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.push(bytes);
        while let Some(frame) = decoder.next_frame()? {
            if self.heartbeat.answered() {
                listener.notice("the guest answers again");
            }
            if let Some(word) = Word::parse(&frame).filter(|_| self.attach.is_some()) {
                self.heed(word, listener);
                continue;
            }
            self.handle(frame.task, ToHost::parse(frame)?, listener)?;
        }
        self.decoder = decoder;
        Ok(())
    }

    /// The keeper speaks, not the guest.
    fn heed(&mut self, word: Word, listener: &mut dyn Listener) {
        match word {
            Word::Size(size) => {
                // Once for all tasks of the VM, or its memory would be counted again for each.
                if self.attach.as_ref().is_some_and(|attach| attach.task == 0) {
                    progress::size(size);
                }
                self.size = Some(size);
            }
            Word::Notice(text) => listener.notice(&text),
            Word::Ended(..) if self.is_over() => {}
            Word::Ended(fault, why) => self.fail(Failure::Refused(fault, why)),
        }
    }

    fn handle(&mut self, task: u16, message: ToHost<'_>, listener: &mut dyn Listener) -> Result<(), Refusal> {
        match (&self.phase, message) {
            (_, ToHost::Warning(text)) => self.warn(text, listener),
            // Another nonce answers a session before this one.
            (Phase::Greeting, ToHost::Hello { version, nonce, times }) if nonce == self.nonce => {
                self.moments.ready = Some(Instant::now());
                self.moments.boot = times;
                self.answered(version)?;
            }
            (Phase::Greeting | Phase::Over(_), _) => {}
            (Phase::Up, ToHost::Hello { .. }) => return Err(ProtoError::OutOfOrder("HELLO").into()),
            (Phase::Up, ToHost::Pong) if self.heartbeat.next().is_some() => {
                if self.answers.pong() {
                    self.out.send(0, &wall_clock());
                }
            }
            (Phase::Up, ToHost::AskClock) => {
                if self.answers.question() {
                    tracing::debug!(vm = self.number, "the guest asks for the time again: the last answer came late");
                    self.out.send(0, &wall_clock());
                }
            }
            (Phase::Up, message) => listener.hear(Address { vm: self.number, task }, message, &mut self.out)?,
        }
        Ok(())
    }

    /// The agent has answered the HELLO.
    fn answered(&mut self, version: u16) -> Result<(), Refusal> {
        tracing::debug!(vm = self.number, "the guest is up");
        (self.phase, self.has_answered) = (Phase::Up, true);
        if let Some(bytes) = self.memory_to_plug.take() {
            // Beside the description of the task: the agent starts the command when the memory has arrived.
            self.process.monitor().into_iter().for_each(|monitor| monitor.plug(bytes));
        }
        if version != proto::VERSION {
            return Err(Refusal::Reason(format!(
                "the boot kit's agent speaks protocol {version}, this program {}: rebuild the kit with \
                 'spank-vm kit build'",
                proto::VERSION
            )));
        }
        Ok(())
    }

    /// Reads QEMU's other messages. If a disk cannot be written or read, or KVM cannot go on, QEMU has stopped the VM.
    pub fn read_texts(&mut self) {
        self.process.read_texts();
        self.check_disks();
        self.check_kvm();
        self.look_at_file_server();
    }

    /// Ends the VM if QEMU has stopped it because KVM cannot run it. What a guest does can cause that, so it is not the
    /// node's fault. A guest that never answered will not do so now: KVM may be what is broken.
    fn check_kvm(&mut self) {
        if let Some(why) = self.process.kvm_failure().filter(|_| !self.is_over()) {
            self.fail(if self.has_answered { Failure::Broken(why) } else { Failure::TimedOut(why) });
        }
    }

    /// Ends the VM if QEMU has stopped it because of a disk.
    fn check_disks(&mut self) {
        if let Some(DiskError { text, lacks_room }) = self.process.disk_error().filter(|_| !self.is_over()) {
            self.fail(if lacks_room { Failure::Broken(text) } else { Failure::NodeFailed(text) });
        }
    }

    /// Tells the file server what it must know. If it has ended, the guest's programs would wait for their files for ever.
    fn look_at_file_server(&mut self) {
        let Some(server) = &mut self.file_server else { return };
        if let Some(regions) = server.wants_memory().and_then(|bytes| self.process.memory(bytes)) {
            server.tell_memory(self.process.id(), &regions);
        }
        if let Some(end) = server.end() {
            self.file_server = None;
            match end {
                // The channel reports that.
                Ended::WithQemu => {}
                _ if self.is_over() => {}
                Ended::Killed(why) => self.fail(Failure::Killed(why)),
                Ended::Failed(why) => self.fail(Failure::NodeFailed(why)),
            }
        }
    }

    /// Passes a line of the agent on. Their number is limited, because they are not under flow control.
    fn warn(&mut self, text: &[u8], listener: &mut dyn Listener) {
        let Some(left) = self.warnings.checked_sub(1) else { return };
        self.warnings = left;
        let text = if left > 0 { printable(text) } else { "the agent says too much; the rest is left out".to_owned() };
        listener.notice(&format!("warning: {text}"));
    }

    /// Ends the VM if the expected event has not come in time. Sends the heartbeat to a guest whose commands run, and
    /// acts on its silence.
    pub fn look_at_the_time(&mut self, clock: &AwakeClock, listener: &mut dyn Listener) {
        if self.is_over() {
            return;
        }
        if let Some(wait) = self.wait {
            if clock.has_passed(wait.deadline) {
                let (Wait { what, advice, .. }, within) = (wait, wait.within.as_secs());
                self.process.read_texts();
                let last_words = self.process.last_words();
                self.fail(Failure::TimedOut(format!("{what} within {within} s{last_words}{advice}")));
            }
            return;
        }
        let process = &self.process;
        let Some(beat) = self.heartbeat.beat(clock, || process.is_stopped()) else { return };
        let silent = |vm: &mut Self, silence: Duration| {
            vm.process.read_texts();
            format!("the guest has not answered for {} s{}", silence.as_secs(), vm.process.last_words())
        };
        match beat {
            Beat::Ask => self.ask(),
            Beat::Warn(silence) => {
                let why = silent(self, silence);
                listener.notice(&format!("warning: {why}; it may come back, and scancel ends it"));
            }
            Beat::GiveUp(silence) => {
                let why = silent(self, silence);
                self.fail(Failure::TimedOut(why));
            }
        }
    }

    /// The channel has closed or failed.
    fn lost(&mut self) {
        let (why, was_killed) = self.process.exit_reason(self.has_answered);
        let failure = if was_killed { Failure::Killed } else { Failure::Broken };
        self.fail(failure(why));
    }

    fn fail(&mut self, failure: Failure) {
        self.kill();
        self.close(Some(failure));
    }

    /// Ends the VM after its work is done.
    pub fn end(&mut self) {
        self.kill();
        self.close(None);
    }

    fn kill(&mut self) {
        self.process.kill();
        if let Some(server) = &mut self.file_server {
            server.kill();
        }
    }

    /// Ends the session but not the VM: QEMU waits for the next session.
    pub fn pause(&mut self) {
        self.close(None);
    }

    fn close(&mut self, failure: Option<Failure>) {
        self.out.clear();
        self.wait = None;
        self.phase = Phase::Over(failure);
    }

    /// Waits until QEMU is gone.
    pub fn reap(&mut self) {
        self.process.finish();
        self.file_server = None;
        self.moments.resumed = self.process.resumed();
        self.moments.gone = Some(Instant::now());
    }
}
