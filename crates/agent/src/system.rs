//! The [`Machine`] of the agent as a service: a system that has an init, and more than the session's processes.
//!
//! What differs from a guest that is the agent's own: only the session's processes are ever killed; the files
//! that tell who the system is (`/etc/machine-id`, SSH host keys) stay, because its services hold on to them; and
//! the kernel's boot id, which was read long before a clone wakes up, is covered by one of the clone's own.

use std::collections::HashSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use proto::BootTimes;

use super::children::Children;
use super::error::{AgentError, Doing};
use super::fixtures::Fixtures;
use super::machine::{Machine, Reaped};
use super::shares::Shares;
use super::{identity, kmsg, processes};

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
    fn fixtures(&mut self) -> &mut Fixtures {
        &mut self.fixtures
    }

    fn boot_times(&self) -> BootTimes {
        self.times
    }

    fn boot_error(&self) -> Option<&AgentError> {
        None
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

    fn take_back(&mut self) -> Result<(), AgentError> {
        self.fixtures.traces.take_back()
    }

    fn settle(&mut self) {
        // A service that is still starting would go on in every clone. Systems without systemd have started everything.
        let mut wait = Command::new("timeout");
        wait.args([SETTLE_S, "systemctl", "is-system-running", "--wait"]);
        let _ = wait.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        self.fixtures.settle();
        self.settled = true;
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
