//! Ends this process with another one, whatever both are doing.
//!
//! `PR_SET_PDEATHSIG` does that only for the process that has forked this one, and only while exec changes no rights. Instead the
//! other one alone holds an end of a pipe, and the kernel kills this one when that end is closed.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `F_SETSIG` of `<fcntl.h>`.
const F_SETSIG: libc::c_int = 10;

/// From now on this process, and any program that it executes and that keeps the descriptor, is killed when nobody has the other end
/// of this pipe. It makes system calls only.
///
/// # Errors
/// `EPIPE` when that end is closed already, or as fcntl(2).
pub fn depend_on(life: BorrowedFd<'_>) -> io::Result<()> {
    let fd = life.as_raw_fd();
    let check = |code: libc::c_int| if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: fcntl with numbers on a descriptor that is open; no memory is touched.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()))?;
        check(libc::fcntl(fd, F_SETSIG, libc::SIGKILL))?;
        check(libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK))?;
    }
    // Nothing was sent for an end before that.
    let mut polled = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one structure, which lives until the call returns.
    check(unsafe { libc::poll(&raw mut polled, 1, 0) })?;
    if polled.revents == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPIPE)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write, pipe};
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    const IS_CHILD: &str = "SPANK_VM_TEST_DEPENDS_ON_A_PIPE";

    #[test]
    fn a_process_dies_with_the_one_it_depends_on_whatever_it_does() {
        if std::env::var_os(IS_CHILD).is_some() {
            // Its stdin is the pipe.
            depend_on(io::stdin().as_fd()).unwrap();
            io::stdout().write_all(b"begun\n").unwrap();
            std::thread::sleep(std::time::Duration::from_secs(60));
            return;
        }
        let (life, breath) = pipe().unwrap();
        let name = "life::tests::a_process_dies_with_the_one_it_depends_on_whatever_it_does";
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
        assert_eq!(depend_on(life.as_fd()).unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }
}
