//! A way of a command to Slurm besides its streams: a socket that it inherits, or connections that it makes.

use nix::poll::PollFd;

use super::connection::Connection;
use super::socket::Socket;
use crate::session::Outgoing;
use proto::ProtoError;

/// One of them, with a stream of its own.
#[derive(Debug)]
pub(super) enum Way {
    Socket(Socket),
    Connection(Connection),
}

impl Way {
    /// What to wait for, if anything could be done.
    pub fn wanted(&self) -> Option<PollFd<'_>> {
        match self {
            Self::Socket(socket) => socket.wanted(),
            Self::Connection(connection) => connection.wanted(),
        }
    }

    /// Takes bytes of the guest. Returns a line for the user, if the guest may not say that.
    ///
    /// # Errors
    /// What the agent should not have said.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<Option<String>, ProtoError> {
        match self {
            Self::Socket(socket) => socket.hear(bytes),
            Self::Connection(connection) => connection.hear(bytes),
        }
    }

    /// The guest has closed it.
    ///
    /// # Errors
    /// It had done so before.
    pub fn close(&mut self) -> Result<(), ProtoError> {
        match self {
            Self::Socket(socket) => {
                socket.close();
                Ok(())
            }
            Self::Connection(connection) => connection.close(),
        }
    }

    /// Takes credit from the guest.
    ///
    /// # Errors
    /// More credit than was spent.
    pub fn refill(&mut self, bytes: u32) -> Result<(), ProtoError> {
        match self {
            Self::Socket(socket) => socket.refill(bytes),
            Self::Connection(connection) => connection.refill(bytes),
        }
    }

    /// Moves what can be moved now. Returns a line for the user.
    pub fn pass_on(&mut self, task: u16, out: &mut Outgoing) -> Option<String> {
        match self {
            Self::Socket(socket) => socket.pass_on(task, out),
            Self::Connection(connection) => connection.pass_on(task, out),
        }
    }

    /// Tells the guest what it has to know.
    pub fn answer(&mut self, task: u16, out: &mut Outgoing) {
        match self {
            Self::Socket(socket) => socket.answer(task, out),
            Self::Connection(connection) => connection.answer(task, out),
        }
    }
}
