//! Memory that arrives while the command already runs.
//!
//! A clone's memory is plugged after it has answered, and its command does not wait for that. But a kernel refuses a
//! single allocation that is clearly larger than all its memory. So it is set to accept any allocation until the rest
//! has arrived. Limits that depend on memory are set before the command starts.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::sysinfo::sysinfo;

use super::derived::Derived;
use super::kmsg;

const POLICY: &str = "/proc/sys/vm/overcommit_memory";

/// "Always": any allocation succeeds.
const ALWAYS: &str = "1";

/// How often to look whether the memory is there.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// When to stop looking: a guest that cannot take memory is still a guest.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// Tolerance in the count of memory: one or two blocks more or less do not matter.
const TOLERANCE: u64 = 8 << 20;

/// The wait for plugged memory.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The policy of the image's kernel, to be put back.
    policy: String,
    /// Bytes of memory in the template.
    before: u64,
    /// Bytes of memory to wait for.
    expected: u64,
    since: Option<Instant>,
    /// What depends on the memory of the template.
    derived: Derived,
}

impl Arrival {
    /// Begins in the template, before any clone can be short of memory. `None` if the kernel has no such policy.
    pub fn prepare() -> Option<Self> {
        let policy = fs::read_to_string(POLICY).ok()?;
        let before = total()?;
        fs::write(POLICY, ALWAYS).ok()?;
        Some(Self { policy, before, expected: before, since: None, derived: Derived::look(before) })
    }

    /// This much more than the template has is on its way.
    pub fn expect(&mut self, bytes: u64) {
        self.expected = self.before + bytes;
        self.derived.fit(self.expected);
    }

    /// Checks whether all memory has arrived. If so, or if it takes too long, puts the policy back and returns `true`.
    pub fn is_over(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let arrived = total().is_none_or(|total| total + TOLERANCE >= self.expected);
        let over = arrived || since.elapsed() > GIVE_UP_AFTER;
        if over {
            if !arrived {
                kmsg::note("the memory that was promised has not come");
            }
            if let Err(error) = fs::write(POLICY, self.policy.trim()) {
                kmsg::note(&format!("{POLICY}: {error}"));
            }
        }
        over
    }
}

/// Bytes of memory that the kernel manages.
fn total() -> Option<u64> {
    sysinfo().ok().map(|info| info.ram_total())
}
