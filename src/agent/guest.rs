//! The [`Machine`] that the agent really runs on.

#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::proto::BootTimes;

use super::accounts::Account;
use super::children::Children;
use super::error::{AgentError, Doing};
use super::hostkeys::HostKeys;
use super::machine::{Machine, Reaped};
use super::memory::Arrival;
use super::net::{self, NetSetup};
use super::oom::Killings;
use super::shares::Shares;
use super::task::Credentials;
use super::traces::Traces;
use super::{identity, sys};

/// The guest whose PID 1 this process is.
#[derive(Debug)]
pub(super) struct Guest {
    times: BootTimes,
    boot_error: Option<AgentError>,
    shares: Shares,
    children: Children,
    keys: HostKeys,
    /// What sessions changed in the root for their own sake.
    traces: Traces,
    /// From the template until all memory of the clone is there.
    arrival: Option<Arrival>,
    killings: Killings,
}

impl Guest {
    /// Takes over the duties of init.
    pub fn new(times: BootTimes, boot_error: Option<AgentError>) -> Result<Self, AgentError> {
        assert_eq!(std::process::id(), 1, "kill(-1) is only sane in a guest of our own");
        let children = Children::watch()?;
        Ok(Self {
            times,
            boot_error,
            shares: Shares::default(),
            children,
            keys: HostKeys::find(),
            traces: Traces::default(),
            arrival: None,
            killings: Killings::default(),
        })
    }
}

impl Machine for Guest {
    fn boot_times(&self) -> BootTimes {
        self.times
    }

    fn boot_error(&self) -> Option<&AgentError> {
        self.boot_error.as_ref()
    }

    fn set_clock(&mut self, nanoseconds: u64) -> Result<(), AgentError> {
        identity::set_clock(nanoseconds)
    }

    fn set_hostname(&mut self, name: &[u8]) -> Result<(), AgentError> {
        identity::set_hostname(name, &mut self.traces)
    }

    fn add_entropy(&mut self, seed: &[u8]) -> Result<(), AgentError> {
        // The kernel draws its boot id when it is first read, so that one differs by itself now.
        let id = identity::seed_and_draw(seed)?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        if Path::new("/etc").is_dir() {
            self.traces
                .write(Path::new("/etc/machine-id"), (id + "\n").as_bytes())
                .doing(|| "write /etc/machine-id".to_owned())?;
        }
        self.keys.renew();
        Ok(())
    }

    fn use_cpus(&mut self, count: u16) -> Result<(), AgentError> {
        identity::use_cpus(count)
    }

    fn expect_memory(&mut self, bytes: u64) {
        if let Some(arrival) = &mut self.arrival {
            arrival.expect(bytes);
        }
    }

    fn awaits_memory(&mut self) -> bool {
        if self.arrival.as_mut().is_some_and(Arrival::is_over) {
            self.arrival = None;
        }
        self.arrival.is_some()
    }

    fn killed_for_memory(&mut self) -> Option<String> {
        self.killings.news()
    }

    fn configure_net(&mut self, setup: &NetSetup) -> Result<(), AgentError> {
        net::configure(setup)
    }

    fn mount_share(&mut self, tag: &[u8], path: &Path, read_only: bool) -> Result<(), AgentError> {
        if !path.is_absolute() {
            return Err(AgentError::Unfit(format!("the share {} has no absolute path", path.display())));
        }
        let made = self.traces.make_directories(Some(path));
        made.doing(|| format!("create the mount point {}", path.display()))?;
        self.shares.mount(tag, path, read_only)
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        self.traces.link(path, target)
    }

    fn check_links(&self) -> Result<(), AgentError> {
        self.traces.check_links()
    }

    fn expect_file(&mut self, path: &Path) -> Result<(), AgentError> {
        self.traces.expect_file(path).doing(|| format!("make room for {}", path.display()))
    }

    fn take_back(&mut self) -> Result<(), AgentError> {
        let keys = self.keys.take_back().doing(|| "restore the SSH host keys of the image".to_owned());
        self.traces.take_back().and(keys)
    }

    fn add_user(&mut self, account: &Account, credentials: &Credentials) -> Result<(), AgentError> {
        identity::add_user(account, credentials, &mut self.traces)
    }

    fn sync_shares(&mut self) -> Result<(), AgentError> {
        self.shares.sync()
    }

    fn sync_all(&mut self) {
        nix::unistd::sync();
    }

    fn settle(&mut self) {
        // Files of the image that every session changes: their copies in the overlay are made now.
        for path in ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/machine-id"] {
            let _ = OpenOptions::new().append(true).open(path);
        }
        // The first directory and file on a disk bring the maps of its free blocks into memory.
        let trial = "/.spank-vm";
        let _ = fs::create_dir(trial).and_then(|()| fs::write(format!("{trial}/file"), "x"));
        let _ = fs::remove_dir_all(trial);
        sys::keep_heap();
        self.arrival = Arrival::prepare();
        // Loader, C library and shell: what almost every command reads first.
        let _ = Command::new("/bin/sh").args(["-c", ":"]).stdin(Stdio::null()).status();
        self.sync_all();
    }

    fn forget_session(&mut self) {
        self.shares.unmount_all();
    }

    fn orphan_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.children.events())
    }

    fn reap(&mut self, leader: Pid) -> Reaped {
        self.children.reap(leader)
    }

    fn kill_task(&mut self, _leader: Pid) {
        // From PID 1 this means every process but the kernel's threads. ESRCH: there is none.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    }

    fn end_task(&mut self, leader: Pid) {
        self.kill_task(leader);
        self.children.bury(leader);
    }
}
