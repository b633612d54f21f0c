//! Writing where a write may block and we cannot open a descriptor of our own: a pipe or a terminal of another user.
//!
//! O_NONBLOCK belongs to the open file, which other processes share, and a poll before a write guarantees nothing if
//! others write too, or on a terminal. So a separate thread does the writing. It gets its data through a socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

/// Most bytes that may wait for the thread.
const ROOM: usize = 64 * 1024;

/// The near end of a thread that writes.
#[derive(Debug)]
pub struct Pump {
    feed: UnixStream,
    /// The number of the error that ended the thread.
    error: Arc<OnceLock<i32>>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// No more data comes; the thread writes the rest.
    Finishing,
    Done,
}

impl Pump {
    /// Starts a thread that writes to `target`. It takes no signals if this thread takes none.
    ///
    /// # Errors
    /// When descriptors or threads run out.
    pub fn start(target: File) -> io::Result<Self> {
        let (feed, fed) = UnixStream::pair()?;
        feed.set_nonblocking(true)?;
        setsockopt(&feed, sockopt::SndBuf, &ROOM)?;
        let error = Arc::new(OnceLock::new());
        let told = Arc::clone(&error);
        std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            // Set before `fed` is closed, because the closed socket makes the other end look at it.
            if let Err(error) = carry(&fed, &target) {
                let _ = told.set(error.raw_os_error().unwrap_or(libc::EIO));
            }
            drop(fed);
        })?;
        Ok(Self { feed, error, state: State::Open })
    }

    /// Takes as many bytes as there is room for.
    ///
    /// # Errors
    /// `WouldBlock`, or the error that ended the thread.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.feed.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.state = State::Done;
                Err(self.error.get().map_or(error, |&number| io::Error::from_raw_os_error(number)))
            }
            outcome => outcome,
        }
    }

    /// No more will come; the thread writes the rest.
    pub fn finish(&mut self) {
        if self.state == State::Open {
            // `look` notices if the thread has ended.
            let _ = self.feed.shutdown(std::net::Shutdown::Write);
            self.state = State::Finishing;
        }
    }

    /// Whether we wait for the end of the thread.
    pub fn is_finishing(&self) -> bool {
        self.state == State::Finishing
    }

    /// Checks whether the rest was written after [`Pump::finish`].
    ///
    /// # Errors
    /// The error that ended the thread.
    pub fn look(&mut self) -> io::Result<()> {
        if self.state != State::Finishing {
            return Ok(());
        }
        match self.feed.read(&mut [0]) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            _ => {
                self.state = State::Done;
                self.error.get().map_or(Ok(()), |&number| Err(io::Error::from_raw_os_error(number)))
            }
        }
    }
}

impl AsFd for Pump {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.feed.as_fd()
    }
}

/// Writes all data that comes.
fn carry(mut from: &UnixStream, mut to: &File) -> io::Result<()> {
    let mut buffer = vec![0; ROOM];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process with the same open file has set O_NONBLOCK.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
