//! One producer at a time, of a template or of a copy of an image: a lock that dies with its holder, and a wait
//! for it without polling.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::signals::{Signal, Signals, is_fatal};

/// The lock, held. Its file is gone when it is released.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _held: Flock<File>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the release: whoever waits sees that this file is no lock any more and takes a new one.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// How a wait ended.
#[derive(Debug)]
pub enum Waited<T> {
    /// The lock is ours.
    Locked(Lock),
    /// What the wait was for came from somebody else.
    Found(T),
    /// The deadline passed.
    TimedOut,
    /// A signal came that ends the task.
    Interrupted(Signal),
}

/// Waits for the lock `path` until `deadline`, or until `look` finds what the lock is wanted for.
///
/// # Errors
/// When the lock file cannot be made.
pub fn wait<T>(
    path: &Path,
    deadline: Instant,
    signals: &Signals,
    mut look: impl FnMut() -> Option<T>,
) -> io::Result<Waited<T>> {
    loop {
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path);
        let file = options?;
        // The watch comes before the attempt: a release in between is an event.
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let this_file = format!("/proc/self/fd/{}", file.as_raw_fd());
        watch.add_watch(this_file.as_str(), AddWatchFlags::IN_CLOSE_WRITE)?;
        let identity = file.metadata()?.ino();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => {
                let named = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == identity);
                if !named {
                    continue;
                }
                let lock = Lock { path: path.to_owned(), _held: held };
                return Ok(match look() {
                    Some(found) => Waited::Found(found),
                    None => Waited::Locked(lock),
                });
            }
            Err((_waiting, Errno::EWOULDBLOCK)) => {
                // `_waiting` stays open for the watch's sake.
                if let Some(ended) = sleep(&watch, deadline, signals) {
                    return Ok(ended);
                }
            }
            Err((_, errno)) => return Err(errno.into()),
        }
        if let Some(found) = look() {
            return Ok(Waited::Found(found));
        }
    }
}

/// Sleeps until somebody closes the lock file; `Some` if the wait is over for another reason.
fn sleep<T>(watch: &Inotify, deadline: Instant, signals: &Signals) -> Option<Waited<T>> {
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return Some(Waited::TimedOut),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Some(Waited::TimedOut),
        }
        if fds[0].any().unwrap_or(true) {
            return None;
        }
        while let Some(signal) = signals.next() {
            if is_fatal(signal) {
                return Some(Waited::Interrupted(signal));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn one_holds_the_lock_and_the_others_wait_until_their_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let signals = Signals::watch().unwrap();
        let held = wait(&path, soon(), &signals, || None::<()>).unwrap();
        assert!(matches!(held, Waited::Locked(_)));
        assert!(matches!(wait(&path, soon(), &signals, || None::<()>).unwrap(), Waited::TimedOut));
        drop(held);
        assert!(!path.exists());
        assert!(matches!(wait(&path, soon(), &signals, || None::<()>).unwrap(), Waited::Locked(_)));
    }

    #[test]
    fn a_release_wakes_a_waiter_which_looks_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let signals = Signals::watch().unwrap();
        let Waited::Locked(lock) = wait(&path, soon(), &signals, || None::<()>).unwrap() else { panic!("not locked") };
        let made = dir.path().join("made");
        let builder = std::thread::spawn({
            let made = made.clone();
            move || {
                std::thread::sleep(Duration::from_millis(30));
                std::fs::write(made, "").unwrap();
                drop(lock);
            }
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        let waited = wait(&path, deadline, &signals, || made.exists().then_some(7)).unwrap();
        builder.join().unwrap();
        assert!(matches!(waited, Waited::Found(7)));
    }
}
