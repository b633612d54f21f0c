//! What nobody waits for: the kernel has forgotten a node, a file was closed. It is held back for a moment and travels with
//! the next request of its share, since each ring of the port wakes three processes on the host.

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::carry::{All, Share, lock};

/// How long it is held back at most. The host may go on seeing a file as open for so long.
const MOMENT: Duration = Duration::from_millis(20);

/// With more bytes it is sent at once.
const HELD_MAX: usize = 8 * 1024;

/// Wakes a thread when there is something to look after.
#[derive(Debug, Default)]
pub(super) struct Watch {
    is_on: Mutex<bool>,
    changed: Condvar,
}

impl Watch {
    /// There is something.
    pub fn on(&self) {
        let mut is_on = lock(&self.is_on);
        if !*is_on {
            *is_on = true;
            self.changed.notify_one();
        }
    }

    fn wait(&self) {
        let mut is_on = lock(&self.is_on);
        while !*is_on {
            is_on = self.changed.wait(is_on).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *is_on = false;
    }
}

/// Holds frames of a share back.
pub(super) fn hold(all: &All, share: &Share, frame: &[&[u8]]) {
    let mut held = lock(&share.held);
    frame.iter().for_each(|part| held.extend_from_slice(part));
    if held.len() > HELD_MAX {
        all.send(&[&std::mem::take(&mut *held)]);
    } else {
        drop(held);
        all.watch.on();
    }
}

/// Sends a frame, and before it what its share has held back.
pub(super) fn send_with_held(all: &All, share: &Share, frame: &[&[u8]]) {
    // Others must not overtake what is sent here: a name may be removed only after its file was closed.
    let mut held = lock(&share.held);
    let first = std::mem::take(&mut *held);
    let parts: Vec<&[u8]> = std::iter::once(first.as_slice()).chain(frame.iter().copied()).collect();
    all.send(&parts);
}

/// Sends what all shares have held back.
pub(super) fn send_all(all: &All) {
    for (number, share) in all.shares() {
        let known = share.forgets(number);
        let mut held = lock(&share.held);
        held.extend_from_slice(&known);
        if !held.is_empty() {
            all.send(&[&std::mem::take(&mut *held)]);
        }
    }
}

/// Looks after what is held and what was sent ahead, for ever.
pub(super) fn look_after(all: &All) -> ! {
    loop {
        all.watch.wait();
        thread::sleep(MOMENT);
        let now = Instant::now();
        let mut is_left = false;
        for (_, share) in all.shares() {
            is_left |= lock(&share.known).store.expire(now);
        }
        if is_left {
            all.watch.on();
        }
        send_all(all);
    }
}

/// Why the kernel did not take a reply, if that matters.
pub(super) fn is_refusal(written: nix::Result<usize>) -> bool {
    // ENOENT: the process that asked has died meanwhile. ENODEV, EPERM: the mount has ended.
    written == Err(Errno::EINVAL)
}
