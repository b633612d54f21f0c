//! The [`Machine`] that the agent really runs on.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use nix::unistd::{Gid, Pid, Uid, chown, sethostname};

use crate::proto::BootTimes;

use super::accounts::{Account, missing_group_entry, missing_hosts_entry, missing_passwd_entry};
use super::error::{AgentError, Doing};
use super::hostkeys::HostKeys;
use super::kmsg;
use super::machine::{Machine, Reaped};
use super::memory::Arrival;
use super::net::{self, NetSetup};
use super::oom::Killings;
use super::shares::Shares;
use super::sys;
use super::task::Credentials;
use super::traces::Traces;

/// How long killed processes may take to vanish before a session goes on without them: one that
/// waits for a dead share cannot be killed.
pub(super) const BURIAL: Duration = Duration::from_secs(5);

/// The guest whose PID 1 this process is.
#[derive(Debug)]
pub(super) struct Guest {
    times: BootTimes,
    boot_error: Option<AgentError>,
    shares: Shares,
    children: SignalFd,
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
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let children = mask
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
            .doing(|| "watch for dead children".to_owned())?;
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

    /// The shell of the account, or the one every image has.
    fn with_a_shell_that_exists(account: &Account) -> Account {
        let shell = std::ffi::OsStr::from_bytes(&account.shell);
        let shell = if Path::new(shell).exists() { account.shell.clone() } else { b"/bin/sh".to_vec() };
        Account { shell, ..account.clone() }
    }

    /// Appends to `path` the line that `missing` finds missing. A file that does not exist is empty.
    fn append_missing(&mut self, path: &str, missing: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> Result<(), AgentError> {
        let text = fs::read(path).unwrap_or_default();
        let Some(line) = missing(&text) else { return Ok(()) };
        self.traces.append(Path::new(path), line).doing(|| format!("add a line to {path}"))
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
        let time = TimeSpec::from_duration(Duration::from_nanos(nanoseconds));
        clock_settime(ClockId::CLOCK_REALTIME, time).doing(|| "set the clock".to_owned())
    }

    fn set_hostname(&mut self, name: &[u8]) -> Result<(), AgentError> {
        sethostname(std::ffi::OsStr::from_bytes(name)).doing(|| "set the host name".to_owned())?;
        let mut line = name.to_vec();
        line.push(b'\n');
        // Only for programs that read the file; most ask the kernel.
        let _ = self.traces.write(Path::new("/etc/hostname"), &line);
        self.append_missing("/etc/hosts", |text| missing_hosts_entry(text, name))
    }

    fn add_entropy(&mut self, seed: &[u8]) -> Result<(), AgentError> {
        let random = File::open("/dev/urandom").doing(|| "open /dev/urandom".to_owned())?;
        sys::seed_random(&random, seed).doing(|| "seed the random generator".to_owned())?;
        // The kernel draws its boot id when it is first read, so that one differs by itself now.
        let mut id = [0; 16];
        (&random).read_exact(&mut id).doing(|| "draw a machine id".to_owned())?;
        // As systemd does, so that it is a valid UUID (version 4, variant 1) too.
        (id[6], id[8]) = (id[6] & 0x0f | 0x40, id[8] & 0x3f | 0x80);
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
        let mut set = CpuSet::new();
        (0..usize::from(count)).try_for_each(|cpu| set.set(cpu)).doing(|| format!("count {count} processors"))?;
        // Everything the session starts inherits it. Taking processors offline would be plainer to see, and takes
        // the kernel a quarter of a second each under emulation.
        sched_setaffinity(Pid::from_raw(0), &set).doing(|| format!("keep to {count} processors"))
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
        let account = Self::with_a_shell_that_exists(account);
        let (uid, gid) = (credentials.uid, credentials.gid);
        self.append_missing("/etc/passwd", |text| missing_passwd_entry(text, &account, uid, gid))?;
        self.append_missing("/etc/group", |text| missing_group_entry(text, &account.name, gid))?;
        let home = Path::new(std::ffi::OsStr::from_bytes(&account.home));
        if home.is_absolute() && !home.exists() {
            self.traces
                .make_directories(Some(home))
                .doing(|| format!("create the home directory {}", home.display()))?;
            chown(home, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .doing(|| format!("give {} to the user", home.display()))?;
        }
        Ok(())
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
        Some(self.children.as_fd())
    }

    fn reap(&mut self, leader: Pid) -> Reaped {
        // Signals of one kind merge: one event may stand for many dead.
        while matches!(self.children.read_signal(), Ok(Some(_))) {}
        let mut reaped = Reaped::default();
        loop {
            match sys::reap_one(Pid::from_raw(-1)) {
                Ok(None) => return reaped,
                Ok(Some((pid, status))) if pid == leader => reaped.leader = Some(status),
                Ok(Some(_)) => {}
                // ECHILD: that was the last one.
                Err(_) => {
                    reaped.none_left = true;
                    return reaped;
                }
            }
        }
    }

    fn kill_task(&mut self, _leader: Pid) {
        // From PID 1 this means every process but the kernel's threads. ESRCH: there is none.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    }

    fn end_task(&mut self, leader: Pid) {
        let deadline = Instant::now() + BURIAL;
        self.kill_task(leader);
        while !self.reap(leader).none_left {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                kmsg::note("processes of the last task cannot be killed");
                return;
            };
            let mut set = [PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        }
    }
}
