//! Who writes to a file past the guest's cache.
//!
//! A handle that can only write is never mapped, so its data need not lie in the guest's memory first, where it would be copied
//! once more and never looked at: the file's time has changed then, and who opens it to read asks the host. As long as others
//! have the file open through the cache, new handles use the cache too. The other way round, a reader that comes later, the
//! guest's kernel finds out by the file's time that it must ask again. Clocks of file systems go in steps of some
//! milliseconds, so for that time the guest is told a time that changes with each write.

use std::sync::atomic::{AtomicU32, Ordering};

use super::belief::GRAIN;

/// So many nanoseconds are added to a time at most.
const NANOSECONDS: u32 = 1000;

/// Of one node.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// Open handles that go through the cache.
    cached: AtomicU32,
    /// And those that go past it.
    past: AtomicU32,
    /// Writes past it.
    writes: AtomicU32,
}

impl Past {
    /// Whether a handle opened now with these flags goes past the cache.
    pub(crate) fn goes_past(&self, flags: i32) -> bool {
        // With a cache the guest's kernel cuts a write where it believes that a page ends, and others append in between.
        let appends = flags & libc::O_APPEND != 0 && flags & libc::O_ACCMODE != libc::O_RDONLY;
        appends || (flags & libc::O_ACCMODE == libc::O_WRONLY && self.cached.load(Ordering::SeqCst) == 0)
    }

    fn count(&self, is_past: bool) -> &AtomicU32 {
        if is_past { &self.past } else { &self.cached }
    }

    pub(crate) fn opened(&self, is_past: bool) {
        self.count(is_past).fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn closed(&self, is_past: bool) {
        self.count(is_past).fetch_sub(1, Ordering::SeqCst);
    }

    /// Data was written through such a handle.
    pub(crate) fn wrote(&self, is_past: bool) {
        if is_past {
            self.writes.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// What the guest is told of a file's attributes at this second.
    pub(crate) fn seen(&self, stat: &libc::stat, now: i64) -> libc::stat {
        let mut seen = *stat;
        let is_both = self.past.load(Ordering::SeqCst) > 0 && self.cached.load(Ordering::SeqCst) > 0;
        if is_both && now.saturating_sub(stat.st_mtime) <= GRAIN {
            let more = i64::from(self.writes.load(Ordering::SeqCst) % NANOSECONDS);
            seen.st_mtime_nsec = (seen.st_mtime_nsec + more).min(999_999_999);
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    fn stat(nanoseconds: i64) -> libc::stat {
        // A real one, of which only the time matters.
        let root = std::fs::File::open("/").unwrap();
        let mut stat = super::super::sys::fstat(std::os::fd::AsFd::as_fd(&root)).unwrap();
        (stat.st_mtime, stat.st_mtime_nsec) = (NOW, nanoseconds);
        stat
    }

    #[test]
    fn who_only_writes_goes_past_the_cache_unless_somebody_uses_it() {
        let past = Past::default();
        assert!(past.goes_past(libc::O_WRONLY) && past.goes_past(libc::O_RDWR | libc::O_APPEND));
        assert!(!past.goes_past(libc::O_RDWR) && !past.goes_past(libc::O_RDONLY | libc::O_APPEND));
        past.opened(false);
        assert!(!past.goes_past(libc::O_WRONLY) && past.goes_past(libc::O_WRONLY | libc::O_APPEND));
        past.closed(false);
        past.opened(true);
        assert!(past.goes_past(libc::O_WRONLY), "several may");
    }

    #[test]
    fn a_reader_beside_such_a_writer_sees_another_time_after_each_write() {
        let past = Past::default();
        past.opened(true);
        past.wrote(true);
        assert_eq!(past.seen(&stat(4), NOW).st_mtime_nsec, 4, "nobody else has it open");
        past.opened(false);
        let first = past.seen(&stat(4), NOW).st_mtime_nsec;
        past.wrote(false);
        assert_eq!(past.seen(&stat(4), NOW).st_mtime_nsec, first, "the guest's kernel knows of that write");
        past.wrote(true);
        assert_eq!(past.seen(&stat(4), NOW).st_mtime_nsec, first + 1);
        assert_eq!(past.seen(&stat(4), NOW + 3).st_mtime_nsec, 4, "no clock is that coarse");
        assert_eq!(past.seen(&stat(999_999_999), NOW).st_mtime_nsec, 999_999_999, "never a second more");
        past.closed(true);
        assert_eq!(past.seen(&stat(4), NOW).st_mtime_nsec, 4);
    }
}
