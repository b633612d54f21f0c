//! What a session does to the guest as a whole, and not to its commands.
//!
//! The border between the protocol's logic and a machine that only root of a guest may change. What is done in one way in
//! guests of every kind is done here, by [`Fixtures`]. The tests run whole sessions on a host with a [`Machine`] that changes
//! nothing.

use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::unistd::Pid;

use proto::{BootTimes, ExitStatus, Interface, MoreAddresses};

use super::accounts::Account;
use super::error::AgentError;
use super::fixtures::Fixtures;
use super::shares::Share;
use super::task::Credentials;
use super::{identity, net, zone};

/// What one round of reaping found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reaped {
    /// The leaders whose end this round saw, and how they ended.
    pub leaders: Vec<(Pid, ExitStatus)>,
    /// Whether no child is left at all.
    pub none_left: bool,
}

/// The guest.
pub(super) trait Machine {
    /// What a guest of every kind has and uses in the same way.
    fn fixtures(&mut self) -> &mut Fixtures;

    /// Marks of this boot.
    fn boot_times(&self) -> BootTimes;
    /// Why this guest cannot run anything, if its boot failed.
    fn boot_error(&self) -> Option<&AgentError>;

    /// Sets the wall clock to nanoseconds since the epoch.
    fn set_clock(&mut self, nanoseconds: u64) -> Result<(), AgentError> {
        self.fixtures().clock.begin(nanoseconds)
    }
    /// The answer to HELLO is being sent, and the runner's clock may be the answer.
    fn meet_clock(&mut self) {
        self.fixtures().clock.greet();
    }
    /// Whether ASK-CLOCK is to be sent now: the guest does not know the time well enough for a command.
    fn ask_again_for_clock(&mut self) -> bool {
        self.fixtures().clock.ask_again()
    }
    /// PONG is being sent, and the runner's clock will be the answer.
    fn ask_for_clock(&mut self) {
        self.fixtures().clock.ask();
    }
    /// Makes the wall clock follow the runner's, while a command runs; nanoseconds since the epoch.
    fn follow_clock(&mut self, nanoseconds: u64) -> Result<(), AgentError> {
        self.fixtures().clock.hear(nanoseconds)
    }
    /// Names the guest.
    fn set_hostname(&mut self, name: &[u8]) -> Result<(), AgentError>;
    /// Makes this guest unlike every other clone.
    fn add_entropy(&mut self, seed: &[u8]) -> Result<(), AgentError>;
    /// Keeps the session's processes on the first `count` processors.
    fn use_cpus(&mut self, count: u16) -> Result<(), AgentError> {
        identity::use_cpus(count)
    }
    /// This many bytes of memory more than the template had are being plugged.
    fn expect_memory(&mut self, bytes: u64) {
        self.fixtures().expect_memory(bytes);
    }
    /// Waits for that memory before the command starts, but not long.
    fn wait_for_memory(&mut self) {
        self.fixtures().wait_for_memory();
    }
    /// Whether more memory may still arrive; asked again every [`super::memory::LOOK_EVERY`] while a command runs.
    fn awaits_memory(&mut self) -> bool {
        self.fixtures().awaits_memory()
    }
    /// A message about processes that the guest's kernel killed for lack of memory, if there were any.
    fn killed_for_memory(&mut self) -> Option<String> {
        self.fixtures().oom_kills.news()
    }
    /// Mounts a share.
    fn mount_share(&mut self, share: Share<'_>) -> Result<(), AgentError> {
        self.fixtures().mount_share(share)
    }
    /// Makes a path another name of a directory.
    fn alias(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        self.fixtures().alias(path, target)
    }
    /// Makes a home directory for this uid and gid, if it is missing.
    fn make_home(&mut self, home: &Path, owner: (u32, u32)) -> Result<(), AgentError> {
        self.fixtures().make_home(home, owner)
    }
    /// Makes a symbolic link for the task.
    fn link(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        self.fixtures().traces.link(path, target)
    }
    /// Checks that the targets of the links exist, now that the shares are mounted.
    fn check_links(&mut self) -> Result<(), AgentError> {
        self.fixtures().traces.check_links()
    }
    /// Prepares the place of a file that the runner sends.
    fn expect_file(&mut self, path: &Path) -> Result<(), AgentError> {
        self.fixtures().expect_file(path)
    }
    /// Removes what sessions added to the root for their own use.
    fn take_back(&mut self) -> Result<(), AgentError>;
    /// Gives the guest the host's time zone.
    fn set_zone(&mut self, name: &[u8], data: &[u8]) -> Result<(), AgentError> {
        zone::set(name, data, &mut self.fixtures().traces)
    }
    /// Configures the network device.
    fn bring_network_up(&mut self, interface: &Interface) -> Result<(), AgentError> {
        net::bring_up(interface)
    }
    /// Gives that device further addresses.
    fn add_addresses(&mut self, more: &MoreAddresses) -> Result<(), AgentError> {
        net::add(more)
    }
    /// Makes the names of other VMs known: lines of `/etc/hosts`.
    fn add_hosts(&mut self, lines: &[u8]) -> Result<(), AgentError> {
        identity::add_hosts(lines, &mut self.fixtures().traces)
    }
    /// Makes known who resolves names: the content of `/etc/resolv.conf`.
    fn set_resolver(&mut self, text: &[u8]) -> Result<(), AgentError> {
        identity::set_resolver(text, &mut self.fixtures().traces)
    }
    /// Makes the user known to the guest.
    fn add_user(&mut self, account: &Account, credentials: &Credentials) -> Result<(), AgentError> {
        identity::add_user(account, credentials, &mut self.fixtures().traces)
    }

    /// Writes to the host what was written to the shares.
    fn sync_shares(&mut self) -> Result<(), AgentError> {
        self.fixtures().shares.sync()
    }
    /// Prepares the guest for being cloned: loads what every task needs into memory and writes the rest to the disks.
    fn settle(&mut self);
    /// Cleanup after a session: removes its shares, which the next one must not find.
    fn forget_session(&mut self) {
        self.fixtures().shares.unmount_all();
    }

    /// Becomes readable when a child other than a leader has changed; `None` if there are no such children.
    fn orphan_events(&self) -> Option<BorrowedFd<'_>>;
    /// Reaps whatever has died, without waiting.
    fn reap(&mut self, leaders: &[Pid]) -> Reaped;
    /// Kills every process of the session's tasks.
    fn kill_tasks(&mut self, leaders: &[Pid]);
    /// Kills every process of the session's tasks and waits, up to a deadline, until they are gone.
    fn end_tasks(&mut self, leaders: &[Pid]);
}
