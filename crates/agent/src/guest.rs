//! The [`Machine`] that the agent really runs on.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use proto::BootTimes;

use super::children::Children;
use super::error::{AgentError, Doing};
use super::fixtures::Fixtures;
use super::hostkeys::HostKeys;
use super::identity;
use super::machine::{Machine, Reaped};
use super::shares::Shares;

/// The guest whose PID 1 this process is.
#[derive(Debug)]
pub(super) struct Guest {
    times: BootTimes,
    boot_error: Option<AgentError>,
    children: Children,
    keys: HostKeys,
    fixtures: Fixtures,
}

impl Guest {
    /// Takes over the duties of init.
    pub fn new(times: BootTimes, boot_error: Option<AgentError>, shares: Shares) -> Result<Self, AgentError> {
        assert_eq!(std::process::id(), 1, "kill(-1) is only sane in a guest of our own");
        let children = Children::watch()?;
        Ok(Self { times, boot_error, children, keys: HostKeys::find(), fixtures: Fixtures::with(shares) })
    }
}

impl Machine for Guest {
    fn fixtures(&mut self) -> &mut Fixtures {
        &mut self.fixtures
    }

    fn boot_times(&self) -> BootTimes {
        self.times
    }

    fn boot_error(&self) -> Option<&AgentError> {
        self.boot_error.as_ref()
    }

    fn set_hostname(&mut self, name: &[u8]) -> Result<(), AgentError> {
        identity::set_hostname(name, &mut self.fixtures.traces)
    }

    fn add_entropy(&mut self, seed: &[u8]) -> Result<(), AgentError> {
        // The kernel makes its boot id at the first read, so that id differs in each clone without our help.
        let id = identity::seed_and_draw(seed)?;
        if Path::new("/etc").is_dir() {
            self.fixtures
                .traces
                .write(Path::new("/etc/machine-id"), (id + "\n").as_bytes())
                .doing(|| "write /etc/machine-id".to_owned())?;
        }
        self.keys.renew();
        Ok(())
    }

    fn take_back(&mut self) -> Result<(), AgentError> {
        let keys = self.keys.take_back().doing(|| "restore the SSH host keys of the image".to_owned());
        self.fixtures.traces.take_back().and(keys)
    }

    fn settle(&mut self) {
        // Make the overlay's copies of those files of the image now that every session changes, and those that it lacks.
        let traces = &mut self.fixtures.traces;
        for path in ["/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/machine-id"] {
            let opened = OpenOptions::new().append(true).open(path);
            if opened.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && Path::new("/etc").is_dir() {
                let _ = traces.write(Path::new(path), b"");
            }
        }
        // Making the first directory and file on a disk loads the maps of its free blocks into memory.
        let trial = "/.spank-vm";
        let _ = fs::create_dir(trial).and_then(|()| fs::write(format!("{trial}/file"), "x"));
        let _ = fs::remove_dir_all(trial);
        self.fixtures.settle();
    }

    fn orphan_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.children.events())
    }

    fn reap(&mut self, leaders: &[Pid]) -> Reaped {
        let reaped = self.children.reap(leaders);
        self.keys.children_reaped();
        reaped
    }

    fn kill_tasks(&mut self, _leaders: &[Pid]) {
        // Whatever runs here and has lost its parent is a child of this process.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if matches!(waitid(Id::All, look), Err(Errno::ECHILD)) {
            return;
        }
        // The process that serves the shares must live, and its own -1 spares it and PID 1.
        if self.fixtures.shares.kill_all_but_courier() {
            return;
        }
        // From PID 1, -1 means every process except the kernel's threads. ESRCH: there is no such process.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    }

    fn end_tasks(&mut self, leaders: &[Pid]) {
        self.kill_tasks(leaders);
        self.children.reap_all();
    }
}
