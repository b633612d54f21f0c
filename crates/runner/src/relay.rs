//! The loop of a slot: moves bytes between the task's streams and its commands in VMs until all have ended.

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::conclude::Report;
use crate::error::{Context, RunError};
use crate::session::{Deadline, Events, Vm, Wait, nonce, wall_clock};
use crate::signals::{Signal, Signals, is_fatal};
use crate::start::Attempt;
use crate::task::{Commands, End, Guest, Input, Streams, Trouble, terminal_size};
use proto::{ExitStatus, Stream};

/// How long guests may take, and the person to tell.
#[derive(Debug, Clone, Copy)]
pub struct Patience<'a> {
    /// Time until its command must run, after its agent has answered; and who wants to know of that answer.
    pub(crate) attempt: &'a Attempt<'a>,
    /// Time until every agent must have answered.
    pub answer_within: Duration,
    /// Advice for the message when one does not.
    pub advice: &'static str,
    /// How long a guest may be silent before its VM is ended.
    pub silence_limit: Option<Duration>,
    /// When to tell a waiting person that a boot is under way, and of which image.
    pub notice: Option<(Instant, &'a str)>,
}

/// What the loop works on.
#[derive(Debug)]
pub struct Relay<'a> {
    /// The VMs; commands are attached to them by number.
    pub vms: Vec<Vm>,
    /// The commands that run in them.
    pub commands: Commands,
    /// A VM that goes on after its command succeeded.
    keep: Option<usize>,
    /// Tells the user why VMs end.
    report: Option<&'a Report<'a>>,
    guest: Guest<'a>,
    patience: Patience<'a>,
    notice_at: Option<Deadline>,
    /// How many guests may come up at a time: as many as were not held from the beginning.
    at_once: usize,
    events: Events<'a>,
}

impl<'a> Relay<'a> {
    /// One command for each VM.
    pub fn new(vms: Vec<Vm>, streams: Streams, signals: &'a Signals, guest: Guest<'a>, patience: Patience<'a>) -> Self {
        let commands = Commands::one_per_vm(vms.len(), streams);
        let events = Events::new(signals);
        let notice_at = patience.notice.map(|(moment, _)| events.reminder_at(moment));
        let at_once = vms.iter().filter(|vm| !vm.is_held()).count().max(1);
        Self { vms, at_once, commands, keep: None, report: None, guest, patience, notice_at, events }
    }

    /// Keeps a VM running if its command succeeds, because its root will be saved.
    pub fn keep(&mut self, vm: usize) {
        self.keep = Some(vm);
    }

    /// Tells the user of failures when they happen, and not only at the end.
    pub fn report_to(&mut self, report: &'a Report<'a>) {
        self.report = Some(report);
    }

    /// Runs until every VM has ended and all output was written, or until a signal that ends the
    /// task comes when no command runs that could handle it; returns that signal.
    ///
    /// # Errors
    /// When the system refuses to poll.
    pub fn run(&mut self) -> Result<Option<Signal>, RunError> {
        self.greet();
        loop {
            if let ControlFlow::Break(outcome) = self.turn()? {
                return Ok(outcome);
            }
        }
    }

    fn greet(&mut self) {
        let wait = Wait::answer(&self.events.clock, self.patience.answer_within, self.patience.advice);
        self.vms.iter_mut().for_each(|vm| vm.greet(nonce(vm.number as u32), wait));
    }

