//! Ends the keeper with slurmstepd, whatever the keeper is doing.
//!
//! The keeper's parent is a task, which ends before others do, so `PR_SET_PDEATHSIG` does not serve. Instead slurmstepd alone
//! holds the other end of a pipe, and the kernel kills the keeper when that end is closed.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// `F_SETSIG` of `<fcntl.h>`.
const F_SETSIG: libc::c_int = 10;

/// From now on this process is killed when nobody has the other end of this pipe.
///
/// # Errors
/// When it is closed already, or as fcntl(2).
pub(super) fn depend_on(life: &OwnedFd) -> io::Result<()> {
    let fd = life.as_raw_fd();
    let check = |code: libc::c_int| if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: fcntl with numbers on a descriptor that is open; no memory is touched.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()))?;
        check(libc::fcntl(fd, F_SETSIG, libc::SIGKILL))?;
        check(libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK))?;
    }
    // Nothing was sent for an end before that.
    let mut set = [PollFd::new(life.as_fd(), PollFlags::empty())];
    poll(&mut set, PollTimeout::ZERO)?;
    match set[0].any() {
        Some(false) => Ok(()),
        _ => Err(io::Error::other("slurmstepd is gone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write, pipe};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    const IS_CHILD: &str = "SPANK_VM_TEST_IS_KEEPER";

    #[test]
    fn a_process_dies_with_the_one_it_depends_on_whatever_it_does() {
        if std::env::var_os(IS_CHILD).is_some() {
            // Its stdin is the pipe.
            let life = io::stdin().as_fd().try_clone_to_owned().unwrap();
            depend_on(&life).unwrap();
            io::stdout().write_all(b"begun\n").unwrap();
            std::thread::sleep(std::time::Duration::from_secs(60));
            return;
        }
        let (life, breath) = pipe().unwrap();
        let name = "keeper::life::tests::a_process_dies_with_the_one_it_depends_on_whatever_it_does";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).env(IS_CHILD, "1").stdin(life).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("begun")));
        assert_eq!(child.try_wait().unwrap(), None);
        drop(breath);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    #[test]
    fn one_that_is_gone_already_is_noticed() {
        let (life, breath) = pipe().unwrap();
        drop(breath);
        assert!(depend_on(&life.into()).is_err());
    }
}
