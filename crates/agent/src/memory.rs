//! Memory that arrives while a command starts.
//!
//! A clone's memory is plugged from its answer on, beside everything else that its command needs. Then the command waits
//! until all of it is there, because programs look at the size of the machine at their very start: Java takes a quarter
//! of it for its heap. The wait is short (16 GiB arrive in a second) and bounded: a very large VM goes on without the
//! rest. A kernel refuses a single allocation that is clearly larger than all its memory. So it is set to accept any
//! allocation until the rest has arrived. Limits that depend on memory are set before the command starts.
//!
//! On a machine that no memory can be plugged into, the template's kernel holds memory back as if for a crash kernel, and
//! gives back to a clone what it should have: that is there at once, and to the page.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::sysinfo::sysinfo;

use super::derived::Derived;
use super::error::{AgentError, Doing};
use super::kmsg;

const POLICY: &str = "/proc/sys/vm/overcommit_memory";

/// Bytes that the kernel holds back for a crash kernel. It takes a smaller number only, and gives back the difference.
const HELD: &str = "/sys/kernel/kexec_crash_size";

/// "Always": any allocation succeeds.
const ALWAYS: &str = "1";

/// How often to look whether the memory is there.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The longest wait of a command for memory: some time, and more for each GiB, but never more than the last.
const WAIT: Duration = Duration::from_millis(100);
const WAIT_PER_GIB: Duration = Duration::from_millis(250);
const WAIT_MOST: Duration = Duration::from_secs(3);

/// How often to look during that.
const LOOK_OFTEN: Duration = Duration::from_millis(1);

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

    /// This much more than the template has is on its way, or held back until now.
    pub fn expect(&mut self, bytes: u64) {
        if let Err(error) = give_back(bytes) {
            kmsg::note(&error.to_string());
        }
        self.expected = self.before + bytes;
        self.derived.fit(self.expected);
    }

    /// Waits until all memory has arrived, but not long.
    pub fn wait(&self) {
        let gib = u32::try_from((self.expected - self.before) >> 30).unwrap_or(u32::MAX);
        let deadline = Instant::now() + WAIT_PER_GIB.saturating_mul(gib).saturating_add(WAIT).min(WAIT_MOST);
        while !self.has_arrived() && Instant::now() < deadline {
            std::thread::sleep(LOOK_OFTEN);
        }
    }

    fn has_arrived(&self) -> bool {
        total().is_none_or(|total| total + TOLERANCE >= self.expected)
    }

    /// Checks whether all memory has arrived. If so, or if it takes too long, puts the policy back and returns `true`.
    pub fn is_over(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let arrived = self.has_arrived();
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

/// Checks that the kernel holds back as many bytes as it was told to: otherwise the guest would have them from the beginning.
///
/// # Errors
/// When it holds another number. Not every kernel can.
pub(super) fn check_held(bytes: u64) -> Result<(), AgentError> {
    let held = if bytes == 0 { 0 } else { held() };
    match held == bytes {
        true => Ok(()),
        false => Err(AgentError::Unfit(format!("the kernel holds {held} bytes of memory back, not {bytes}"))),
    }
}

/// Bytes that are held back now.
fn held() -> u64 {
    fs::read_to_string(HELD).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Makes the kernel use this much of what it holds back, or all of that.
fn give_back(bytes: u64) -> Result<(), AgentError> {
    match held() {
        0 => Ok(()),
        held => fs::write(HELD, held.saturating_sub(bytes).to_string()).doing(|| format!("write {HELD}")),
    }
}

/// Bytes of memory that the kernel manages.
fn total() -> Option<u64> {
    sysinfo().ok().map(|info| info.ram_total())
}
