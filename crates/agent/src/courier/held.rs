//! What nobody waits for: the kernel has forgotten a node, a file was closed. It is held back for a moment and travels with
//! the next request of its share, since each ring of the port wakes three processes on the host.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use proto::files::{Absences, Store};

/// How long it is held back at most. The host may go on seeing a file as open for so long.
pub(super) const MOMENT: Duration = Duration::from_millis(20);

/// With more bytes it is sent at once.
pub(super) const HELD_MAX: usize = 8 * 1024;

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
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has left nothing half done: nothing here is changed in two steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
