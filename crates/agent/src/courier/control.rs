//! What the agent tells the courier: short messages over a pair of sockets, each answered by its number.

#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send, sendmsg,
    socketpair,
};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Serve the share of this number on the descriptor that comes along.
    Serve(u16),
    /// Kill every other process but PID 1.
    KillAll,
    /// Answer when no request is left.
    Drain,
    /// Close all shares.
    End,
}

/// Bytes of a message: number, kind, share.
const LEN: usize = 7;

impl Order {
    fn encode(self, number: u32) -> [u8; LEN] {
        let (kind, share) = match self {
            Self::Serve(share) => (1, share),
            Self::KillAll => (2, 0),
            Self::Drain => (3, 0),
            Self::End => (4, 0),
        };
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes[4] = kind;
        bytes[5..].copy_from_slice(&u16::to_le_bytes(share));
        bytes
    }

    fn parse(bytes: &[u8; LEN]) -> Option<(u32, Self)> {
        let (&number, rest) = bytes.split_first_chunk::<4>()?;
        let (&[kind], &share) =
            rest.split_first_chunk::<1>().and_then(|(kind, rest)| Some((kind, rest.first_chunk::<2>()?)))?;
        let order = match kind {
            1 => Self::Serve(u16::from_le_bytes(share)),
            2 => Self::KillAll,
            3 => Self::Drain,
            4 => Self::End,
            _ => return None,
        };
        Some((u32::from_le_bytes(number), order))
    }
}

/// One end.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    /// Both ends, nonblocking to receive.
    pub fn pair() -> nix::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(a), Self(b)))
    }

    /// The agent's side: gives an order.
    pub fn send(&self, number: u32, order: Order, fd: Option<BorrowedFd<'_>>) -> nix::Result<()> {
        let bytes = order.encode(number);
        let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
    }

    /// The agent's side: the number of an order that was carried out, if there is an answer.
    ///
    /// # Errors
    /// When the courier has died.
    pub fn answer(&self) -> nix::Result<Option<u32>> {
        let mut bytes = [0; 4];
        match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(4) => Ok(Some(u32::from_le_bytes(bytes))),
            Ok(_) => Err(Errno::EPIPE),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The courier's side: the next order, if there is one, with its number and descriptor.
    ///
    /// # Errors
    /// When the agent has died.
    pub fn receive(&self) -> nix::Result<Option<(u32, Order, Option<OwnedFd>)>> {
        let mut bytes = [0; LEN];
        let mut room = cmsg_space!(RawFd);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut room), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        if message.bytes == 0 {
            return Err(Errno::EPIPE);
        }
        let mut fd = None;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = part {
                // SAFETY: the kernel just made these descriptors for this process, and nobody else knows them.
                fd = fds.first().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        Ok(Order::parse(&bytes).map(|(number, order)| (number, order, fd)))
    }

    /// The courier's side: an order was carried out.
    pub fn done(&self, number: u32) {
        // An agent that is gone needs no answer: the next receive ends the courier.
        let _ = send(self.0.as_raw_fd(), &number.to_le_bytes(), MsgFlags::MSG_NOSIGNAL);
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_with_their_descriptors_and_are_answered_by_number() {
        let (agent, courier) = Control::pair().unwrap();
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let orders = [Order::Serve(300), Order::KillAll, Order::Drain, Order::End];
        for (number, order) in (7..).zip(orders) {
            assert!(courier.receive().unwrap().is_none());
            let fd = matches!(order, Order::Serve(_)).then(|| file.as_fd());
            agent.send(number, order, fd).unwrap();
            let (got_number, got, got_fd) = courier.receive().unwrap().unwrap();
            assert_eq!((got_number, got, got_fd.is_some()), (number, order, fd.is_some()));
            assert_eq!(agent.answer(), Ok(None));
            courier.done(number);
            assert_eq!(agent.answer(), Ok(Some(number)));
        }
        drop(agent);
        assert!(courier.receive().is_err());
    }
}
