//! What the users of a VM and its channel have to do with each other: messages of tasks, and frames that wait to be sent.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use crate::notice;
use proto::{ProtoError, ToGuest, ToHost};

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The VM's number among those of this loop.
    pub vm: usize,
    /// The task's number within the VM.
    pub task: u16,
}

/// Why a VM cannot go on after what its agent said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is not the protocol.
    Protocol(ProtoError),
    /// It is a message that ends the VM; the reason, for the user.
    Reason(String),
}

impl From<ProtoError> for Refusal {
    fn from(error: ProtoError) -> Self {
        Self::Protocol(error)
    }
}

/// Who uses a VM: it gets all that the agent says of tasks, from the answer to the HELLO on.
pub trait Listener {
    /// Takes a message in. Answers go to `out`.
    ///
    /// # Errors
    /// What ends the VM.
    fn hear(&mut self, from: Address, message: ToHost<'_>, out: &mut Outgoing) -> Result<(), Refusal>;

    /// Tells the user something about the VM, in one line.
    fn notice(&mut self, text: &str) {
        notice::line(text);
    }
}

/// Frames that wait to be sent. They are bounded by who sends: stdin by its window, the rest by being rare.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
}

impl Outgoing {
    /// Adds a message to a task, or to the VM as a whole (task 0).
    pub fn send(&mut self, task: u16, message: &ToGuest<'_>) {
        message.encode(task, &mut self.bytes);
    }

    /// Adds frames that are written already.
    pub fn send_frames(&mut self, frames: &[u8]) {
        self.bytes.extend_from_slice(frames);
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Drops what waits.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Sends what the channel takes now.
    pub fn flush(&mut self, channel: &mut UnixStream) {
        let mut sent = 0;
        while sent < self.bytes.len() {
            match channel.write(&self.bytes[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Anything but a full channel means QEMU is gone; reading finds out how.
                Err(_) => break,
            }
        }
        self.bytes.drain(..sent);
    }
}
