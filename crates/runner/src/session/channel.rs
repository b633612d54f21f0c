//! The interface between a VM's channel and its users: messages of tasks, and frames that wait to be sent.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use crate::notice;
use proto::{ProtoError, ToGuest, ToHost};

/// The sender or receiver of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The VM's number among those of this loop.
    pub vm: usize,
    /// The task's number within the VM.
    pub task: u16,
}

/// Why a VM cannot go on after a message of its agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The message breaks the protocol.
    Protocol(ProtoError),
    /// The message ends the VM; the reason, for the user.
    Reason(String),
}

impl From<ProtoError> for Refusal {
    fn from(error: ProtoError) -> Self {
        Self::Protocol(error)
    }
}

/// The user of a VM: it gets all messages of the agent about tasks, after the answer to the HELLO.
pub trait Listener {
    /// Handles a message. Answers go to `out`.
    ///
    /// # Errors
    /// An error that ends the VM.
    fn hear(&mut self, from: Address, message: ToHost<'_>, out: &mut Outgoing) -> Result<(), Refusal>;

    /// Tells the user something about the VM, in one line.
    fn notice(&mut self, text: &str) {
        notice::line(text);
    }
}

/// Frames that wait to be sent. The senders limit their number: stdin has its window, and all other frames are rare.
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

    /// The messages that wait, each by `as_text`.
    #[cfg(test)]
    pub fn told(&self, as_text: impl Fn(ToGuest<'_>) -> String) -> Vec<String> {
        let mut decoder = proto::Decoder::new();
        let mut hello = Vec::new();
        ToGuest::Hello { version: 1, nonce: 1 }.encode(0, &mut hello);
        decoder.push(&hello);
        decoder.next_frame().unwrap();
        decoder.push(&self.bytes);
        let mut seen = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            seen.push(as_text(ToGuest::parse(frame).unwrap()));
        }
        seen
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
                // Any other error than a full channel means that QEMU is gone; the next read finds the reason.
                Err(_) => break,
            }
        }
        self.bytes.drain(..sent);
    }
}