    /// Does all pending work, sleeps, and reads the events.
    fn turn(&mut self) -> Result<ControlFlow<Option<Signal>>, RunError> {
        if let Some(signal) = self.write_outputs() {
            return Ok(ControlFlow::Break(Some(signal)));
        }
        if self.is_over() {
            return Ok(ControlFlow::Break(None));
        }
        self.learn_from_the_first_answer();
        self.describe_to_those_that_are_up()?;
        self.let_others_go();
        self.return_credit();
        let room = self.commands.stdin_room();
        let mut wanted = self.commands.wanted();
        let sockets = wanted.len();
        wanted.extend(self.commands.streams.wanted(room));
        let ready = self.events.wait(&mut self.vms, &wanted, self.notice_at).context("poll")?;
        self.events.receive(&ready, &mut self.vms, &mut self.commands);
        if ready.signals
            && let Some(signal) = self.take_signals()
        {
            return Ok(ControlFlow::Break(Some(signal)));
        }
        if self.commands.streams.wants_input(room) && ready.others.last() == Some(&true) {
            self.pass_stdin();
        }
        if ready.others[..sockets].contains(&true) {
            self.pass_sockets();
        }
        self.follow_up();
        self.tell_of_failures();
        self.tell_of_the_start();
        Ok(ControlFlow::Continue(()))
    }

    /// Whether nothing is left to do.
    fn is_over(&mut self) -> bool {
        if !self.commands.have_ended() {
            return false;
        }
        self.commands.streams.finish();
        !self.commands.streams.are_waiting()
    }

    /// If one guest has answered, the others may just need more time.
    fn learn_from_the_first_answer(&mut self) {
        if self.vms.iter().any(Vm::has_answered)
            && let Some(more) = self.patience.attempt.answered()
        {
            self.vms.iter_mut().filter(|vm| !vm.has_answered()).for_each(|vm| vm.give_time(more));
        }
    }

    /// Sends the task to every VM whose agent has just answered.
    fn describe_to_those_that_are_up(&mut self) -> Result<(), RunError> {
        let count = self.vms.len() as u32;
        for command in self.commands.list.iter_mut().filter(|command| command.is_waiting()) {
            let vm = &mut self.vms[command.address.vm];
            if vm.is_up() {
                let processors = vm.processors().unwrap_or(self.guest.processors);
                let guest = Guest { processors, ..self.guest };
                command.start(&guest.describe(command.address, count)?, vm.out());
                let (clock, within) = (&self.events.clock, self.patience.attempt.patience());
                vm.expect(Wait::new(clock, within, "it came up, but its command did not start", ""));
            }
        }
        Ok(())
    }

    /// Lets a guest come up for each whose command runs by now, or that has failed.
    fn let_others_go(&mut self) {
        let comes_up = |vm: &Vm| !vm.is_held() && !vm.is_over();
        let waiting = self.commands.list.iter().filter(|command| !command.is_running() && !command.has_ended());
        let coming = waiting.filter(|command| comes_up(&self.vms[command.address.vm])).count();
        let held = self.vms.iter_mut().filter(|vm| vm.is_held());
        held.take(self.at_once.saturating_sub(coming)).for_each(Vm::go);
    }

    /// Sends what waits, and then credit, which is given only to guests that read.
    fn return_credit(&mut self) {
        self.vms.iter_mut().filter(|vm| vm.wants_to_send()).for_each(Vm::flush);
        for command in &mut self.commands.list {
            command.return_credit(self.vms[command.address.vm].out());
        }
    }

    /// Acts on the new states of commands and VMs.
    fn follow_up(&mut self) {
        let Commands { list, streams } = &mut self.commands;
        for command in list {
            let vm = &mut self.vms[command.address.vm];
            if vm.is_over() {
                command.finish(End::of_vm(vm), streams);
            } else if command.is_running() && vm.expected().is_some() {
                vm.look_after(&self.events.clock, self.patience.silence_limit);
                vm.learn();
            } else if let Some(end) = command.end() {
                // It was the only command in its VM.
                match *end == End::Exited(ExitStatus::Code(0)) && self.keep == Some(vm.number) {
                    true => vm.pause(),
                    false => vm.end(),
                }
            }
        }
    }

    /// Tells the user about VMs that have failed, while others go on.
    fn tell_of_failures(&mut self) {
        let Some(report) = self.report else { return };
        // Until one has answered, all may be tried again in another way.
        let is_final = self.vms.iter().any(Vm::has_answered);
        let Commands { list, streams } = &mut self.commands;
        for command in list.iter() {
            match command.end() {
                Some(End::NeverUp(_)) if !is_final => {}
                Some(end) => {
                    if let Some(line) = report.line(command.address.vm, end) {
                        streams.notice(&line);
                    }
                }
                None => {}
            }
        }
    }

