//! A share that is mounted, with its server and its pump.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use files::control::{Memory, Region, Share, Shares};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::processes::start_server;
use super::pump;

/// How a share is mounted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub read_only: bool,
    /// Bulk data has slots.
    pub slots: bool,
    /// How many descriptors the server may have.
    pub descriptors: Option<u64>,
}

/// See the module. The mount ends when this is dropped.
pub struct Mounted {
    pub path: PathBuf,
    server: Child,
    pump: Child,
    _control: UnixStream,
    place: TempDir,
}

impl Mounted {
    /// Mounts a file or directory, in a mount namespace that only this thread and its processes have.
    pub fn new(source: &Path, options: Options) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("mount");
        let is_dir = source.is_dir();
        if is_dir {
            std::fs::create_dir(&path).unwrap();
        } else {
            drop(File::create(&path).unwrap());
        }

        let (mut control, server_control) = UnixStream::pair().unwrap();
        let (port, server_port) = UnixStream::pair().unwrap();
        let share = Share { path: source.to_owned(), read_only: options.read_only };
        control.write_all(&Shares(vec![share]).encode()).unwrap();
        let server = start_server(server_control, server_port, options.descriptors);

        let fuse = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let mode = if is_dir { "40000" } else { "100000" };
        let data = format!("fd={},rootmode={mode},user_id=0,group_id=0,allow_other", fuse.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("share"), &path, Some("fuse"), flags, Some(data.as_str())).unwrap();
        let mut pump = start_pump(options, port, fuse, &asked_in(&place));
        if options.slots {
            let mut said = BufReader::new(pump.stderr.take().unwrap()).lines().map(Result::unwrap);
            let line = said.next().unwrap();
            let (pid, host) = line.split_once(' ').unwrap();
            let (pid, host) = (pid.parse().unwrap(), host.parse().unwrap());
            let region = Region { guest: 0, len: 1 << 30, host };
            control.write_all(&Memory { pid, regions: vec![region] }.encode()).unwrap();
            assert_eq!(said.next().as_deref(), Some("usable"));
            std::thread::spawn(move || said.for_each(|line| eprintln!("pump: {line}")));
        }
        Self { path, server, pump, _control: control, place }
    }

    /// A directory with the usual options.
    pub fn directory(source: &Path) -> Self {
        Self::new(source, Options { slots: true, ..Options::default() })
    }

    /// What its kernel has asked for so far, and whether the server was asked.
    pub fn asked(&self) -> Vec<(u32, bool)> {
        let bytes = std::fs::read(asked_in(&self.place)).unwrap();
        bytes.into_iter().map(|byte| (u32::from(byte & !pump::OF_HOST), byte & pump::OF_HOST != 0)).collect()
    }

    /// Kills the server, as when its VM's node runs out of memory.
    pub fn kill_server(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Lets the server hang.
    pub fn stop_server(&self) {
        kill(Pid::from_raw(self.server.id() as i32), Signal::SIGSTOP).unwrap();
        // The signal reaches one thread, which stops the others when it runs.
        let runs = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"))
        };
        let tasks = PathBuf::from(format!("/proc/{}/task", self.server.id()));
        while std::fs::read_dir(&tasks).unwrap().flatten().any(runs) {
            std::thread::yield_now();
        }
    }

    /// Lets it go on.
    pub fn continue_server(&self) {
        kill(Pid::from_raw(self.server.id() as i32), Signal::SIGCONT).unwrap();
    }

    /// Kills the pump, which closes the port; how the server ended.
    pub fn end_of_port(mut self) -> Option<i32> {
        self.pump.kill().unwrap();
        self.pump.wait().unwrap();
        self.server.wait().unwrap().code()
    }

    /// The server's process.
    pub fn server_pid(&self) -> u32 {
        self.server.id()
    }
}

/// Where the pump notes what it is asked.
fn asked_in(place: &TempDir) -> PathBuf {
    place.path().join("asked")
}

/// Like the server, the pump has no capability: otherwise the server could not reach its memory.
fn start_pump(options: Options, port: UnixStream, fuse: File, asked: &Path) -> Child {
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(std::env::current_exe().unwrap())
        .arg("pump")
        .arg(asked);
    if options.slots {
        command.arg("slots").stderr(Stdio::piped());
    }
    command.stdin(Stdio::from(OwnedFd::from(port))).stdout(Stdio::from(fuse)).spawn().unwrap()
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = self.pump.kill();
        let _ = self.pump.wait();
        // It may have ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
