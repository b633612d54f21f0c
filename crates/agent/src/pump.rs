//! The two directions of a stream between the channel and the command, each with its window.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{read, write};

use proto::{DATA_CHUNK, ProtoError, RecvWindow, SendWindow, Stream, ToHost};

use super::port::SendQueue;

/// Standard input: from the channel to the command.
#[derive(Debug)]
pub(super) struct InputPump {
    /// `None` once nobody reads any more.
    sink: Option<OwnedFd>,
    queue: VecDeque<u8>,
    window: RecvWindow,
    ended: bool,
    is_terminal: bool,
}

impl InputPump {
    pub fn new(sink: OwnedFd, is_terminal: bool) -> Self {
        Self { sink: Some(sink), queue: VecDeque::new(), window: RecvWindow::default(), ended: false, is_terminal }
    }

    /// Takes bytes from the channel; returns the credit to give back, if any.
    ///
    /// # Errors
    /// The runner sent more than the window allows, or sent more after the end.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<u32>, ProtoError> {
        if self.ended {
            return Err(ProtoError::OutOfOrder("DATA"));
        }
        self.window.receive(Stream::Stdin.number(), bytes.len())?;
        self.queue.extend(bytes);
        Ok(self.pass_on())
    }

    /// No more bytes will come; the command sees the end after the last of them.
    pub fn end(&mut self) {
        self.ended = true;
        self.close_if_done();
    }

    /// Stops writing: the command is gone.
    pub fn stop(&mut self) -> Option<u32> {
        self.sink = None;
        self.pass_on()
    }

    /// The descriptor to be polled for writing, while there is something to write.
    pub fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.sink.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// Writes what the command takes now; returns the credit to give back, if any.
    pub fn pass_on(&mut self) -> Option<u32> {
        let mut passed = 0;
        while let (Some(sink), false) = (&self.sink, self.queue.is_empty()) {
            match write(sink, self.queue.as_slices().0) {
                Ok(n) => {
                    self.queue.drain(..n);
                    passed += n;
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // EPIPE: the command has closed its input. The rest is dropped and credited, so
                // that the runner never waits for a reader that does not exist.
                Err(_) => self.sink = None,
            }
        }
        if self.sink.is_none() {
            passed += self.queue.len();
            self.queue.clear();
        }
        self.close_if_done();
        self.window.consume(passed)
    }

    fn close_if_done(&mut self) {
        // The end of input is not passed on to a terminal: a user who closes srun's input does not
        // want to log out of the shell, and bare Slurm does the same.
        if self.ended && self.queue.is_empty() && !self.is_terminal {
            self.sink = None;
        }
    }
}

/// Standard output or error: from the command to the channel.
#[derive(Debug)]
pub(super) struct OutputPump {
    stream: Stream,
    source: Option<OwnedFd>,
    window: SendWindow,
    end_sent: bool,
    /// Its command has ended: it ends when nothing more waits, or after so many bytes.
    left: Option<usize>,
    /// What others of its processes may still write to.
    spilling: Option<OwnedFd>,
}

/// Bytes that may wait when a command ends whose children go on: the largest pipe.
const LEFT_MOST: usize = 1 << 20;

impl OutputPump {
    pub fn new(stream: Stream, source: Option<OwnedFd>) -> Self {
        Self { stream, source, window: SendWindow::default(), end_sent: false, left: None, spilling: None }
    }

    /// Takes credit from the runner.
    ///
    /// # Errors
    /// More credit than was spent.
    pub fn refill(&mut self, bytes: u32) -> Result<(), ProtoError> {
        self.window.refill(bytes)
    }

    /// The descriptor to be polled for reading, while there is credit to send.
    pub fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().filter(|_| self.window.available() > 0).map(AsFd::as_fd)
    }

    /// Whether the runner was told of the end.
    pub fn has_ended(&self) -> bool {
        self.end_sent
    }

    /// Sends one piece of what the command wrote, or its end. `buffer` is scratch space.
    pub fn pass_on(&mut self, task: u16, buffer: &mut [u8], out: &mut SendQueue) {
        let room = self.window.available().min(DATA_CHUNK).min(buffer.len());
        if let Some(source) = self.source.as_ref().filter(|_| room > 0) {
            match read(source, &mut buffer[..room]) {
                Ok(n) if n > 0 => {
                    self.window.spend(n);
                    out.send(task, &ToHost::Data(self.stream, &buffer[..n]));
                    self.left = self.left.map(|left| left.saturating_sub(n));
                    if self.left == Some(0) {
                        self.spilling = self.source.take();
                    }
                }
                Err(Errno::EAGAIN) if self.left.is_some() => self.spilling = self.source.take(),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // 0 from a pipe or EIO from a terminal: no writer is left.
                _ => self.source = None,
            }
        }
        self.tell_end(task, out);
    }

    /// The command has ended, and others of its processes may go on: the stream ends with what waits now.
    pub fn finish(&mut self) {
        self.left.get_or_insert(LEFT_MOST);
    }

    /// None of its processes is left: the stream ends with all that waits now. Without this it would not end while a
    /// stranger has it open, such as a service of the guest that the command has handed its output to.
    pub fn finish_for_all(&mut self) {
        self.left = Some(usize::MAX);
    }

    /// Whether it can be tried at once: it is finishing, and its end must be found by reading.
    pub fn is_finishing(&self) -> bool {
        self.left.is_some() && self.source.is_some() && self.window.available() > 0
    }

    /// What is to be read and dropped from now on, so that those processes do not notice the end.
    pub fn take_spilling(&mut self) -> Option<OwnedFd> {
        self.spilling.take()
    }

    /// Stops reading: because a writer does not end, or because the reader has left.
    pub fn cut_off(&mut self, task: u16, out: &mut SendQueue) {
        self.source = None;
        self.tell_end(task, out);
    }

    fn tell_end(&mut self, task: u16, out: &mut SendQueue) {
        if self.source.is_none() && !self.end_sent {
            self.end_sent = true;
            out.send(task, &ToHost::Eof(self.stream));
        }
    }
}

/// The output pump of a stream; only the two outputs have one.
pub(super) fn output_index(stream: Stream) -> Option<usize> {
    match stream {
        Stream::Stdin | Stream::Socket(_) => None,
        Stream::Stdout => Some(0),
        Stream::Stderr => Some(1),
    }
}