    /// Writes what the readers take, and tells commands about a reader that is gone. Returns a signal if
    /// that ends the task.
    fn write_outputs(&mut self) -> Option<Signal> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let Commands { list, streams } = &mut self.commands;
            let output = if stream == Stream::Stdout { &mut streams.stdout } else { &mut streams.stderr };
            output.write_some(|command, bytes| list[command].output_written(stream, bytes));
            match output.take_trouble() {
                None => continue,
                Some(Trouble::ReaderLeft) => {}
                Some(Trouble::NoRoom(error)) => {
                    let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
                    let text =
                        format!("error: the task's {name} cannot be written: {error}; what does not fit is lost");
                    self.commands.streams.notice(&text);
                    continue;
                }
                Some(Trouble::Lost(error)) => {
                    let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
                    self.commands.streams.notice(&format!("error: the task's {name} cannot be written: {error}"));
                    // A file that became too large causes a signal too, which comes before the error.
                    if let Some(signal) = self.take_signals() {
                        return Some(signal);
                    }
                }
            }
            for command in &mut self.commands.list {
                command.end_of(stream, self.vms[command.address.vm].out());
            }
        }
        None
    }

    /// Reads stdin once, for all commands.
    fn pass_stdin(&mut self) {
        let room = self.commands.stdin_room();
        if room == 0 {
            return;
        }
        let Commands { list, streams } = &mut self.commands;
        let input = streams.read(room);
        for command in list.iter_mut().filter(|command| !command.has_ended()) {
            let out = self.vms[command.address.vm].out();
            match input {
                Input::Bytes(bytes) => command.send_stdin(bytes, out),
                Input::Nothing => {}
                Input::End => command.end_of(Stream::Stdin, out),
            }
        }
    }

    /// Moves bytes between the task's sockets and those of its commands.
    fn pass_sockets(&mut self) {
        let Commands { list, streams } = &mut self.commands;
        for command in list {
            let out = self.vms[command.address.vm].out();
            command.pass_sockets(out).iter().for_each(|line| streams.notice(&format!("error: {line}")));
        }
    }

    /// Passes on the signals that came. Returns one that ends the task if no command can handle it.
    fn take_signals(&mut self) -> Option<Signal> {
        while let Some(signal) = self.events.next_signal() {
            let is = |number: i32| i32::from(signal) == number;
            // A task that has not begun dies like any process, and so does one that only has output left.
            if is_fatal(signal) && (!self.commands.has_begun() || self.commands.have_ended()) {
                return Some(signal);
            }
            // A process that was stopped has missed some time.
            if is(libc::SIGCONT) {
                self.vms.iter_mut().filter(|vm| vm.is_up()).for_each(|vm| vm.out().send(0, &wall_clock()));
            }
            let is_resize = is(libc::SIGWINCH) && self.guest.task.has_terminal();
            let size = is_resize.then(|| terminal_size(std::io::stdin().as_fd())).flatten();
            let Commands { list, streams } = &mut self.commands;
            for command in list {
                let out = self.vms[command.address.vm].out();
                match size {
                    Some((rows, cols)) => command.resize(rows, cols, out),
                    None => command.signal(signal, streams, out),
                }
            }
        }
        None
    }

    /// Tells a person who waits at a terminal that guests are still booting.
    fn tell_of_the_start(&mut self) {
        if !self.notice_at.is_some_and(|moment| self.events.clock.has_passed(moment)) {
            return;
        }
        self.notice_at = None;
        if let (Some((_, image)), true) = (self.patience.notice, self.vms.iter().any(|vm| !vm.has_answered())) {
            self.commands.streams.notice(&format!("{image} starting …"));
        }
    }
}
