//! Closes that are under way.
//!
//! A guest's process goes on before the host has closed its file. What it does next may depend on that: a network file
//! system keeps the name of an open file, so its directory could not be removed; and a lock is held until then. So such
//! requests wait for the closes that came before them.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::nodes::lock;

/// Closes of one share.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    count: Mutex<usize>,
    changed: Condvar,
}

/// A close that takes longer hangs.
const WAIT: Duration = Duration::from_secs(1);

impl Closing {
    /// A close has come; told before the next request is read.
    pub(crate) fn begin(&self) {
        *lock(&self.count) += 1;
    }

    /// It is done.
    pub(crate) fn end(&self) {
        let mut count = lock(&self.count);
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until none is under way.
    pub(crate) fn wait(&self) {
        let count = lock(&self.count);
        if *count > 0 {
            // In vain, the request does what it would have done without waiting.
            let _ = self.changed.wait_timeout_while(count, WAIT, |count| *count > 0);
        }
    }
}
