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
        self.tell(task, out);
        line.or_else(|| self.write())
    }

    fn tell(&mut self, task: u16, out: &mut Outgoing) {
        let ready = self.pmix.for_guest();
        while !ready.is_empty() && self.window.available() > 0 && !self.is_closed_there {
            let length = ready.len().min(self.window.available()).min(PIECE);
            self.window.spend(length);
            out.send(task, &ToGuest::Data(self.stream, &ready[..length]));
            ready.drain(..length);
        }
    }

    /// Tells the guest what it has to know: the credit that is due, and the end. Nothing after the end.
    pub fn answer(&mut self, task: u16, out: &mut Outgoing) {
        // Own answers come without a word of the server, and so does the end of a guest that has said all.
        if self.is_open() {
            self.tell(task, out);
            if self.is_closed_there {
                self.write();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::pmix::Name;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    const GREETING: &[u8] =
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x2a\0\0\0\0\0\0\0native\0\0\0\0\x08\0\0\0\0\0\0\0\0\0n\0\0\0\0\x01\
4.2.2\0v41\0\x01hash\0";
    const FINALIZE: &[u8] = b"\0\0\0\x01\0\0\0\x64\0\0\0\x02\0\0\0\0\x02\x05";

    fn place() -> (Connection, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!() };
        let name = Name { namespace: b"n".to_vec(), rank: 1 };
        let server = PmixServer { address, in_guest: address, name };
        (Connection::new(0, &server), listener)
    }

    fn accepted(listener: &TcpListener) -> TcpStream {
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        server
    }

    /// The messages for the guest.
    fn told(connection: &mut Connection) -> Vec<String> {
        let mut out = Outgoing::default();
        let line = connection.pass_on(0, &mut out);
        connection.answer(0, &mut out);
        line.into_iter().chain(out.told(|message| format!("{message:?}"))).collect()
    }

    #[test]
    fn a_connection_is_made_once_the_guest_has_greeted_and_ends_with_the_guest_s() {
        let (mut connection, listener) = place();
        listener.set_nonblocking(true).unwrap();
        // Twice: the place is as new after both sides have closed it.
        for _ in 0..2 {
            assert_eq!(connection.hear(&GREETING[..20]), Ok(None));
            assert!(listener.accept().is_err(), "no connection for half a greeting");
            assert_eq!(connection.hear(&GREETING[20..]), Ok(None));
            let mut server = accepted(&listener);
            server.read_exact(&mut [0; 58]).unwrap();
            server.write_all(&[0, 0, 0, 0, 0, 0, 0, 5]).unwrap();
            assert_eq!(told(&mut connection), ["Data(Socket(0), [0, 0, 0, 0, 0, 0, 0, 5])"]);
            assert_eq!(connection.hear(FINALIZE), Ok(None));
            connection.close().unwrap();
            assert_eq!(told(&mut connection), ["Eof(Socket(0))"]);
            let mut said = Vec::new();
            server.read_to_end(&mut said).unwrap();
            assert_eq!(said, FINALIZE, "and then the end");
        }
    }

    #[test]
    fn the_guest_is_told_of_the_server_s_end_and_says_nothing_after_its_own() {
        let (mut connection, listener) = place();
        connection.hear(GREETING).unwrap();
        let mut server = accepted(&listener);
        server.read_exact(&mut [0; 58]).unwrap();
        drop(server);
        assert_eq!(told(&mut connection), ["Eof(Socket(0))"]);
        assert!(connection.wanted().is_none());
        assert_eq!(connection.hear(FINALIZE), Ok(None), "that was on its way");
        connection.close().unwrap();
        assert_eq!(told(&mut connection), [""; 0]);
        connection.close().unwrap();
        assert!(connection.close().is_err() && connection.hear(b"x").is_err());
        assert_eq!(told(&mut connection), ["Eof(Socket(0))"]);
    }

    #[test]
    fn what_is_answered_here_and_a_guest_s_end_wait_for_no_word_of_the_server() {
        let (mut connection, listener) = place();
        connection.hear(GREETING).unwrap();
        let mut server = accepted(&listener);
        server.read_exact(&mut [0; 58]).unwrap();
        server.write_all(&[0; 8]).unwrap();
        assert_eq!(told(&mut connection).len(), 1);
        let job_control = [&FINALIZE[..17], &[18]].concat();
        connection.hear(&job_control).unwrap();
        let said = |connection: &mut Connection| {
            let mut out = Outgoing::default();
            connection.answer(0, &mut out);
            out.len()
        };
        assert_eq!(said(&mut connection), proto::HEADER_LEN + 18);
        connection.close().unwrap();
        assert_eq!(said(&mut connection), proto::HEADER_LEN, "the end");
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn nonsense_and_a_server_that_has_gone_are_told_in_one_line() {
        let (mut connection, listener) = place();
        let line = connection.hear(&[b'x'; 4000]).unwrap().unwrap();
        assert!(line.contains("Slurm's PMIx server"), "{line}");
        assert_eq!(told(&mut connection), ["Eof(Socket(0))"]);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err());
        let (mut connection, listener) = place();
        drop(listener);
        connection.hear(GREETING).unwrap();
        let said = told(&mut connection);
        assert!(said.last().is_some_and(|last| last == "Eof(Socket(0))"), "{said:?}");
    }
}
