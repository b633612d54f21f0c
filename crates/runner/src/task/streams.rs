//! The three streams of a task.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags};

use super::output::Output;
use crate::notice;
use proto::DATA_CHUNK;

/// What the commands of a task read and write.
#[derive(Debug)]
pub struct Streams {
    /// The task's stdout.
    pub stdout: Output,
    /// The task's stderr.
    pub stderr: Output,
    /// The task's stdin, until its end.
    stdin: Option<File>,
    /// Whether the user reads stderr.
    has_user: bool,
    /// A buffer for reading, kept so that it is not allocated each time.
    buffer: Box<[u8]>,
}

/// Result of reading stdin.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Nothing this time.
    Nothing,
    /// Its end.
    End,
}

impl Streams {
    /// For a program that reads nothing, and whose stderr does not go to the user.
    pub fn outputs_only(stdout: Output, stderr: Output) -> Self {
        Self { stdout, stderr, stdin: None, has_user: false, buffer: Box::default() }
    }

    /// For a task that reads `stdin` too.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn new(stdin: BorrowedFd<'_>, stdout: Output, stderr: Output) -> io::Result<Self> {
        let stdin = Some(File::from(stdin.try_clone_to_owned()?));
        Ok(Self { stdout, stderr, stdin, has_user: true, buffer: vec![0; DATA_CHUNK].into() })
    }

    /// Those of this process, for commands in this many VMs. `labels`: each line of their output has its VM's number.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn of_this_process(vms: usize, labels: bool) -> io::Result<Self> {
        let (stdout, stderr) = (Output::new(io::stdout().as_fd(), vms)?, Output::new(io::stderr().as_fd(), vms)?);
        let mut streams = Self::new(io::stdin().as_fd(), stdout, stderr)?;
        if labels {
            streams.outputs().for_each(Output::label_lines);
        }
        Ok(streams)
    }

    /// Tells the user something, queued after the commands' output, so that a stalled reader blocks nothing else.
    pub fn notice(&mut self, text: &str) {
        match self.has_user {
            true => self.stderr.push_own(notice::formatted(text).into_bytes()),
            false => notice::line(text),
        }
    }

    /// Both outputs.
    pub fn outputs(&mut self) -> impl Iterator<Item = &mut Output> {
        [&mut self.stdout, &mut self.stderr].into_iter()
    }

    /// Whether something waits to be written.
    pub fn are_waiting(&self) -> bool {
        self.stdout.is_waiting() || self.stderr.is_waiting()
    }

    /// No more output will come.
    pub fn finish(&mut self) {
        self.outputs().for_each(Output::finish);
    }

    /// Whether output was lost because it could not be written.
    pub fn have_lost(&self) -> bool {
        self.stdout.has_lost() || self.stderr.has_lost()
    }

    /// The descriptors to poll: outputs that wait, and last stdin, if `room` is not 0.
    pub fn wanted(&self, room: usize) -> Vec<PollFd<'_>> {
        let outputs = [&self.stdout, &self.stderr].into_iter().filter(|output| output.is_waiting());
        let mut fds: Vec<PollFd<'_>> = outputs.map(Output::wanted).collect();
        if let Some(stdin) = self.stdin.as_ref().filter(|_| room > 0) {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        fds
    }

    /// Whether stdin is among the descriptors to poll.
    pub fn wants_input(&self, room: usize) -> bool {
        room > 0 && self.stdin.is_some()
    }

    /// Reads at most `room` bytes of stdin, once.
    pub fn read(&mut self, room: usize) -> Input<'_> {
        let Some(stdin) = &mut self.stdin else { return Input::Nothing };
        let room = room.min(self.buffer.len());
        match stdin.read(&mut self.buffer[..room]) {
            Ok(n @ 1..) => Input::Bytes(&self.buffer[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                Input::Nothing
            }
            // The end of a pseudo-terminal is EIO; after any error nothing more can be read.
            Ok(_) | Err(_) => {
                self.stdin = None;
                Input::End
            }
        }
    }
}
