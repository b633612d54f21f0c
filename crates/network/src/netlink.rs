//! A conversation with the kernel: messages, each answered before the next is sent.

use std::io;
use std::os::fd::OwnedFd;

use crate::message::{Message, first};
use crate::sys;

/// `NLMSG_ERROR`: the answer, with an error number or 0.
const ANSWER: u16 = 2;

/// A socket to the part of the kernel that configures something, in the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    number: u32,
}

impl Netlink {
    /// Links, addresses and neighbours.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(libc::NETLINK_ROUTE)
    }

    /// The firewall.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(libc::NETLINK_NETFILTER)
    }

    fn open(protocol: i32) -> io::Result<Self> {
        Ok(Self { socket: sys::netlink_socket(protocol)?, number: 0 })
    }

    /// Sends a message and waits for the answer.
    pub(crate) fn ask(&mut self, message: Message) -> io::Result<()> {
        self.ask_all(vec![message])
    }

    /// Sends messages at once, all of which count as one, and waits for the answer to the last that wants one. The
    /// first error counts.
    pub(crate) fn ask_all(&mut self, messages: Vec<Message>) -> io::Result<()> {
        self.batch(messages, |_| true)
    }

    /// The same; `is_answered` says by their place which of the messages are answered.
    pub(crate) fn batch(&mut self, messages: Vec<Message>, is_answered: impl Fn(usize) -> bool) -> io::Result<()> {
        let mut waiting = Vec::new();
        let mut bytes = Vec::new();
        for (place, message) in messages.into_iter().enumerate() {
            self.number += 1;
            if is_answered(place) {
                waiting.push(self.number);
            }
            bytes.extend(message.finish(self.number));
        }
        sys::send_bytes(&self.socket, &bytes)?;
        let mut buffer = vec![0; 64 << 10];
        while !waiting.is_empty() {
            let count = sys::receive_bytes(&self.socket, &mut buffer)?;
            let mut rest = &buffer[..count];
            while let Some((kind, number, body, more)) = first(rest) {
                rest = more;
                if kind != ANSWER {
                    continue;
                }
                let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                if code != 0 {
                    return Err(io::Error::from_raw_os_error(-code));
                }
                waiting.retain(|other| *other != number);
            }
        }
        Ok(())
    }

    /// The socket, which some things die with.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }
}
