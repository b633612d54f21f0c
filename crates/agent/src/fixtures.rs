//! State for sessions that every kind of guest has and uses in the same way.

use std::path::Path;
use std::process::{Command, Stdio};

use super::clock::Follower;
use super::error::{AgentError, Doing};
use super::machine::Share;
use super::memory::Arrival;
use super::oom::OomKills;
use super::shares::Shares;
use super::sys;
use super::traces::Traces;

/// Shares, traces in the root, and the state of memory.
#[derive(Debug, Default)]
pub(super) struct Fixtures {
    pub shares: Shares,
    /// What sessions changed in the root for their own use.
    pub traces: Traces,
    pub oom_kills: OomKills,
    pub clock: Follower,
    /// Set from the template on, until all memory of the clone has arrived.
    arrival: Option<Arrival>,
}

impl Fixtures {
    /// For a guest that gets its shares in this way.
    pub fn with(shares: Shares) -> Self {
        Self { shares, ..Self::default() }
    }

    /// Mounts a share where the task expects it.
    pub fn mount_share(&mut self, share: Share<'_>) -> Result<(), AgentError> {
        let path = share.path;
        if !path.is_absolute() {
            return Err(AgentError::Unfit(format!("the share {} has no absolute path", path.display())));
        }
        let made = self.traces.make_directories(Some(path));
        made.doing(|| format!("create the mount point {}", path.display()))?;
        self.shares.mount(share)
    }

    /// Prepares the place of a file that the runner sends.
    pub fn expect_file(&mut self, path: &Path) -> Result<(), AgentError> {
        self.traces.expect_file(path).doing(|| format!("make room for {}", path.display()))
    }

    /// This many bytes of memory more than the template had are being plugged.
    pub fn expect_memory(&mut self, bytes: u64) {
        if let Some(arrival) = &mut self.arrival {
            arrival.expect(bytes);
        }
    }

    /// Waits for that memory, but not long.
    pub fn wait_for_memory(&self) {
        if let Some(arrival) = &self.arrival {
            arrival.wait();
        }
    }

    /// Whether more memory may still arrive.
    pub fn awaits_memory(&mut self) -> bool {
        if self.arrival.as_mut().is_some_and(Arrival::is_over) {
            self.arrival = None;
        }
        self.arrival.is_some()
    }

    /// The last steps before the guest is saved as a template.
    pub fn settle(&mut self) {
        sys::keep_heap();
        self.arrival = Arrival::prepare();
        // Loader, C library and shell: almost every command reads these first.
        let _ = Command::new("/bin/sh").args(["-c", ":"]).stdin(Stdio::null()).status();
        nix::unistd::sync();
    }
}
