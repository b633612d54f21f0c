//! Sockets that the task has inherited from slurmstepd, besides its three streams.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{SockType, getsockopt, sockopt};

/// A socket under the number by which the task knows it.
#[derive(Debug)]
pub(super) struct Inherited {
    pub number: u32,
    pub socket: OwnedFd,
}

impl Inherited {
    /// The stream socket that the task has under this number, if there is one. It is known to this process only from now on:
    /// none of the programs that it starts keeps the other side from noticing its end.
    pub fn take(number: u32) -> Option<Self> {
        let original = RawFd::try_from(number).ok().filter(|&number| number > 2)?;
        // SAFETY: both calls take a number and set flags or make a copy; a number that is not open is their error. It may be
        // a descriptor of this process, which loses nothing: all of them are close-on-exec.
        let copy = unsafe {
            libc::fcntl(original, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(original, libc::F_DUPFD_CLOEXEC, 3)
        };
        if copy < 0 {
            return None;
        }
        // SAFETY: the kernel has just given this number to this call alone.
        let socket = unsafe { OwnedFd::from_raw_fd(copy) };
        let is_stream = getsockopt(&socket, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream);
        is_stream.then_some(Self { number, socket })
    }

    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// When there are no more.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    #[test]
    fn only_a_stream_socket_behind_the_standard_streams_is_taken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let number = theirs.into_raw_fd() as u32;
        let taken = Inherited::take(number).unwrap();
        assert!(taken.number == number && taken.socket.as_raw_fd() as u32 != number);
        drop(ours);
        let file = File::open("/dev/null").unwrap();
        let datagram = UnixDatagram::unbound().unwrap();
        for number in [0, 2, 4_000_000, u32::MAX, file.as_raw_fd() as u32, datagram.as_raw_fd() as u32] {
            assert!(Inherited::take(number).is_none(), "{number}");
        }
    }
}
