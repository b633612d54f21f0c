//! Who reads the port.
//!
//! One thread at a time has the reader. With a request that takes no time it keeps its seat: it parks the reader, does the
//! request, and takes the reader back, so nobody is woken. If that takes long after all, a watcher gives the reader to another
//! thread. So what hangs on the host still hangs one thread only.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::nodes::lock;

/// A request that takes so long, or up to twice as long, has lost its thread the seat.
const TICK: Duration = Duration::from_millis(4);

/// Without requests for so many ticks the watcher sleeps.
const QUIET: u32 = 5;

/// See the module.
#[derive(Debug)]
pub(crate) struct Seat<R> {
    inside: Mutex<Inside<R>>,
    free: Condvar,
    parks: Condvar,
}

#[derive(Debug)]
struct Inside<R> {
    /// For whoever comes first.
    reader: Option<R>,
    /// For the thread that parked it, unless the watcher takes it.
    parked: Option<R>,
    /// Counts how often it was parked.
    turn: u64,
    watcher_sleeps: bool,
}

impl<R> Seat<R> {
    pub(crate) fn new(reader: R) -> Self {
        let inside = Inside { reader: Some(reader), parked: None, turn: 0, watcher_sleeps: false };
        Self { inside: Mutex::new(inside), free: Condvar::new(), parks: Condvar::new() }
    }

    /// Waits for the reader.
    pub(crate) fn take(&self) -> R {
        let mut inside = lock(&self.inside);
        loop {
            match inside.reader.take() {
                Some(reader) => return reader,
                None => inside = self.free.wait(inside).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Hands the reader on.
    pub(crate) fn give(&self, reader: R) {
        lock(&self.inside).reader = Some(reader);
        self.free.notify_one();
    }

    /// Leaves the reader for a moment; the number to take it back with.
    pub(crate) fn park(&self, reader: R) -> u64 {
        let mut inside = lock(&self.inside);
        inside.parked = Some(reader);
        inside.turn += 1;
        let (turn, wakes) = (inside.turn, inside.watcher_sleeps);
        drop(inside);
        if wakes {
            self.parks.notify_one();
        }
        turn
    }

    /// Takes it back; `None` if another thread reads meanwhile.
    pub(crate) fn take_back(&self, turn: u64) -> Option<R> {
        let mut inside = lock(&self.inside);
        if inside.turn == turn { inside.parked.take() } else { None }
    }

    /// The watcher: waits until a reader is parked for too long, and hands it on.
    pub(crate) fn watch(&self) {
        let mut inside = lock(&self.inside);
        let mut quiet = 0;
        loop {
            let turn = inside.turn;
            if quiet < QUIET {
                inside = self.parks.wait_timeout(inside, TICK).unwrap_or_else(PoisonError::into_inner).0;
            } else {
                inside.watcher_sleeps = true;
                inside = self.parks.wait(inside).unwrap_or_else(PoisonError::into_inner);
                inside.watcher_sleeps = false;
            }
            quiet = if inside.turn == turn { quiet + 1 } else { 0 };
            if quiet > 0 && inside.parked.is_some() {
                inside.reader = inside.parked.take();
                drop(inside);
                return self.free.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn who_is_done_soon_keeps_the_seat_and_who_hangs_loses_it() {
        let seat = Arc::new(Seat::new("reader"));
        let reader = seat.take();
        let turn = seat.park(reader);
        assert_eq!(seat.take_back(turn), Some("reader"));
        assert_eq!(seat.take_back(turn), None);
        let turn = seat.park(reader);
        let watched = Arc::clone(&seat);
        let watcher = std::thread::spawn(move || watched.watch());
        assert_eq!(seat.take(), "reader", "another thread gets it");
        watcher.join().unwrap();
        assert_eq!(seat.take_back(turn), None);
        seat.give(reader);
        assert_eq!(seat.take(), "reader");
    }

    #[test]
    fn a_watcher_that_sleeps_is_woken() {
        let seat = Arc::new(Seat::new(()));
        seat.take();
        let watched = Arc::clone(&seat);
        let watcher = std::thread::spawn(move || watched.watch());
        while !lock(&seat.inside).watcher_sleeps {
            std::thread::yield_now();
        }
        seat.park(());
        seat.take();
        watcher.join().unwrap();
    }
}
