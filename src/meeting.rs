//! How the tasks of a step on a node find each other, if they may share a VM: by descriptors that slurmstepd makes before it
//! forks them.
//!
//! ```text
//! slurmstepd:  door ═══ hall      life ◄─── breath
//!                │       │          │         └ slurmstepd's alone: when slurmstepd ends, the VM's keeper is told
//!                └───────┴──────────┴ each task's; one byte waits behind the door, and who gets it founds the VM
//! ```
//!
//! A name in the file system or of a socket could be guessed or taken by another user; these have none. What they are used
//! for is the runner's business.

use crate::spank::inherit;
use request::Meeting;
use std::io::{self, PipeReader, PipeWriter, Write, pipe};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

/// What the runner reads there first.
const TOKEN: [u8; 1] = [1];

/// The descriptors. All are closed when another program is executed.
#[derive(Debug)]
pub struct MeetingPlace {
    door: UnixStream,
    /// `None` in slurmstepd itself, once it has started the tasks: then only those who use it have it open.
    inside: Option<(UnixStream, PipeReader)>,
    /// Kept open until slurmstepd ends.
    _breath: PipeWriter,
}

impl MeetingPlace {
    /// Makes them.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn new() -> io::Result<Self> {
        let (door, mut hall) = UnixStream::pair()?;
        hall.write_all(&TOKEN)?;
        let (life, breath) = pipe()?;
        Ok(Self { door, inside: Some((hall, life)), _breath: breath })
    }

    /// In a task: leaves them open in the runner, and says which they are.
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn pass_on(&self) -> io::Result<Option<Meeting>> {
        let Some((hall, life)) = &self.inside else { return Ok(None) };
        for fd in [self.door.as_fd(), hall.as_fd(), life.as_fd()] {
            inherit(fd)?;
        }
        Ok(Some(Meeting { door: self.door.as_raw_fd(), hall: hall.as_raw_fd(), life: life.as_raw_fd() }))
    }

    /// In slurmstepd, after the tasks were forked: if all of them give up, nobody waits for them.
    pub fn leave(&mut self) {
        self.inside = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn one_task_gets_the_byte_and_all_others_get_nothing() {
        let mut place = MeetingPlace::new().unwrap();
        place.door.set_nonblocking(true).unwrap();
        let mut other_task = place.door.try_clone().unwrap();
        let mut byte = [0; 1];
        assert_eq!(other_task.read(&mut byte).unwrap(), 1);
        assert_eq!(place.door.read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(place.pass_on().unwrap().is_some());
        place.leave();
        assert_eq!(place.pass_on().unwrap(), None);
        assert_eq!(other_task.read(&mut byte).unwrap(), 0, "nobody is in the hall any more");
    }
}
