//! What nobody waits for: the kernel has forgotten a node, a file was closed. It is held back for a moment and travels with
//! the next request of its share, since each ring of the port wakes three processes on the host.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use proto::files::{Absences, Frame, Header, Store, kind};

/// How long it is held back at most. The host may go on seeing a file as open for so long.
pub(super) const MOMENT: Duration = Duration::from_millis(20);

/// With more bytes it is sent at once.
pub(super) const HELD_MAX: usize = 8 * 1024;

/// Frames of one share that are held back.
#[derive(Debug, Default)]
pub(super) struct Held {
    frames: Vec<u8>,
    /// Since when the first of them waits.
    since: Option<Instant>,
}

impl Held {
    /// Holds a part of a frame back; how many bytes there are now.
    pub fn push(&mut self, part: &[u8], now: Instant) -> usize {
        if !part.is_empty() {
            self.frames.extend_from_slice(part);
            self.since.get_or_insert(now);
        }
        self.frames.len()
    }

    /// All of them, to be sent.
    pub fn take(&mut self) -> Vec<u8> {
        self.since = None;
        std::mem::take(&mut self.frames)
    }

    /// How long they may wait still, if there are any.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| MOMENT.saturating_sub(now.saturating_duration_since(since)))
    }
}

/// Wakes a thread when there is something to look after.
#[derive(Debug, Default)]
pub(super) struct Watch {
    is_on: Mutex<bool>,
    changed: Condvar,
}

impl Watch {
    /// There is something.
    pub fn on(&self) {
        let mut is_on = self.is_on.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_on {
            *is_on = true;
            self.changed.notify_one();
        }
    }

    /// Waits for that.
    pub fn wait(&self) {
        let mut is_on = self.is_on.lock().unwrap_or_else(PoisonError::into_inner);
        while !*is_on {
            is_on = self.changed.wait(is_on).unwrap_or_else(PoisonError::into_inner);
        }
        *is_on = false;
    }
}

/// Why the kernel did not take a reply, if that matters.
pub(super) fn is_refusal(written: nix::Result<usize>) -> bool {
    // ENOENT: the process that asked has died meanwhile. ENODEV, EPERM: the mount has ended.
    written == Err(Errno::EINVAL)
}

/// What the host has said of a share that was not asked for.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Extended attributes that its files do not have.
    pub absences: Absences,
    /// Entries and contents.
    pub store: Store,
}

impl Known {
    /// The host has answered this request.
    pub fn answered(&mut self, unique: u64) {
        self.absences.answered(unique);
        self.store.answered(unique);
    }

    /// Frames that tell the host what the kernel of this share will never hear of.
    pub fn asides(&mut self, share: u16) -> Vec<u8> {
        let mut frames = Vec::new();
        let header = Header { kind: kind::REQUEST, share, ..Header::default() };
        for payload in self.store.asides() {
            Frame { header, payload: &payload }.encode(&mut frames);
        }
        frames
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has left nothing half done: nothing here is changed in two steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_with_a_request_lets_what_comes_later_wait_its_own_time() {
        let (mut held, now) = (Held::default(), Instant::now());
        held.push(&[], now);
        assert_eq!(held.left(now), None, "there is nothing");
        assert_eq!((held.push(b"ab", now), held.push(b"c", now + MOMENT / 2)), (2, 3));
        assert_eq!(held.left(now + MOMENT / 4), Some(MOMENT / 4 * 3));
        assert_eq!(held.left(now + MOMENT * 2), Some(Duration::ZERO));
        assert_eq!((held.take(), held.left(now)), (b"abc".to_vec(), None));
        held.push(b"d", now + MOMENT);
        assert_eq!(held.left(now + MOMENT), Some(MOMENT));
    }
}
