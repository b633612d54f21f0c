//! Who looks for names that do not exist.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::nodes::lock;

/// So many names must have been looked for in vain, each soon after the one before.
const ENOUGH: u32 = 3;
const SOON: Duration = Duration::from_secs(1);

/// A directory is not listed again before. One with too many names is left alone for longer.
const AGAIN: Duration = Duration::from_millis(100);
const MUCH_LATER: Duration = Duration::from_secs(10);

/// What was looked for last.
#[derive(Debug, Default)]
pub(crate) struct Missing(Mutex<Option<Last>>);

#[derive(Debug, Clone, Copy)]
struct Last {
    dir: u64,
    count: u32,
    at: Instant,
    /// When it may be listed.
    from: Instant,
}

impl Missing {
    /// A name was looked for in vain: whether to tell the guest of those that there are.
    pub(crate) fn again(&self, dir: u64, now: Instant) -> bool {
        let mut last = lock(&self.0);
        let known = last.filter(|last| last.dir == dir && now.saturating_duration_since(last.at) < SOON);
        let mut next = known.unwrap_or(Last { dir, count: 0, at: now, from: now });
        next.count = next.count.saturating_add(1);
        next.at = now;
        let lists = next.count >= ENOUGH && now >= next.from;
        if lists {
            next.from = now + AGAIN;
        }
        *last = Some(next);
        lists
    }

    /// Its names are too many, or say nothing of those that it does not list.
    pub(crate) fn leave_alone(&self, dir: u64, now: Instant) {
        if let Some(last) = lock(&self.0).as_mut().filter(|last| last.dir == dir) {
            last.from = now + MUCH_LATER;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_listed_for_who_looks_often_and_not_all_the_time() {
        let (missing, now) = (Missing::default(), Instant::now());
        let asked = |dir, at| missing.again(dir, at);
        assert!(!asked(1, now) && !asked(1, now) && asked(1, now));
        assert!(!asked(1, now), "just now");
        assert!(asked(1, now + AGAIN));
        assert!(!asked(2, now + AGAIN) && !asked(1, now + AGAIN), "another one begins anew");
        assert!(!asked(1, now + AGAIN) && asked(1, now + AGAIN));
        assert!(!asked(1, now + AGAIN + SOON), "much later");
        missing.leave_alone(1, now);
        assert!(!asked(1, now + SOON) && !asked(1, now + SOON));
    }
}
