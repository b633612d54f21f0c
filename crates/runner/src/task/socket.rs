//! A socket of the task that a command in a VM has too: what each side says, with a window for each direction.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, recv, send};

use super::inherited::Inherited;
use super::pmi::Pmi;
use crate::session::Outgoing;
use proto::{ProtoError, RecvWindow, SendWindow, Stream, ToGuest};

/// Bytes that are read at once; an answer has about a thousand.
const PIECE: usize = 4096;

/// The host's end of a command's socket, with slurmstepd's PMI server on the other side.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    /// Never set nonblocking: its owner on the other side may share it.
    fd: OwnedFd,
    state: State,
    pmi: Pmi,
    /// The rest of a request that the server did not take at once.
    unsent: Vec<u8>,
    received: RecvWindow,
    /// Bytes of the guest that were passed on, or never will be, and not yet credited.
    passed_on: usize,
    window: SendWindow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The guest has closed it, or may not use it any more: nothing is read, and what it sends is dropped.
    Deaf,
    /// The host has closed it, and the guest must be told.
    Ended,
    /// The guest was told.
    Told,
}

impl Socket {
    /// Socket number `place` of a command.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn new(place: u8, of_task: &Inherited) -> io::Result<Self> {
        Ok(Self {
            stream: Stream::Socket(place),
            fd: of_task.share()?,
            state: State::Open,
            pmi: Pmi::new(),
            unsent: Vec::new(),
            received: RecvWindow::default(),
            passed_on: 0,
            window: SendWindow::default(),
        })
    }

    /// What to wait for. Nothing if nothing could be done: a closed socket is always ready.
    pub fn wanted(&self) -> Option<PollFd<'_>> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.state == State::Open && self.window.available() > 0);
        events.set(PollFlags::POLLOUT, self.state != State::Told && !self.unsent.is_empty());
        (!events.is_empty()).then(|| PollFd::new(self.fd.as_fd(), events))
    }

    /// Takes bytes of the guest. Returns a line for the user, if the guest may not say that.
    ///
    /// # Errors
    /// The guest ignored the window.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Option<String>, ProtoError> {
        self.received.receive(self.stream.number(), bytes.len())?;
        if self.state != State::Open {
            self.passed_on += bytes.len();
            return Ok(None);
        }
        self.pmi.hear(bytes);
        Ok(self.write())
    }

    /// The guest has closed it. What it said before was passed on, unless the server does not read. The end is not: on bare
    /// metal slurmstepd has a copy of this end and never sees one, and an end before the first request ends it (SIGPIPE).
    pub fn close(&mut self) {
        if self.state == State::Open {
            self.state = State::Deaf;
            self.unsent.clear();
        }
    }

    /// Takes credit from the guest.
    ///
    /// # Errors
    /// More credit than was spent.
    pub fn refill(&mut self, bytes: u32) -> Result<(), ProtoError> {
        self.window.refill(bytes)
    }

    /// Moves what can be moved now. Returns a line for the user, if the guest may not say what it said.
    pub fn pass_on(&mut self, task: u16, out: &mut Outgoing) -> Option<String> {
        self.write().or_else(|| if self.read(task, out) { self.write() } else { None })
    }

    /// Tells the guest what it has to know: the credit that is due, and the end.
    pub fn answer(&mut self, task: u16, out: &mut Outgoing) {
        if self.state == State::Ended {
            self.state = State::Told;
            out.send(task, &ToGuest::Eof(self.stream));
        }
        if let Some(credit) = self.received.consume(std::mem::take(&mut self.passed_on)) {
            out.send(task, &ToGuest::Window(self.stream, credit));
        }
    }

    /// Sends whole requests.
    fn write(&mut self) -> Option<String> {
        loop {
            if self.unsent.is_empty() {
                if self.state != State::Open {
                    return None;
                }
                match self.pmi.next() {
                    Ok(None) => return None,
                    Ok(Some(request)) => self.unsent = request,
                    Err(why) => {
                        // slurmstepd gets no end of it: it looks at a socket that has ended again and again.
                        self.state = State::Ended;
                        return Some(why);
                    }
                }
            }
            match send(self.fd.as_raw_fd(), &self.unsent, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => {
                    self.unsent.drain(..n);
                    self.passed_on += n;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return None,
                // The server has gone, which the next read finds.
                Err(_) => self.passed_on += std::mem::take(&mut self.unsent).len(),
            }
        }
    }

    /// Reads once; whether something came.
    fn read(&mut self, task: u16, out: &mut Outgoing) -> bool {
        let mut buffer = [0; PIECE];
        let room = self.window.available().min(PIECE);
        if self.state != State::Open || room == 0 {
            return false;
        }
        match recv(self.fd.as_raw_fd(), &mut buffer[..room], MsgFlags::MSG_DONTWAIT) {
            Ok(n @ 1..) => {
                self.window.spend(n);
                self.pmi.answered(&buffer[..n]);
                out.send(task, &ToGuest::Data(self.stream, &buffer[..n]));
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            _ => {
                self.state = State::Ended;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::WINDOW;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const INIT: &[u8] = b"cmd=init pmi_version=1 pmi_subversion=1\n";
    const ANSWER: &[u8] = b"cmd=response_to_init rc=0 pmi_version=1 pmi_subversion=1\n";

    /// A socket, and the server's end of it.
    fn socket() -> (Socket, UnixStream) {
        let (server, task) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let socket = Socket::new(0, &Inherited { number: 9, socket: task.into() }).unwrap();
        (socket, server)
    }

    fn heard(server: &mut UnixStream) -> String {
        let mut buffer = [0; 4096];
        let n = server.read(&mut buffer).unwrap_or(0);
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    /// The messages for the guest, as text.
    fn told(socket: &mut Socket) -> Vec<String> {
        let mut out = Outgoing::default();
        let line = socket.pass_on(0, &mut out);
        socket.answer(0, &mut out);
        let told = out.told(|message| match message {
            ToGuest::Data(_, bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            message => format!("{message:?}"),
        });
        line.into_iter().chain(told).collect()
    }

    #[test]
    fn requests_and_answers_pass_and_the_guest_is_told_of_the_server_s_end() {
        let (mut socket, mut server) = socket();
        assert_eq!(socket.hear(INIT), Ok(None));
        assert_eq!(heard(&mut server).as_bytes(), INIT);
        server.write_all(ANSWER).unwrap();
        assert_eq!(told(&mut socket), [str::from_utf8(ANSWER).unwrap()]);
        assert_eq!(socket.hear(b"cmd=abort exitcode=1\n"), Ok(None));
        socket.close();
        assert_eq!(heard(&mut server), "cmd=abort exitcode=1\n");
        assert!(server.read(&mut [0]).is_err(), "no end is shown to the server");
        assert!(socket.wanted().is_none());

        let (mut socket, server) = self::socket();
        drop(server);
        assert!(socket.wanted().is_some());
        assert_eq!(told(&mut socket), ["Eof(Socket(0))"]);
        assert!(socket.wanted().is_none(), "an end is told once");
        assert_eq!(told(&mut socket), [""; 0]);
        assert_eq!(socket.hear(INIT), Ok(None), "that was on its way");
    }

    #[test]
    fn a_guest_that_says_something_else_loses_the_socket_and_slurmstepd_does_not_notice() {
        let (mut socket, mut server) = socket();
        let line = socket.hear(b"garbage\n").unwrap().unwrap();
        assert!(line.contains("garbage"), "{line}");
        assert_eq!(told(&mut socket), ["Eof(Socket(0))"]);
        assert!(server.read(&mut [0]).is_err(), "no end and no bytes");
        assert_eq!(socket.hear(INIT), Ok(None));
        assert_eq!(heard(&mut server), "");
    }

    #[test]
    fn what_the_server_does_not_take_is_kept_up_to_the_window() {
        let (mut socket, mut server) = socket();
        assert_eq!(socket.hear(INIT), Ok(None));
        heard(&mut server);
        server.write_all(b"cmd=response_to_init rc=0 pmi_version=2 pmi_subversion=0\n").unwrap();
        assert_eq!(told(&mut socket).len(), 1);
        let request = format!("{:6}cmd=kvs-put;key={};", 8000, "x".repeat(8000 - 17));
        let mut sent = 0;
        while socket.hear(request.as_bytes()).is_ok() {
            sent += request.len();
            socket.answer(0, &mut Outgoing::default());
            assert!(sent < 4 << 20, "nobody reads");
        }
        assert!(sent > WINDOW as usize / 2);
        assert!(socket.wanted().is_some_and(|fd| fd.events().contains(PollFlags::POLLOUT)));
    }
}
