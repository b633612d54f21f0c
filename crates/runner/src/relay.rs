//! The loop of a slot: moves bytes between the task's streams and its VMs until all have ended.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::signals::{Signal, Signals, is_fatal};
use super::start::Attempt;
use super::stdio::terminal_size;
use super::task::{self, Task};
use super::vm::{Outputs, Phase, Vm};
use crate::notice;
use image::Links;
use proto::{DATA_CHUNK, Stream, ToGuest};
use qemu::Share;

/// What the loop works on.
#[derive(Debug)]
pub struct Relay<'a> {
    /// The slot's VMs.
    pub vms: Vec<Vm>,
    /// The task's outputs.
    pub outputs: Outputs,
    /// The task's signals.
    pub signals: &'a Signals,
    /// The command.
    pub task: &'a Task,
    /// Whether the commands get this process's standard input.
    pub takes_stdin: bool,
    /// What the guests see of the host.
    pub shares: &'a [Share],
    /// Links that the image wants to them.
    pub links: &'a Links,
    /// Processors that the command may use, where the guests have more.
    pub cpus: Option<u16>,
    /// Bytes that are plugged into each guest beside what its template has.
    pub memory: Option<u64>,
    /// When the VMs were started.
    pub begin: Instant,
    /// How long they may take, and who is told of the first that answers.
    pub(crate) attempt: &'a Attempt<'a>,
    /// What to look for when one has not, for the message.
    pub advice: &'a str,
    /// When to tell a waiting person that a boot is under way.
    pub notice_at: Option<Instant>,
    /// The image's name, for messages.
    pub image: &'a str,
}

/// A descriptor's place in the poll list.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Stdin,
    Output,
    Channel(usize),
    Texts(usize),
}

