//! How a task reaches the keeper of its node's VM, and how the keeper gets to know of tasks.
//!
//! The tasks inherit a pair of sockets from slurmstepd. One byte waits behind the door: who gets it founds the VM. A task
//! sends one end of a new pair of sockets through the door; who is in the hall takes it out. Nobody else has these
//! sockets, so there is no name to guess or take, and nobody to check: but the peer's user is looked at all the same.

#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Uid, close};

use crate::error::{Context, Fault, RunError};
use node::{descriptors, pass};
use request::Meeting;

/// The descriptors of a meeting, taken over from slurmstepd.
#[derive(Debug)]
pub(super) struct Place {
    pub door: UnixStream,
    pub hall: UnixStream,
    pub life: OwnedFd,
}

impl Place {
    /// Takes over the descriptors that the plugin has left open in this process.
    ///
    /// # Errors
    /// When they are not what the plugin makes.
    pub fn enter(meeting: Meeting) -> Result<Self, RunError> {
        let Meeting { door, hall, life } = meeting;
        let is = |fd: RawFd, kind: SFlag| {
            // SAFETY: only asked what it is, whoever else may have it.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fstat(fd).is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind)
        };
        if !is(door, SFlag::S_IFSOCK) || !is(hall, SFlag::S_IFSOCK) || !is(life, SFlag::S_IFIFO) {
            return Err(RunError::new(Fault::System, "the tasks of this node cannot find each other"));
        }
        // SAFETY: they are open, and slurmstepd has left them for this program alone, which takes them once.
        let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
        let place = Self { door: own(door).into(), hall: own(hall).into(), life: own(life) };
        for socket in [&place.door, &place.hall] {
            socket.set_nonblocking(true).context("a socket of the tasks")?;
        }
        Ok(place)
    }

    /// Whether this task founds the VM. Only the first that asks does.
    pub fn is_founder(&self) -> bool {
        let mut token = [0; 1];
        matches!((&self.door).read(&mut token), Ok(1))
    }

    /// Leaves it through the door, with a connection to the keeper, which need not be there yet.
    ///
    /// # Errors
    /// When the keeper has ended, and no other task is on its way.
    pub fn attach(self) -> io::Result<UnixStream> {
        // What is kept open would hide from the keeper that nobody can come any more, and from the others and this task that it is gone.
        drop((self.hall, self.life));
        attach(&self.door)
    }
}

/// Sends a new connection through the door.
pub(super) fn attach(door: &UnixStream) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    pass::send(door.as_fd(), "\0", &[theirs.as_raw_fd()])?;
    ours.set_nonblocking(true)?;
    Ok(ours)
}

/// Result of looking into the hall.
#[derive(Debug)]
pub(super) enum Arrival {
    Task(UnixStream),
    /// Nobody now.
    Nobody,
    /// Nobody any more: slurmstepd has ended.
    NeverAgain,
}

/// Takes the next connection out. The hall's socket does not block.
pub(super) fn receive(hall: &UnixStream) -> Arrival {
    let socket = match pass::receive(hall.as_fd()) {
        Ok((text, _)) if text.is_empty() => return Arrival::NeverAgain,
        Ok((_, fds)) => fds.into_iter().next().map(UnixStream::from),
        // A task for which there is no descriptor sees the end of its connection. Others may still come.
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => return Arrival::Nobody,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            return Arrival::Nobody;
        }
        Err(_) => return Arrival::NeverAgain,
    };
    let is_ours = |socket: &UnixStream| {
        let peer = getsockopt(&socket.as_fd(), PeerCredentials);
        peer.is_ok_and(|peer| peer.uid() == Uid::effective().as_raw()) && socket.set_nonblocking(true).is_ok()
    };
    socket.filter(is_ours).map_or(Arrival::Nobody, Arrival::Task)
}

/// Closes all descriptors but the standard ones and these: those of the task that founded the VM, which the keeper must
/// not hold (its end would not be seen at the other side).
pub(super) fn close_all_but(keep: &[RawFd]) {
    for fd in descriptors::open().into_iter().filter(|fd| *fd > 2 && !keep.contains(fd)) {
        // EBADF: that of the listing itself.
        let _ = close(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::IntoRawFd;

    fn place() -> Place {
        let (door, mut hall) = UnixStream::pair().unwrap();
        hall.write_all(&[1]).unwrap();
        let (life, _) = std::io::pipe().unwrap();
        let [door, hall] = [door, hall].map(IntoRawFd::into_raw_fd);
        Place::enter(Meeting { door, hall, life: OwnedFd::from(life).into_raw_fd() }).unwrap()
    }

    #[test]
    fn one_task_founds_and_all_reach_the_hall_before_and_after_somebody_is_there() {
        let place = place();
        assert!(place.is_founder() && !place.is_founder());
        assert!(matches!(receive(&place.hall), Arrival::Nobody));
        let mut tasks = [attach(&place.door).unwrap(), attach(&place.door).unwrap()];
        for task in &mut tasks {
            let Arrival::Task(mut there) = receive(&place.hall) else { panic!("no task") };
            there.write_all(b"x").unwrap();
            let mut byte = [0; 1];
            task.set_nonblocking(false).unwrap();
            task.read_exact(&mut byte).unwrap();
        }
        drop(place.door);
        assert!(matches!(receive(&place.hall), Arrival::NeverAgain));
    }

    #[test]
    fn a_keeper_that_has_ended_is_noticed_at_the_door_and_behind_it() {
        let place = place();
        let mut early = attach(&place.door).unwrap();
        drop(place.hall);
        assert_eq!(early.read(&mut [0; 1]).unwrap(), 0);
        assert!(attach(&place.door).is_err());
    }

    #[test]
    fn a_task_that_comes_when_nobody_else_is_in_the_hall_is_told_so() {
        let late = place();
        assert!(late.attach().is_err());
        let in_time = place();
        let keeper = in_time.hall.try_clone().unwrap();
        let _task = in_time.attach().unwrap();
        assert!(matches!(receive(&keeper), Arrival::Task(_)));
    }

    #[test]
    fn other_descriptors_are_not_taken_for_a_meeting() {
        assert!(Place::enter(Meeting { door: 900, hall: 901, life: 902 }).is_err());
    }
}
