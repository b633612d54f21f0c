//! All tasks of a node's VM, as the keeper sees them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::meeting::{Arrival, receive};
use super::member::{Member, Stage};
use super::processors::Union;
use crate::session::{Address, Attach, AwakeClock, Listener, Outgoing, Refusal, Word};
use proto::{DATA_CHUNK, ToGuest, ToHost};
use qemu::VmSize;

/// How long the VM waits for all tasks before it starts: their processors are the VM's. slurmstepd starts all of them
/// together, and what comes between (a TaskProlog) is short. Who comes later finds the VM as it is.
const GATHER: Duration = Duration::from_secs(5);

/// How long tasks may take to read the last words, without the time of a suspension.
const PART: Duration = Duration::from_secs(300);

/// Everybody who has come, and who may come.
#[derive(Debug)]
pub(crate) struct Members {
    hall: UnixStream,
    /// Nobody can come any more.
    is_closed: bool,
    /// How many the step has on this node.
    expected: usize,
    pub(super) list: Vec<Member>,
    /// What this process writes to its stderr.
    said: OwnedFd,
    /// The last line of it, not complete.
    line: Vec<u8>,
    union: Union,
    /// The VM has answered, and has this size.
    size: Option<VmSize>,
    /// Some task's command runs, or has run.
    pub(super) has_begun: bool,
    buffer: Box<[u8]>,
}

impl Members {
    /// Nobody yet. `said` is the other end of this process's stderr: its lines go to the first task.
    pub(super) fn new(hall: UnixStream, said: OwnedFd, expected: u32) -> Self {
        Self {
            hall,
            is_closed: false,
            expected: expected as usize,
            list: Vec::new(),
            said,
            line: Vec::new(),
            union: Union::default(),
            size: None,
            has_begun: false,
            buffer: vec![0; DATA_CHUNK].into(),
        }
    }

    /// Waits until all have come, at most [`GATHER`], and takes the processors of those that have.
    pub(super) fn gather(&mut self) {
        let deadline = Instant::now() + GATHER;
        let mut nothing = Outgoing::default();
        while self.list.iter().filter(|member| member.stage > Stage::New).count() < self.expected && !self.is_closed {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            let mut fds = self.wanted(true);
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            drop(fds);
            self.receive(true, &mut nothing);
        }
        let came = self.list.iter().filter(|member| member.stage > Stage::New);
        came.for_each(|member| self.union.add(&member.attach.processors));
        self.union.take();
    }

