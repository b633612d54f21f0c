//! A connection that a command in a VM makes to the address of Slurm's PMIx server, and the one that this process makes for it.
//!
//! What a guest says never chooses where: the address is the one that slurmstepd gave the task. The connection is made when the
//! guest has said who it is, in a message that may be passed on. When either side closes its end, so is the other: the server
//! takes a task that goes without a goodbye for one that has died, as on bare metal.

use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, connect, recv, send, setsockopt, socket, sockopt,
};

use super::pmix::Pmix;
use super::pmix_server::PmixServer;
use crate::session::Outgoing;
use proto::{ProtoError, RecvWindow, SendWindow, Stream, ToGuest};

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// A place for connections, one after the other.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    server: PmixServer,
    state: State,
    /// The guest has closed it: it says nothing until it was told that the host has, too.
    is_closed_there: bool,
    pmix: Pmix,
    /// Bytes that the server did not take at once.
    unsent: Vec<u8>,
    received: RecvWindow,
    /// Bytes of the guest that were passed on, or never will be, and not yet credited.
    passed_on: usize,
    window: SendWindow,
}

#[derive(Debug)]
enum State {
    /// The guest has said nothing that could be passed on.
    New,
    Connected(OwnedFd),
    /// It has ended here, and the guest must be told.
    Ended,
    /// The guest was told.
    Told,
}

impl Connection {
    /// For socket number `place` of a command with this server.
    pub fn new(place: u8, server: &PmixServer) -> Self {
        Self::of(Stream::Socket(place), server.clone())
    }

    fn of(stream: Stream, server: PmixServer) -> Self {
        let pmix = Pmix::new(server.name.clone());
        Self {
            stream,
            server,
            state: State::New,
            is_closed_there: false,
            pmix,
            unsent: Vec::new(),
            received: RecvWindow::default(),
            passed_on: 0,
            window: SendWindow::default(),
        }
    }

    /// What to wait for. Nothing if nothing could be done: a closed socket is always ready.
    pub fn wanted(&self) -> Option<PollFd<'_>> {
        let mut events = PollFlags::empty();
        let can_tell = self.pmix.has_told_all() && self.window.available() > 0;
        events.set(PollFlags::POLLIN, can_tell);
        events.set(PollFlags::POLLOUT, !self.unsent.is_empty());
        let State::Connected(fd) = &self.state else { return None };
        (!events.is_empty()).then(|| PollFd::new(fd.as_fd(), events))
    }

    /// Takes bytes of the guest. Returns a line for the user, if the guest may not say that.
    ///
    /// # Errors
    /// The guest ignored the window or its own end.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Option<String>, ProtoError> {
        if self.is_closed_there {
            return Err(ProtoError::OutOfOrder("DATA"));
        }
        self.received.receive(self.stream.number(), bytes.len())?;
        if !self.is_open() {
            return Ok(None);
        }
        self.pmix.hear(bytes);
        Ok(self.write())
    }

    /// The guest has closed it. What it said before is passed on first.
    ///
    /// # Errors
    /// It had done so before.
    pub fn close(&mut self) -> Result<(), ProtoError> {
        if self.is_closed_there {
            return Err(ProtoError::OutOfOrder("EOF"));
        }
        self.is_closed_there = true;
        Ok(())
    }

    /// Takes credit from the guest.
    ///
    /// # Errors
    /// More credit than was spent.
    pub fn refill(&mut self, bytes: u32) -> Result<(), ProtoError> {
        self.window.refill(bytes)
    }

    /// Moves what can be moved now. Returns a line for the user.
    pub fn pass_on(&mut self, task: u16, out: &mut Outgoing) -> Option<String> {
        let line = self.write();
        self.read();
        let ready = self.pmix.for_guest();
        while !ready.is_empty() && self.window.available() > 0 && !self.is_closed_there {
            let length = ready.len().min(self.window.available()).min(PIECE);
            self.window.spend(length);
            out.send(task, &ToGuest::Data(self.stream, &ready[..length]));
            ready.drain(..length);
        }
        line.or_else(|| self.write())
    }

    /// Tells the guest what it has to know: the credit that is due, and the end. Nothing after the end.
    pub fn answer(&mut self, task: u16, out: &mut Outgoing) {
        if let Some(credit) = self.received.consume(std::mem::take(&mut self.passed_on))
            && !matches!(self.state, State::Told)
        {
            out.send(task, &ToGuest::Window(self.stream, credit));
        }
        if matches!(self.state, State::Ended) && (self.is_closed_there || self.pmix.has_told_all()) {
            self.state = State::Told;
            out.send(task, &ToGuest::Eof(self.stream));
        }
        if matches!(self.state, State::Told) && self.is_closed_there {
            *self = Self::of(self.stream, self.server.clone());
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::New | State::Connected(_))
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.unsent.clear();
    }

    /// Sends what may be sent.
    fn write(&mut self) -> Option<String> {
        while self.is_open() {
            if self.unsent.is_empty() {
                let kept = self.pmix.kept();
                let next = self.pmix.next();
                self.passed_on += kept - self.pmix.kept();
                match next {
                    Ok(Some(bytes)) => self.unsent = bytes,
                    Ok(None) if self.is_closed_there => self.end(),
                    Ok(None) => break,
                    Err(why) => {
                        self.end();
                        return Some(why);
                    }
                }
                continue;
            }
            if let State::New = self.state {
                match connection_to(self.server.address) {
                    Ok(fd) => self.state = State::Connected(fd),
                    Err(errno) => {
                        self.end();
                        let (server, why) = (self.server.address, errno.desc());
                        return Some(format!("cannot connect to Slurm's PMIx server at {server}: {why}"));
                    }
                }
            }
            let State::Connected(fd) = &self.state else { break };
            match send(fd.as_raw_fd(), &self.unsent, MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(Errno::EINTR) => {}
                // Not yet connected, or it does not read. The kernel gives up in the end.
                Err(Errno::EAGAIN) => break,
                Err(_) => self.end(),
            }
        }
        self.pmix.line()
    }

    /// Reads once, if the guest has all that came before.
    fn read(&mut self) {
        let State::Connected(fd) = &self.state else { return };
        if !self.pmix.has_told_all() || self.window.available() == 0 {
            return;
        }
        let mut buffer = [0; PIECE];
        match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(n @ 1..) => self.pmix.answered(&buffer[..n]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            _ => self.end(),
        }
    }
}

/// A connection that may still be on its way; it does not block.
fn connection_to(address: SocketAddrV4) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(errno) => Err(errno),
    }
}
