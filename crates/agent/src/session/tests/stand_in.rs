//! A guest that nothing is done to.

use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::accounts::Account;
use crate::error::AgentError;
use crate::fixtures::Fixtures;
use crate::machine::{Machine, Reaped};
use crate::shares::Share;
use crate::sys;
use crate::task::Credentials;
use proto::{BootTimes, Interface, MoreAddresses};

pub const TIMES: BootTimes = BootTimes { agent_ms: 1, modules_ms: 2, ready_ms: 3 };

/// A machine that only remembers what it was asked for.
#[derive(Debug, Default)]
pub struct StandIn {
    pub boot_error: Option<AgentError>,
    pub calls: Vec<String>,
    /// How often the time must be asked for.
    pub late_clocks: u32,
    /// Nothing is ever asked of them.
    pub fixtures: Fixtures,
}

impl StandIn {
    fn note(&mut self, call: String) -> Result<(), AgentError> {
        let refused = call.contains("refuse");
        self.calls.push(call);
        if refused { Err(AgentError::Unfit("the stand-in refuses".to_owned())) } else { Ok(()) }
    }
}

impl Machine for StandIn {
    fn fixtures(&mut self) -> &mut Fixtures {
        &mut self.fixtures
    }
    fn boot_times(&self) -> BootTimes {
        TIMES
    }
    fn boot_error(&self) -> Option<&AgentError> {
        self.boot_error.as_ref()
    }
    fn set_clock(&mut self, nanoseconds: u64) -> Result<(), AgentError> {
        self.note(format!("clock {nanoseconds}"))
    }
    fn meet_clock(&mut self) {
        let _ = self.note("meet".to_owned());
    }
    fn ask_again_for_clock(&mut self) -> bool {
        let again = self.late_clocks > 0;
        self.late_clocks = self.late_clocks.saturating_sub(1);
        again
    }
    fn ask_for_clock(&mut self) {
        let _ = self.note("ask".to_owned());
    }
    fn follow_clock(&mut self, nanoseconds: u64) -> Result<(), AgentError> {
        self.note(format!("follow {nanoseconds}"))
    }
    fn set_hostname(&mut self, name: &[u8]) -> Result<(), AgentError> {
        self.note(format!("hostname {}", String::from_utf8_lossy(name)))
    }
    fn add_entropy(&mut self, seed: &[u8]) -> Result<(), AgentError> {
        self.note(format!("entropy {}", seed.len()))
    }
    fn use_cpus(&mut self, count: u16) -> Result<(), AgentError> {
        self.note(format!("cpus {count}"))
    }
    fn mount_share(&mut self, Share { path, file, read_only, .. }: Share<'_>) -> Result<(), AgentError> {
        self.note(format!("share {}{} {read_only}", path.display(), file.display()))
    }
    fn alias(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        self.note(format!("alias {} {}", path.display(), target.display()))
    }
    fn make_home(&mut self, home: &Path, owner: (u32, u32)) -> Result<(), AgentError> {
        self.note(format!("home {} {}", home.display(), owner.0))
    }
    fn set_zone(&mut self, name: &[u8], _data: &[u8]) -> Result<(), AgentError> {
        self.note(format!("zone {}", String::from_utf8_lossy(name)))
    }
    fn bring_network_up(&mut self, interface: &Interface) -> Result<(), AgentError> {
        self.note(format!("network {}", interface.mtu))
    }
    fn add_addresses(&mut self, more: &MoreAddresses) -> Result<(), AgentError> {
        self.note(format!("address {:?}", more.v4.address))
    }
    fn add_hosts(&mut self, lines: &[u8]) -> Result<(), AgentError> {
        self.note(format!("hosts {}", String::from_utf8_lossy(lines)))
    }
    fn set_resolver(&mut self, text: &[u8]) -> Result<(), AgentError> {
        self.note(format!("resolver {}", String::from_utf8_lossy(text)))
    }
    fn add_user(&mut self, account: &Account, credentials: &Credentials) -> Result<(), AgentError> {
        let (name, groups) = (String::from_utf8_lossy(&account.name), account.groups.len());
        self.note(format!("user {name} {} of {groups} groups", credentials.uid))
    }
    fn link(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        self.note(format!("link {} {}", path.display(), target.display()))
    }
    fn check_links(&mut self) -> Result<(), AgentError> {
        let dangling = self.calls.iter().any(|call| call.contains("nowhere"));
        if dangling { Err(AgentError::Unfit("the link leads nowhere".to_owned())) } else { Ok(()) }
    }
    fn expect_file(&mut self, _path: &Path) -> Result<(), AgentError> {
        Ok(())
    }
    fn take_back(&mut self) -> Result<(), AgentError> {
        self.note("take back".to_owned())
    }
    fn sync_shares(&mut self) -> Result<(), AgentError> {
        self.note("sync shares".to_owned())
    }
    fn settle(&mut self) {
        self.calls.push("settle".to_owned());
    }
    fn killed_for_memory(&mut self) -> Option<String> {
        None
    }
    fn forget_session(&mut self) {
        self.calls.push("forget".to_owned());
    }
    fn orphan_events(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn reap(&mut self, leaders: &[Pid]) -> Reaped {
        // Only these: other tests have children too.
        let found: Vec<_> = leaders.iter().map(|leader| sys::reap_one(*leader)).collect();
        let none_left = found.iter().all(Result::is_err);
        Reaped { leaders: found.into_iter().filter_map(|found| found.ok().flatten()).collect(), none_left }
    }
    fn kill_tasks(&mut self, leaders: &[Pid]) {
        for leader in leaders {
            let _ = killpg(*leader, Signal::SIGKILL);
        }
    }
    fn end_tasks(&mut self, leaders: &[Pid]) {
        self.kill_tasks(leaders);
        for leader in leaders {
            let _ = waitpid(*leader, None);
        }
    }
}
