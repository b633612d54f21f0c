//! A socket that the command has besides its standard streams: what it says to the host there, and the answers.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::read;
use std::os::fd::AsRawFd;

use proto::{DATA_CHUNK, ProtoError, RecvWindow, SendWindow, Stream, ToHost};

use super::error::AgentError;
use super::port::SendQueue;
use super::task::Listen;

/// Where the command finds its server in the guest.
#[derive(Debug)]
pub(super) struct Listener {
    pub socket: TcpListener,
    /// How many there may be at a time.
    pub connections: u8,
}

impl Listener {
    /// Opens it; it does not block.
    ///
    /// # Errors
    /// When something else in the guest has the address, or `lo` is down.
    pub fn open(asked: Listen) -> Result<Self, AgentError> {
        let socket = TcpListener::bind(asked.address).and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let socket = socket.map_err(|error| AgentError::Os {
            doing: format!("listen at {} for Slurm's PMIx server", asked.address),
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        })?;
        Ok(Self { socket, connections: asked.connections })
    }
}

/// The agent's end of a command's socket.
#[derive(Debug)]
pub(super) struct SocketPump {
    stream: Stream,
    /// `None` once either side has closed it.
    socket: Option<OwnedFd>,
    /// Bytes for the command.
    queue: VecDeque<u8>,
    received: RecvWindow,
    window: SendWindow,
    /// The host has closed its side; the command gets what came before.
    host_has_closed: bool,
    end_sent: bool,
    /// It is a place of a listener: it can have one connection after the other.
    is_place: bool,
}

impl SocketPump {
    /// For the connections of a listener. There is none yet.
    pub fn place(place: u8) -> Self {
        Self {
            stream: Stream::Socket(place),
            socket: None,
            queue: VecDeque::new(),
            received: RecvWindow::default(),
            window: SendWindow::default(),
            host_has_closed: false,
            end_sent: false,
            is_place: true,
        }
    }

    /// Whether it can take a connection: it is as new.
    pub fn is_free(&self) -> bool {
        self.is_place && self.socket.is_none() && !self.end_sent && !self.host_has_closed
    }

    /// Takes a nonblocking connection.
    pub fn connect(&mut self, socket: OwnedFd) {
        self.socket = Some(socket);
    }

    /// For our nonblocking end of socket number `place`.
    pub fn new(place: u8, socket: OwnedFd) -> Self {
        Self { socket: Some(socket), is_place: false, ..Self::place(place) }
    }

    /// Takes bytes for the command.
    ///
    /// # Errors
    /// The runner sent more than the window allows, or sent more after the end.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtoError> {
        if self.host_has_closed || self.is_free() {
            return Err(ProtoError::OutOfOrder("DATA"));
        }
        self.received.receive(self.stream.number(), bytes.len())?;
        self.queue.extend(bytes);
        Ok(())
    }

    /// Takes credit from the runner.
    ///
    /// # Errors
    /// More credit than was spent.
    pub fn refill(&mut self, bytes: u32) -> Result<(), ProtoError> {
        self.window.refill(bytes)
    }

    /// The host has closed it: so will we, after the command got what came before.
    ///
    /// # Errors
    /// There is no connection.
    pub fn end(&mut self) -> Result<(), ProtoError> {
        if self.is_free() {
            return Err(ProtoError::OutOfOrder("EOF"));
        }
        self.host_has_closed = true;
        Ok(())
    }

    /// What to wait for. Nothing if nothing could be done: a closed socket is always ready.
    pub fn wanted(&self, has_room: bool) -> Option<PollFd<'_>> {
        let socket = self.socket.as_ref()?;
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, has_room && self.window.available() > 0);
        events.set(PollFlags::POLLOUT, !self.queue.is_empty());
        (!events.is_empty()).then(|| PollFd::new(socket.as_fd(), events))
    }

    /// Moves what can be moved now. `buffer` is scratch space.
    pub fn pass_on(&mut self, task: u16, buffer: &mut [u8], out: &mut SendQueue) {
        self.write(task, out);
        if out.has_room() {
            self.read(task, buffer, out);
        }
        self.tell_end(task, out);
    }

    /// The command and all its processes are gone: sends what they said last, as far as the window goes, and the end.
    pub fn finish(&mut self, task: u16, buffer: &mut [u8], out: &mut SendQueue) {
        while self.socket.is_some() && self.read(task, buffer, out) {}
        self.socket = None;
        self.tell_end(task, out);
    }

    fn write(&mut self, task: u16, out: &mut SendQueue) {
        let mut passed = 0;
        while let (Some(socket), false) = (&self.socket, self.queue.is_empty()) {
            match send(socket.as_raw_fd(), self.queue.as_slices().0, MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => {
                    self.queue.drain(..n);
                    passed += n;
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // The command has closed it; what it said before is still to be read.
                Err(_) => {
                    passed += self.queue.len();
                    self.queue.clear();
                }
            }
        }
        if self.socket.is_none() {
            passed += self.queue.len();
            self.queue.clear();
        }
        if self.host_has_closed && self.queue.is_empty() {
            self.socket = None;
        }
        // After its end nothing more is said of a connection: the next one has windows of its own.
        let is_past = self.is_place && self.end_sent;
        if let Some(credit) = self.received.consume(passed).filter(|_| !is_past) {
            out.send(task, &ToHost::Window(self.stream, credit));
        }
    }

    /// Sends one piece of what the command said; `false` if there was none.
    fn read(&mut self, task: u16, buffer: &mut [u8], out: &mut SendQueue) -> bool {
        let room = self.window.available().min(DATA_CHUNK).min(buffer.len());
        let Some(socket) = self.socket.as_ref().filter(|_| room > 0) else { return false };
        match read(socket, &mut buffer[..room]) {
            Ok(n @ 1..) => {
                self.window.spend(n);
                out.send(task, &ToHost::Data(self.stream, &buffer[..n]));
                true
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            // Nobody has the other end any more.
            _ => {
                self.socket = None;
                false
            }
        }
    }

    fn tell_end(&mut self, task: u16, out: &mut SendQueue) {
        if self.socket.is_none() && !self.end_sent && !self.is_free() {
            self.end_sent = true;
            out.send(task, &ToHost::Eof(self.stream));
        }
        if let (true, true, true, Stream::Socket(place)) =
            (self.is_place, self.end_sent, self.host_has_closed, self.stream)
        {
            *self = Self::place(place);
        }
    }
}
