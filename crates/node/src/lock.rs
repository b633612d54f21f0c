//! One producer at a time: a lock that dies with its holder, and a wait for it without polling.
//!
//! A waiter keeps one descriptor of the lock file, as long as the file has its name. Each close of the file is an
//! event for all others, so waiters that opened it again and again would keep waking each other.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sys::{self, Watch};

/// What can end a wait early: the signals of the waiting process.
pub trait Interrupt {
    /// Readable when something came.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The number of the next signal that ends the wait; others that came are taken and ignored.
    fn next_fatal(&self) -> Option<u8>;
}

/// The lock, held. Its file is gone when it is released.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _held: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the release: waiters see that this file is no longer the lock and take a new one.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// How a wait ended.
#[derive(Debug)]
pub enum Waited<T> {
    /// We hold the lock.
    Locked(Lock),
    /// Another process made what the lock was wanted for.
    Found(T),
    /// The deadline passed.
    TimedOut(TimedOut),
    /// A signal ended the wait.
    Interrupted(u8),
}

/// A wait that took too long, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedOut {
    /// The lock.
    pub path: PathBuf,
    /// How long the wait was.
    pub waited: Duration,
    /// Its holder, if the lock file names it.
    pub holder: Option<u32>,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self.holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
        write!(f, "{who} did not release {} within {} s", self.path.display(), self.waited.as_secs())
    }
}

/// Waits for the lock `path` until `deadline`, or until `look` finds what the lock is wanted for. The lock or the item
/// is taken even after the deadline if it is available at once.
///
/// # Errors
/// When the lock file cannot be made.
pub fn wait<T>(
    path: &Path,
    deadline: Instant,
    interrupt: &dyn Interrupt,
    mut look: impl FnMut() -> Option<T>,
) -> io::Result<Waited<T>> {
    let begin = Instant::now();
    let mut attempt = Attempt::at(path)?;
    loop {
        if let Some(signal) = interrupt.next_fatal() {
            return Ok(Waited::Interrupted(signal));
        }
        let is_locked = sys::try_lock(&attempt.file)?;
        if !attempt.is_named() {
            // Its holder has removed the file: the next lock is another file.
            attempt = Attempt::at(path)?;
            // Somebody may remove each new file, so the deadline must be checked here too.
            if Instant::now() < deadline {
                continue;
            }
        } else if is_locked {
            let lock = attempt.into_lock();
            return Ok(look().map_or(Waited::Locked(lock), Waited::Found));
        }
        if let Some(found) = look() {
            return Ok(Waited::Found(found));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let (path, holder) = (path.to_owned(), attempt.holder());
            return Ok(Waited::TimedOut(TimedOut { path, waited: begin.elapsed(), holder }));
        }
        attempt.watch.wait(interrupt.fd(), left)?;
    }
}

/// A lock file, opened once, and a watch on it.
struct Attempt {
    path: PathBuf,
    file: File,
    watch: Watch,
}

impl Attempt {
    fn at(path: &Path) -> io::Result<Self> {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Nonblocking, because something else may have the name.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let file = options?;
        // The watch starts before the attempt to lock, so a release in between is an event.
        let watch = Watch::of(&file)?;
        Ok(Self { path: path.to_owned(), file, watch })
    }

    /// Whether the file still has its name.
    fn is_named(&self) -> bool {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let named = std::fs::symlink_metadata(&self.path).map(identity).ok();
        named.is_some() && named == self.file.metadata().map(identity).ok()
    }

    fn into_lock(mut self) -> Lock {
        // For people, and for the message of a wait that failed.
        let _ = self.file.set_len(0).and_then(|()| writeln!(self.file, "{}", std::process::id()));
        Lock { path: self.path, _held: self.file }
    }

    /// The number that the holder wrote.
    fn holder(&self) -> Option<u32> {
        let mut text = String::new();
        (&self.file).take(16).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests;
