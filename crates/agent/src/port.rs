//! The agent's end of the channel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::{read, write};

use proto::{Decoder, ToHost};

use super::error::{AgentError, Doing};

/// Bytes waiting for the runner beyond which no more output is taken from the command.
const SEND_LIMIT: usize = 256 * 1024;

/// Bytes per read. The kernel hands out at most one of its page-sized buffers anyway.
const READ_SIZE: usize = 32 * 1024;

/// How often a write that finds no memory for its buffer is tried again, and how long to wait before: half a minute, in
/// which the command may free some, or the kernel end what takes it all. The agent may be the guest's first process: it
/// must not end for that.
const TRIES: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);

/// The least that is written at once when memory is short: less than a page is always easier to find than many in a row.
const PIECE_LEAST: usize = 512;

/// Result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Incoming {
    /// New bytes are in the decoder.
    Bytes,
    /// Nothing at the moment.
    Nothing,
    /// The host side has closed the port.
    Disconnected,
}

/// The port: a nonblocking descriptor, the bytes that came in and the bytes to send.
#[derive(Debug)]
pub(super) struct Port {
    fd: OwnedFd,
    pub decoder: Decoder,
    pub out: SendQueue,
    buffer: Vec<u8>,
}

impl Port {
    /// Takes a nonblocking descriptor of a virtio-serial port (or of a socket in its place).
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, decoder: Decoder::new(), out: SendQueue::default(), buffer: vec![0; READ_SIZE] }
    }

    /// The descriptor, to be polled.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Begins a new connection: nothing of an earlier one is left.
    pub fn reset(&mut self) {
        self.decoder = Decoder::new();
        self.out = SendQueue::default();
    }

    /// Gives up on a broken stream: everything is ignored up to the next HELLO, which may have
    /// arrived already.
    pub fn resynchronise(&mut self) {
        self.decoder.resynchronise();
        self.out = SendQueue::default();
    }

    /// Moves what has arrived into the decoder. The caller takes every frame out of it before the
    /// next call.
    pub fn receive(&mut self) -> Result<Incoming, AgentError> {
        match read(&self.fd, &mut self.buffer) {
            Ok(0) => Ok(Incoming::Disconnected),
            Ok(n) => {
                self.decoder.push(&self.buffer[..n]);
                Ok(Incoming::Bytes)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Incoming::Nothing),
            // A socket reports this error where a port reports EOF.
            Err(Errno::ECONNRESET | Errno::EPIPE) => Ok(Incoming::Disconnected),
            Err(errno) => Err(errno).doing(|| "read from the runner's port".to_owned()),
        }
    }

    /// Sends what the port takes now.
    pub fn flush(&mut self) -> Result<(), AgentError> {
        let Self { fd, out, .. } = self;
        out.hand_over(|bytes| write(&*fd, bytes), || sleep(PAUSE)).doing(|| "write to the runner's port".to_owned())
    }

    /// Waits until the host connects. A disconnected port is readable for ever (POLLHUP), so a level
    /// triggered wait would spin: this one returns on the edge that the connection makes.
    pub fn wait_for_host(&self) -> Result<(), AgentError> {
        let wait = || {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            epoll.add(&self.fd, EpollEvent::new(edges, 0))?;
            let mut events = [EpollEvent::empty()];
            loop {
                match epoll.wait(&mut events, EpollTimeout::NONE) {
                    // The first event may report the hang-up that we already know.
                    Ok(_) if events[0].events().contains(EpollFlags::EPOLLHUP) => {}
                    Ok(_) => return Ok(()),
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
        };
        wait().doing(|| "wait for the runner".to_owned())
    }
}

/// Encoded frames on their way to the runner.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    bytes: Vec<u8>,
    done: usize,
}

impl SendQueue {
    /// Appends a message.
    pub fn send(&mut self, task: u16, message: &ToHost<'_>) {
        message.encode(task, &mut self.bytes);
    }

    /// Whether output of the command may be added. Small frames may always be added: the protocol limits them.
    pub fn has_room(&self) -> bool {
        self.bytes.len() - self.done < SEND_LIMIT
    }

    /// Whether everything was handed to the port.
    pub fn is_empty(&self) -> bool {
        self.done == self.bytes.len()
    }

    /// Writes what can be written now. The kernel copies each write into a buffer of up to 32 KiB, for which it may have no memory.
    fn hand_over(
        &mut self,
        mut write: impl FnMut(&[u8]) -> nix::Result<usize>,
        mut pause: impl FnMut(),
    ) -> nix::Result<()> {
        let (mut piece, mut tries) = (usize::MAX, 0);
        while !self.is_empty() {
            let bytes = self.pending();
            let bytes = &bytes[..bytes.len().min(piece)];
            match write(bytes) {
                Ok(n) => {
                    self.sent(n);
                    tries = 0;
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // The next read will report the disconnect; then these bytes are dropped.
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENODEV) => break,
                Err(Errno::ENOMEM) if tries < TRIES => {
                    piece = (bytes.len() / 2).max(PIECE_LEAST);
                    tries += 1;
                    pause();
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn pending(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    fn sent(&mut self, n: usize) {
        self.done += n;
        if self.is_empty() {
            self.bytes.clear();
            self.done = 0;
        } else if self.done > SEND_LIMIT {
            self.bytes.drain(..self.done);
            self.done = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Stream;

    /// A queue with a message, and the same bytes.
    fn full() -> (SendQueue, Vec<u8>) {
        let mut queue = SendQueue::default();
        queue.send(0, &ToHost::Data(Stream::Stdout, &[7; 20_000]));
        let bytes = queue.pending().to_vec();
        (queue, bytes)
    }

    #[test]
    fn a_write_that_finds_no_memory_is_tried_again_in_smaller_pieces() {
        let (mut queue, expected) = full();
        let (mut got, mut pauses) = (Vec::new(), 0);
        let write = |bytes: &[u8]| {
            // A page can be had, and more in a row cannot.
            if bytes.len() > 4096 {
                return Err(Errno::ENOMEM);
            }
            got.extend_from_slice(bytes);
            Ok(bytes.len())
        };
        assert_eq!(queue.hand_over(write, || pauses += 1), Ok(()));
        assert!(queue.is_empty() && got == expected && pauses < 10, "{pauses}");
    }

    #[test]
    fn memory_that_never_comes_is_waited_for_so_long_and_no_longer() {
        let (mut queue, expected) = full();
        let mut pauses = 0;
        assert_eq!(queue.hand_over(|_| Err(Errno::ENOMEM), || pauses += 1), Err(Errno::ENOMEM));
        assert_eq!(pauses, TRIES);
        assert!(queue.pending() == expected, "nothing is lost");
    }

    #[test]
    fn the_queue_hands_out_each_byte_once_and_forgets_what_was_sent() {
        let mut queue = SendQueue::default();
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for step in 0..2000usize {
            let payload = vec![step as u8; 1000];
            let message = ToHost::Data(Stream::Stdout, &payload);
            message.encode(0, &mut expected);
            queue.send(0, &message);
            let n = queue.pending().len().min(step % 1500);
            got.extend_from_slice(&queue.pending()[..n]);
            queue.sent(n);
            assert!(queue.done <= SEND_LIMIT);
        }
        got.extend_from_slice(queue.pending());
        queue.sent(queue.pending().len());
        assert!(got == expected && queue.is_empty() && queue.bytes.is_empty());
    }
}