    /// The descriptors to poll; those of tasks only if they may speak.
    pub(super) fn wanted(&self, may_speak: bool) -> Vec<PollFd<'_>> {
        let (read, write) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        let mut fds = vec![PollFd::new(self.said.as_fd(), read)];
        if !self.is_closed {
            fds.push(PollFd::new(self.hall.as_fd(), read));
        }
        for member in &self.list {
            let mut events = PollFlags::empty();
            events.set(read, may_speak);
            events.set(write, member.is_owed());
            fds.extend(member.fd().map(|fd| PollFd::new(fd, events)));
        }
        fds
    }

    /// Takes who has come and what was said; what is for the guest goes to `out`.
    pub(super) fn receive(&mut self, may_speak: bool, out: &mut Outgoing) {
        while !self.is_closed {
            match receive(&self.hall) {
                Arrival::Task(socket) => self.list.push(Member::new(socket)),
                Arrival::Nobody => break,
                Arrival::NeverAgain => self.is_closed = true,
            }
        }
        self.pass_on_own_lines();
        if !may_speak {
            return;
        }
        let Self { list, union, size, buffer, .. } = self;
        let cpus = size.map_or(0, |size| size.cpus);
        for at in 0..list.len() {
            let (before, was_there) = (list[at].stage, list[at].is_there());
            list[at].listen(buffer, |attach: &Attach| union.in_vm(&attach.processors, cpus), out);
            let (new, number) = (&list[at], list[at].attach.task);
            if before == Stage::New && new.stage == Stage::Waiting {
                let is_double = (0..list.len()).any(|other| other != at && list[other].has_number(number));
                if is_double {
                    list[at].drop_it();
                }
            }
            let member = &list[at];
            if was_there && !member.is_there() && member.stage == Stage::Started {
                // As if its process had been the command itself. What it has started goes on.
                out.send(member.attach.task, &ToGuest::Signal(libc::SIGKILL as u8));
            }
        }
        if let Some(size) = self.size {
            self.list.iter_mut().for_each(|member| member.welcome(Word::Size(size)));
        }
    }

    /// The VM has answered. From now on its guest is told how many tasks there will be.
    pub(super) fn begin(&mut self, size: VmSize, out: &mut Outgoing) {
        self.size = Some(size);
        out.send(0, &ToGuest::Tasks(self.coming()));
        self.list.iter_mut().for_each(|member| member.welcome(Word::Size(size)));
    }

    /// How many tasks the guest will have seen in the end: not those that have gone before they started.
    pub(super) fn coming(&self) -> u16 {
        let lost = self.list.iter().filter(|member| !member.is_there() && member.stage < Stage::Started).count();
        u16::try_from(self.expected.saturating_sub(lost)).unwrap_or(u16::MAX)
    }

    /// Whether some task is there that has not ended.
    pub(super) fn are_busy(&self) -> bool {
        self.list.iter().any(|member| !member.is_finished())
    }

    /// Whether all have come and ended, or none can come any more.
    pub(super) fn are_done(&self) -> bool {
        !self.are_busy() && (self.is_closed || self.list.len() >= self.expected)
    }

    /// Sends what the tasks' sockets take now.
    pub(super) fn flush(&mut self) {
        self.list.iter_mut().for_each(Member::flush);
    }

    /// Tells all that the VM has ended before them.
    pub(super) fn tell_all(&mut self, word: &Word) {
        self.pass_on_own_lines();
        self.list.iter_mut().filter(|member| member.stage != Stage::Ended).for_each(|member| member.tell(word));
    }

    /// Waits until everybody has got what is owed, at most [`PART`]: a task whose process was stopped must not keep this one.
    pub(super) fn part(mut self) {
        let mut clock = AwakeClock::new();
        let deadline = clock.deadline(PART);
        loop {
            self.flush();
            let owed = self.list.iter().filter(|member| member.is_owed());
            let mut fds: Vec<_> =
                owed.filter_map(|member| Some(PollFd::new(member.fd()?, PollFlags::POLLOUT))).collect();
            if fds.is_empty() || clock.has_passed(deadline) {
                return;
            }
            let _ = poll(&mut fds, clock.sleep_until([deadline].into_iter()));
            clock.wake();
        }
    }

    /// Hands the lines of this process to the first task that is there.
    fn pass_on_own_lines(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = nix::unistd::read(&self.said, &mut bytes) {
            self.line.extend_from_slice(&bytes[..n]);
        }
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n')
            && self.list.iter().any(Member::can_be_told)
        {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.notice(line.strip_prefix("vm: ").unwrap_or(&line));
        }
    }
}

impl Member {
    fn has_number(&self, number: u16) -> bool {
        self.stage > Stage::New && self.attach.task == number
    }

    fn can_be_told(&self) -> bool {
        self.is_there() && self.stage > Stage::New && self.stage < Stage::Ended
    }
}

impl Listener for Members {
    fn hear(&mut self, from: Address, message: ToHost<'_>, _: &mut Outgoing) -> Result<(), Refusal> {
        let member = self.list.iter_mut().find(|member| member.has_number(from.task));
        let member = member.filter(|member| member.stage >= Stage::Started);
        match member.map(|member| member.hear(&message)) {
            Some(true) => {
                self.has_begun |= matches!(message, ToHost::Started(_));
                Ok(())
            }
            Some(false) => Err(Refusal::Reason(format!("the guest sends more of task {} than it may", from.task))),
            None => Err(Refusal::Reason(format!("the guest speaks of a task {} that it does not have", from.task))),
        }
    }

    fn notice(&mut self, text: &str) {
        let word = Word::Notice(text.to_owned());
        if let Some(member) = self.list.iter_mut().find(|member| member.can_be_told()) {
            member.tell(&word);
        }
    }
}

/// A pipe for this process's own stderr: what it writes is read here.
///
/// # Errors
/// When descriptors run out.
pub(super) fn own_stderr() -> io::Result<OwnedFd> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
    nix::unistd::dup2_stderr(&writer)?;
    Ok(reader)
}