impl Relay<'_> {
    /// Runs until every VM has ended and all output was written, or until a signal that ends the
    /// task comes before its command runs: that signal.
    ///
    /// # Errors
    /// When the task's own output cannot be written (a full disk) or the system refuses to poll.
    pub fn run(&mut self) -> anyhow::Result<Option<Signal>> {
        let mut stdin_open = self.takes_stdin;
        loop {
            self.flush_outputs()?;
            let idle = !self.outputs.stdout.is_waiting() && !self.outputs.stderr.is_waiting();
            if idle && self.vms.iter().all(Vm::has_ended) {
                return Ok(None);
            }
            self.start_those_that_are_up()?;
            self.vms.iter_mut().filter(|vm| vm.wants_to_send()).for_each(Vm::flush);
            let ready = self.wait(stdin_open)?;
            for (source, events) in ready {
                match source {
                    Source::Signals => {
                        if let Some(signal) = self.take_signals() {
                            return Ok(Some(signal));
                        }
                    }
                    Source::Stdin => stdin_open = self.pass_stdin(),
                    // Written at the top of the loop.
                    Source::Output => {}
                    Source::Channel(vm) => {
                        if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                            self.vms[vm].receive(&mut self.outputs);
                        }
                    }
                    Source::Texts(vm) => self.vms[vm].read_texts(&mut self.outputs),
                }
            }
            self.watch_the_clock();
        }
    }

    /// Waits for anything to happen, at most until the next deadline.
    fn wait(&self, stdin_open: bool) -> anyhow::Result<Vec<(Source, PollFlags)>> {
        let (read, write) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        let mut sources = vec![Source::Signals];
        let mut fds = vec![PollFd::new(self.signals.as_fd(), read)];
        let stdin = io::stdin();
        if stdin_open && self.stdin_room() > 0 {
            sources.push(Source::Stdin);
            fds.push(PollFd::new(stdin.as_fd(), read));
        }
        for output in [&self.outputs.stdout, &self.outputs.stderr] {
            if output.is_waiting() {
                sources.push(Source::Output);
                fds.push(PollFd::new(output.as_fd(), write));
            }
        }
        for (number, vm) in self.vms.iter().enumerate().filter(|(_, vm)| !vm.has_ended()) {
            let wanted = if vm.wants_to_send() { read | write } else { read };
            sources.push(Source::Channel(number));
            fds.push(PollFd::new(vm.process.channel.as_fd(), wanted));
            // Polled only while QEMU lives, whose end the channel tells.
            for texts in vm.process.texts() {
                sources.push(Source::Texts(number));
                fds.push(PollFd::new(texts, read));
            }
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(sources.into_iter().zip(events).filter(|(_, events)| !events.is_empty()).collect())
    }

    fn timeout(&self) -> PollTimeout {
        let deadlines =
            self.vms.iter().filter_map(|vm| vm.deadline(self.attempt.answer_by(self.begin), self.attempt.patience()));
        let next = deadlines.chain(self.notice_at).min();
        match next {
            // Rounded up: waking before the moment would spin.
            Some(moment) => {
                let left = moment.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        }
    }

    fn watch_the_clock(&mut self) {
        let now = Instant::now();
        if self.notice_at.is_some_and(|moment| now >= moment) {
            self.notice_at = None;
            if self.vms.iter().any(|vm| !vm.is_up()) {
                notice::line(&format!("{} starting …", self.image));
            }
        }
        let (boot_deadline, patience) = (self.attempt.answer_by(self.begin), self.attempt.patience());
        for vm in self.vms.iter_mut().filter(|vm| vm.phase == Phase::Running) {
            vm.check_heartbeat(now, &mut self.outputs);
        }
        let is_late = |vm: &&mut Vm| {
            vm.phase != Phase::Running && vm.deadline(boot_deadline, patience).is_some_and(|deadline| now >= deadline)
        };
        for vm in self.vms.iter_mut().filter(is_late) {
            vm.process.read_texts();
            let last_words = vm.process.last_words();
            let why = match vm.is_up() {
                true => {
                    let within = patience.as_secs();
                    format!("it came up, but its command did not start within {within} s{last_words}")
                }
                false => {
                    let within = self.attempt.answer_within().as_secs();
                    format!("no answer within {within} s{last_words}{}", self.advice)
                }
            };
            vm.fail(why, &mut self.outputs);
        }
    }

    /// Sends the task to every VM whose agent has just answered.
    fn start_those_that_are_up(&mut self) -> anyhow::Result<()> {
        let count = self.vms.len() as u32;
        for vm in self.vms.iter_mut().filter(|vm| vm.is_waiting_for_task()) {
            self.attempt.answered();
            let mut description = Vec::new();
            if let Some(count) = self.cpus {
                ToGuest::Cpus(count).encode(0, &mut description);
            }
            if let Some(bytes) = self.memory {
                ToGuest::Memory(bytes).encode(0, &mut description);
            }
            self.task.describe(vm.index as u32, count, self.shares, self.links, &mut description)?;
            vm.start(&description);
        }
        Ok(())
    }

    /// Writes what the readers take, and returns the credit to the VMs it came from.
    fn flush_outputs(&mut self) -> anyhow::Result<()> {
        let Outputs { stdout, stderr } = &mut self.outputs;
        for (stream, output) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            let vms = &mut self.vms;
            output
                .write_some(|vm, bytes| vms[vm].output_written(stream, bytes))
                .with_context(|| format!("the task's {} cannot be written", name(stream)))?;
            if output.take_reader_left() {
                vms.iter_mut().filter(|vm| !vm.has_ended()).for_each(|vm| vm.send(ToGuest::Eof(stream)));
            }
        }
        Ok(())
    }

    /// Bytes of stdin that every VM can take now: what is read is sent to all of them.
    fn stdin_room(&self) -> usize {
        let takers = self.vms.iter().filter(|vm| !vm.has_ended());
        // Nothing is read before all commands run: a failed start leaves stdin untouched.
        takers.map(|vm| if vm.phase == Phase::Running { vm.stdin_room() } else { 0 }).min().unwrap_or(0)
    }

    /// Reads stdin once; says whether there may be more.
    fn pass_stdin(&mut self) -> bool {
        let mut buf = [0; DATA_CHUNK];
        let room = self.stdin_room();
        match nix::unistd::read(io::stdin(), &mut buf[..room]) {
            Ok(n @ 1..) => {
                self.vms.iter_mut().filter(|vm| !vm.has_ended()).for_each(|vm| vm.send_stdin(&buf[..n]));
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            // The end of a pseudo-terminal is EIO; whatever it is, nothing more can be read.
            Ok(_) | Err(_) => {
                self.tell_all(ToGuest::Eof(Stream::Stdin));
                false
            }
        }
    }

    fn take_signals(&mut self) -> Option<Signal> {
        while let Some(signal) = self.signals.next() {
            if i32::from(signal) == libc::SIGWINCH {
                if let Some((rows, cols)) = terminal_size(io::stdin().as_fd()) {
                    self.tell_all(ToGuest::Resize { rows, cols });
                }
                continue;
            }
            // A task that has not begun dies as any process would; a command decides for itself.
            let begun = self.vms.iter().any(|vm| matches!(vm.phase, Phase::Running | Phase::Ended(_)));
            if !begun && is_fatal(signal) {
                return Some(signal);
            }
            // Whoever was stopped has missed some time.
            if i32::from(signal) == libc::SIGCONT {
                self.tell_all(task::clock());
            }
            self.tell_all(ToGuest::Signal(signal));
        }
        None
    }

    fn tell_all(&mut self, message: ToGuest<'_>) {
        self.vms.iter_mut().filter(|vm| !vm.has_ended() && vm.is_up()).for_each(|vm| vm.send(message.clone()));
    }
}

fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdin => "stdin",
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}
