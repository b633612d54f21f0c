//! The [`Machine`] of the agent as a service: a system that has an init, and more than the session's processes.
//!
//! What differs from a guest that is the agent's own: only the session's processes are ever killed; the files
//! that tell who the system is (`/etc/machine-id`, SSH host keys) stay, because its services hold on to them; and
//! the kernel's boot id, which was read long before a clone wakes up, is covered by one of the clone's own.

use std::collections::HashSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use proto::{BootTimes, Interface, MoreAddresses};

use super::accounts::Account;
use super::children::Children;
use super::error::{AgentError, Doing};
use super::fixtures::Fixtures;
use super::machine::{Machine, Reaped, Share};
use super::shares::Shares;
use super::task::Credentials;
use super::{identity, kmsg, net, processes, zone};

/// Rounds of looking for processes that were started while others were killed.
const ROUNDS: usize = 100;

/// How long a template waits for the services that are still starting, in seconds.
const SETTLE_S: &str = "20";

/// The file that says which boot of which machine this is; MPI libraries use it to distinguish hosts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const OWN_BOOT_ID: &str = "/run/spank-vm/boot-id";

/// The system whose service this process is.
#[derive(Debug)]
pub(super) struct System {
    times: BootTimes,
    children: Children,
    /// Whether orphans of the session become children of this process.
    adopts_orphans: bool,
    /// This is a template, or a clone of one.
    settled: bool,
    fixtures: Fixtures,
}

impl System {
    /// Starts the service.
    pub fn new(times: BootTimes, adopts_orphans: bool, shares: Shares) -> Result<Self, AgentError> {
        let children = Children::watch()?;
        Ok(Self { times, children, adopts_orphans, settled: false, fixtures: Fixtures::with(shares) })
    }

    /// Whether there is certainly nothing to kill.
    fn is_childless(&self) -> bool {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        self.adopts_orphans && matches!(waitid(Id::All, look), Err(Errno::ECHILD))
    }
}

/// A root that the image keeps read-only becomes writable: sessions add the user and mount points, and the disk is this
/// VM's own.
fn open_root() -> Result<(), AgentError> {
    let doing = || "make the image's root writable, which it mounts read-only".to_owned();
    if !statvfs("/").doing(doing)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REMOUNT, None::<&str>).doing(doing)
}

/// Replaces the kernel's boot id by these 32 hexadecimal digits.
fn cover_boot_id(hex: &str) -> Result<(), AgentError> {
    let text = format!("{}-{}-{}-{}-{}\n", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let put = || {
        fs::create_dir_all("/run/spank-vm")?;
        fs::write(OWN_BOOT_ID, text)
    };
    put().doing(|| format!("write {OWN_BOOT_ID}"))?;
    // The id of an earlier session, if any.
    let _ = umount2(BOOT_ID, MntFlags::MNT_DETACH);
    mount(Some(OWN_BOOT_ID), BOOT_ID, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(|| "give this clone a boot id of its own".to_owned())
}

impl Machine for System {
    fn boot_times(&self) -> BootTimes {
        self.times
    }

    fn boot_error(&self) -> Option<&AgentError> {
        None
    }

    fn set_clock(&mut self, nanoseconds: u64) -> Result<(), AgentError> {
        self.fixtures.clock.begin(nanoseconds)
    }

    fn ask_for_clock(&mut self) {
        self.fixtures.clock.ask();
    }

    fn follow_clock(&mut self, nanoseconds: u64) -> Result<(), AgentError> {
        self.fixtures.clock.hear(nanoseconds)
    }

    fn set_hostname(&mut self, name: &[u8]) -> Result<(), AgentError> {
        // This is the first change of the root; the init is done with it now.
        open_root()?;
        identity::set_hostname(name, &mut self.fixtures.traces)
    }

    fn add_entropy(&mut self, seed: &[u8]) -> Result<(), AgentError> {
        let id = identity::seed_and_draw(seed)?;
        if self.settled { cover_boot_id(&id) } else { Ok(()) }
    }

    fn use_cpus(&mut self, count: u16) -> Result<(), AgentError> {
        identity::use_cpus(count)
    }

    fn expect_memory(&mut self, bytes: u64) {
        self.fixtures.expect_memory(bytes);
    }

    fn wait_for_memory(&mut self) {
        self.fixtures.wait_for_memory();
    }

    fn awaits_memory(&mut self) -> bool {
        self.fixtures.awaits_memory()
    }

    fn killed_for_memory(&mut self) -> Option<String> {
        self.fixtures.oom_kills.news()
    }

    fn mount_share(&mut self, share: Share<'_>) -> Result<(), AgentError> {
        self.fixtures.mount_share(share)
    }

    fn alias(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        self.fixtures.alias(path, target)
    }

    fn make_home(&mut self, home: &Path, owner: (u32, u32)) -> Result<(), AgentError> {
        self.fixtures.make_home(home, owner)
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        self.fixtures.traces.link(path, target)
    }

    fn check_links(&self) -> Result<(), AgentError> {
        self.fixtures.traces.check_links()
    }

    fn expect_file(&mut self, path: &Path) -> Result<(), AgentError> {
        self.fixtures.expect_file(path)
    }

    fn take_back(&mut self) -> Result<(), AgentError> {
        self.fixtures.traces.take_back()
    }

    fn set_zone(&mut self, name: &[u8], data: &[u8]) -> Result<(), AgentError> {
        zone::set(name, data, &mut self.fixtures.traces)
    }

    fn bring_network_up(&mut self, interface: &Interface) -> Result<(), AgentError> {
        net::bring_up(interface)
    }

    fn add_addresses(&mut self, more: &MoreAddresses) -> Result<(), AgentError> {
        net::add(more)
    }

    fn add_hosts(&mut self, lines: &[u8]) -> Result<(), AgentError> {
        identity::add_hosts(lines, &mut self.fixtures.traces)
    }

    fn set_resolver(&mut self, text: &[u8]) -> Result<(), AgentError> {
        identity::set_resolver(text, &mut self.fixtures.traces)
    }

    fn add_user(&mut self, account: &Account, credentials: &Credentials) -> Result<(), AgentError> {
        identity::add_user(account, credentials, &mut self.fixtures.traces)
    }

    fn sync_shares(&mut self) -> Result<(), AgentError> {
        self.fixtures.shares.sync()
    }

    fn settle(&mut self) {
        // A service that is still starting would go on in every clone. Systems without systemd have started everything.
        let mut wait = Command::new("timeout");
        wait.args([SETTLE_S, "systemctl", "is-system-running", "--wait"]);
        let _ = wait.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        self.fixtures.settle();
        self.settled = true;
    }

    fn forget_session(&mut self) {
        self.fixtures.shares.unmount_all();
    }

    fn orphan_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.children.events())
    }

    fn reap(&mut self, leaders: &[Pid]) -> Reaped {
        self.children.reap(leaders)
    }

    fn kill_tasks(&mut self, leaders: &[Pid]) {
        let mut killed = HashSet::new();
        for _ in 0..ROUNDS {
            if self.is_childless() {
                return;
            }
            let courier = self.fixtures.shares.courier();
            let found = processes::of_session(Pid::this(), leaders).into_iter().filter(|&pid| Some(pid) != courier);
            let before = killed.len();
            for pid in found {
                let _ = kill(pid, Signal::SIGKILL);
                killed.insert(pid);
            }
            if killed.len() == before {
                return;
            }
        }
        kmsg::note("processes of the command start faster than they can be killed");
    }

    fn end_tasks(&mut self, leaders: &[Pid]) {
        self.kill_tasks(leaders);
        self.children.reap_all();
    }
}
