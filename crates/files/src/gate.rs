//! How many requests of a share are done at once: a share that hangs must not take all threads.

use std::collections::VecDeque;
use std::sync::Mutex;

use proto::files::Header;

use super::buffer::Buffer;
use super::nodes::lock;

/// A request that was read, with its data.
#[derive(Debug, Default)]
pub(crate) struct Job {
    pub(crate) header: Header,
    pub(crate) request: Buffer,
}

/// Requests at once.
const RUNNING_MAX: usize = 32;

/// Bytes of requests that wait their turn.
const QUEUED_MAX: usize = 64 * 1024 * 1024;

/// What each waiting request costs beside its bytes.
const OVERHEAD: usize = 256;

/// The gate of one share.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    running: usize,
    queue: VecDeque<Job>,
    queued: usize,
}

/// What to do with a request.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Do it, and then ask [`Gate::next`].
    Now(Job),
    /// Somebody will.
    Later,
    /// There are too many already: refuse it.
    Never(Job),
}

impl Gate {
    /// A request has come.
    pub(crate) fn enter(&self, job: Job) -> Turn {
        let mut inside = lock(&self.0);
        if inside.running < RUNNING_MAX {
            inside.running += 1;
            return Turn::Now(job);
        }
        let cost = job.request.len() + OVERHEAD;
        if inside.queued + cost > QUEUED_MAX {
            return Turn::Never(job);
        }
        inside.queued += cost;
        inside.queue.push_back(job);
        Turn::Later
    }

    /// A request was done; the one to do now.
    pub(crate) fn next(&self) -> Option<Job> {
        let mut inside = lock(&self.0);
        let next = inside.queue.pop_front();
        match &next {
            Some(job) => inside.queued -= job.request.len() + OVERHEAD,
            None => inside.running -= 1,
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(share: u16, len: usize) -> Job {
        let mut request = Buffer::default();
        request.grow(len);
        Job { header: Header { share, ..Header::default() }, request }
    }

    #[test]
    fn requests_beyond_the_limit_wait_in_their_order_and_far_beyond_it_are_refused() {
        let gate = Gate::default();
        for _ in 0..RUNNING_MAX {
            assert!(matches!(gate.enter(job(0, 1)), Turn::Now(_)));
        }
        assert!(matches!(gate.enter(job(1, 1)), Turn::Later));
        assert!(matches!(gate.enter(job(2, QUEUED_MAX / 2)), Turn::Later));
        assert!(matches!(gate.enter(job(3, QUEUED_MAX / 2)), Turn::Never(_)));
        assert_eq!(gate.next().map(|job| job.header.share), Some(1));
        assert_eq!(gate.next().map(|job| job.header.share), Some(2));
        assert!(gate.next().is_none());
        assert!(matches!(gate.enter(job(4, 1)), Turn::Now(_)));
        for _ in 0..RUNNING_MAX {
            assert!(gate.next().is_none());
        }
    }
}
