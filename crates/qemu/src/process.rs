//! The QEMU process: started with only what it needs, and ended when the runner ends.

#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::SigSet;

use super::confine::Confinement;
use super::descriptors::ImageFds;
use super::detach::{Newborn, highest_descriptor};
use super::error::{QemuError, WantedFor};
use super::monitor::{Monitor, Shutdown, StateUri, TURN};
use super::nic::Tap;
use super::sandbox::{Filter, Sandbox};
use super::tail::Tail;
use super::tie::Tie;
use super::written::{Mapping, MemoryFile, Written};
use node::child;

/// What comes before words of a guest in the texts of this module; they end the text.
pub const GUEST_SAYS: [&str; 2] = [CONSOLE_SAYS, PANIC_SAYS];
const CONSOLE_SAYS: &str = "; its console ended with: ";
const PANIC_SAYS: &str = "the guest's kernel panicked: ";

/// What may be the reason where QEMU has no permission.
const CONFINED: &str = " (it is confined: 'confine_qemu' and 'qemu_dirs' in the site's configuration say to what)";

/// How long a killed QEMU may take to end: one of a terabyte frees its memory for a while.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// Open files that QEMU works on.
#[derive(Debug, Default)]
pub struct Files {
    /// The image's disk, which QEMU only reads.
    pub image: Option<File>,
    /// The private disk of a VM with an image, read-write.
    pub scratch: Option<File>,
    /// Memory and device state of a template: written when it is made, read when it is cloned.
    pub template: Option<TemplateFiles>,
    /// QEMU's end of the port to the file server.
    pub file_port: Option<UnixStream>,
    /// QEMU's end of what is behind its network device.
    pub nic: Option<Tap>,
    /// The disks of a helper: only descriptors, the rest is in its command line.
    pub disks: Vec<OwnedFd>,
}

impl Files {
    /// The numbers of the descriptors of a VM with an image; none for a VM without one.
    pub fn image_fds(&self) -> ImageFds {
        let number = |file: &Option<File>| file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        ImageFds { image: number(&self.image), scratch: number(&self.scratch) }
    }
}

/// The files of a template that are not a disk.
#[derive(Debug)]
pub struct TemplateFiles {
    /// The guest's memory.
    pub ram: File,
    /// The state of its devices.
    pub state: File,
}

/// Descriptors that QEMU inherits; the runner keeps the other ends.
#[derive(Debug)]
pub struct Inherited {
    /// QEMU's end of the channel.
    pub channel: UnixStream,
    /// QEMU's end of the console.
    pub console: UnixStream,
    /// QEMU's end of its monitor.
    pub monitor: UnixStream,
    /// Open files.
    pub files: Files,
}

impl Inherited {
    fn descriptors(&self) -> Vec<RawFd> {
        let sockets = [&self.channel, &self.console, &self.monitor].map(AsRawFd::as_raw_fd);
        let template = self.files.template.iter().flat_map(|files| [files.ram.as_raw_fd(), files.state.as_raw_fd()]);
        let files = &self.files;
        let own = [&files.image, &files.scratch].into_iter().flatten().map(AsRawFd::as_raw_fd);
        let disks = files.disks.iter().map(AsRawFd::as_raw_fd);
        let port = files.file_port.iter().map(AsRawFd::as_raw_fd);
        let nic = files.nic.iter().map(Tap::fds).flat_map(|fds| [Some(fds.tap), fds.vhost]).flatten();
        sockets.into_iter().chain(port).chain(nic).chain(own).chain(template).chain(disks).collect()
    }
}

/// What QEMU must know about the process that starts it.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    /// Signals that the starting process handles: they are blocked in QEMU.
    pub blocked: SigSet,
    /// Whether the memory that both processes may use is exhausted.
    pub ran_out_of_memory: fn() -> bool,
    /// Process number of the file server, which reaches the guest's memory through QEMU's.
    pub file_server: Option<u32>,
    /// No memory of QEMU is worth huge pages, because the guest's is a file's. Without this, QEMU's tables for the guest take a whole
    /// one.
    pub small_pages: bool,
    /// Whether it can open files of its user.
    pub confinement: Confinement<'a>,
}

/// A running QEMU and the runner's ends of its streams, all nonblocking. Dropping it kills QEMU.
#[derive(Debug)]
pub struct QemuProcess {
    /// `None` for the stand-in of tests and fuzzers.
    child: Option<Child>,
    _tie: Option<Tie>,
    ran_out_of_memory: fn() -> bool,
    /// The channel to the agent. It ends when QEMU does.
    pub channel: UnixStream,
    /// Commands to QEMU.
    pub monitor: Monitor,
    console: UnixStream,
    stderr: OwnedFd,
    printed: Tail,
    complaints: Tail,
    /// The memory of its template.
    memory: Option<MemoryFile>,
    load: Option<Load>,
    /// It waits for [`QemuProcess::go`].
    is_held: bool,
    is_confined: bool,
}

/// A clone that waits for its turn, and until the pages which it will write are copied.
#[derive(Debug)]
struct Load {
    state: StateUri,
    written: Option<Written>,
    /// Where this much memory is will be asked then.
    locate: Option<u64>,
}

impl QemuProcess {
    /// Starts `qemu`; `args` gets the descriptors by the numbers they have in the child.
    ///
    /// # Errors
    /// When descriptors run out or the program cannot be executed; when it must be confined and cannot be.
    pub fn spawn(
        qemu: &Path,
        host: Host<'_>,
        files: Files,
        args: impl FnOnce(&Inherited) -> Vec<OsString>,
    ) -> Result<Self, QemuError> {
        let (channel, qemu_channel) = UnixStream::pair().wanted_for(|| "channel".to_owned())?;
        let (console, qemu_console) = UnixStream::pair().wanted_for(|| "console".to_owned())?;
        let (monitor, qemu_monitor) = UnixStream::pair().wanted_for(|| "monitor".to_owned())?;
        for ours in [&channel, &console, &monitor] {
            ours.set_nonblocking(true).wanted_for(|| "a socket to QEMU".to_owned())?;
        }
        let inherited = Inherited { channel: qemu_channel, console: qemu_console, monitor: qemu_monitor, files };
        let keep = inherited.descriptors();
        let memory = inherited.files.template.as_ref().and_then(|template| MemoryFile::of(&template.ram));

        let args = args(&inherited);
        let reopened = inherited.files.template.as_ref().map(|template| &template.ram);
        let Host { blocked, ran_out_of_memory, file_server, small_pages, confinement } = host;
        let sandbox = Sandbox::of(qemu);
        let rules = confinement.rules((qemu, sandbox), &args, reopened.as_slice())?;
        let is_confined = rules.is_some();
        let filter = (sandbox == Sandbox::Ours).then(Filter::new);
        let mut command = Command::new(qemu);
        command.args(args).args(sandbox.options()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // QEMU does not get the job's environment: QEMU needs nothing from it, and some variables could change what
        // its libraries do.
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
        let last_fd = highest_descriptor();
        let runner = nix::unistd::getpid();
        let newborn = Newborn { runner, blocked, file_server, small_pages, keep, last_fd, rules, filter };
        // SAFETY: the closure runs between fork and exec and makes system calls only: it takes no memory and no lock, which
        // another thread may have held.
        unsafe { command.pre_exec(move || newborn.detach()) };
        let tie = Tie::to_this_process(&mut command).wanted_for(|| "a pipe to QEMU".to_owned())?;
        let mut child = command.spawn().wanted_for(|| format!("{} cannot be started", qemu.display()))?;
        let stderr: OwnedFd = child.stderr.take().ok_or_else(|| QemuError::new("no pipe for QEMU's messages"))?.into();
        set_nonblocking(&stderr).wanted_for(|| "QEMU's messages".to_owned())?;
        Ok(Self {
            child: Some(child),
            _tie: Some(tie),
            ran_out_of_memory,
            channel,
            monitor: Monitor::new(monitor),
            console,
            stderr,
            printed: Tail::default(),
            complaints: Tail::default(),
            memory,
            load: None,
            is_held: false,
            is_confined,
        })
    }

    /// No process at all: the code with the other ends of the nonblocking sockets plays QEMU and its guest.
    #[cfg(any(test, feature = "stand-in"))]
    pub fn stand_in([channel, console, monitor, stderr]: [UnixStream; 4]) -> Self {
        let monitor = Monitor::new(monitor);
        let (printed, complaints) = Default::default();
        Self {
            child: None,
            _tie: None,
            ran_out_of_memory: || false,
            channel,
            monitor,
            console,
            stderr: stderr.into(),
            printed,
            complaints,
            memory: None,
            load: None,
            is_held: false,
            is_confined: false,
        }
    }

    /// QEMU's process number; 0 for the stand-in.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The descriptors to poll besides the channel; [`QemuProcess::read_texts`] reads them. All end
    /// when QEMU does, but that is noticed through the channel.
    pub fn texts(&self) -> [BorrowedFd<'_>; 3] {
        [self.console.as_fd(), self.stderr.as_fd(), self.monitor.as_fd()]
    }

    /// Reads what the guest's kernel and QEMU printed and what the monitor answered.
    pub fn read_texts(&mut self) {
        let mut buf = [0; 4096];
        for _ in 0..TURN {
            let Ok(n @ 1..) = self.console.read(&mut buf) else { break };
            self.printed.push(&buf[..n]);
        }
        for _ in 0..TURN {
            let Ok(n @ 1..) = nix::unistd::read(&self.stderr, &mut buf) else { break };
            self.complaints.push(&buf[..n]);
        }
        self.monitor.read();
        self.copy_and_load();
    }

    /// Makes a QEMU with `-incoming defer` load its VM from `state` and run it, and then tell where the first `locate` bytes of
    /// its memory are. Before that it gets its own copies of the pages that it will write, if they are known.
    pub fn load(&mut self, state: StateUri, written: Option<Written>, locate: Option<u64>) {
        self.monitor.prepare_load(state);
        self.load = Some(Load { state, written, locate });
        self.copy_and_load();
    }

    /// A VM that is to be loaded from now on waits for [`QemuProcess::go`].
    pub fn hold(&mut self) {
        self.is_held = true;
    }

    /// Whether it waits for that.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Loads what it was held back from loading.
    pub fn go(&mut self) {
        self.is_held = false;
        self.copy_and_load();
    }

    fn order_load(&mut self, state: StateUri, locate: Option<u64>) {
        self.monitor.load(state);
        locate.into_iter().for_each(|bytes| self.monitor.locate_memory(bytes));
    }

    /// With pages to copy, as soon as QEMU has its memory: often when it greets, while it still makes its machine.
    fn copy_and_load(&mut self) {
        let Some(load) = self.load.take_if(|_| !self.is_held) else { return };
        let Load { state, written: Some(written), locate } = load else {
            return self.order_load(load.state, load.locate);
        };
        let lines = self.monitor.lines();
        let mapping = self.memory.filter(|_| lines > 0).and_then(|file| Mapping::find(self.id(), file));
        if lines == 0 || (lines == 1 && mapping.is_none()) {
            self.load = Some(Load { state, written: Some(written), locate });
            return;
        }
        match mapping.map(|mapping| mapping.copy(&written)) {
            Some(Ok(pages)) => tracing::debug!("{pages} pages copied"),
            Some(Err(error)) => tracing::debug!("no pages copied: {error}"),
            None => tracing::debug!("no pages copied: the template's memory is not found in QEMU"),
        }
        self.order_load(state, locate);
    }

    /// The pages of its template's memory that this clone has written.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn written(&self) -> io::Result<Written> {
        let mapping = self.memory.and_then(|file| Mapping::find(self.id(), file));
        mapping.ok_or_else(|| io::Error::other("the template's memory is not found in QEMU"))?.written()
    }

    /// The last words of QEMU or of the guest's console, as the end of a sentence.
    pub fn last_words(&self) -> String {
        match (self.complaints.telling_line(), self.printed.telling_line()) {
            (Some(line), _) if self.is_confined && line.contains("Permission denied") => {
                format!("; QEMU said: \"{line}\"{CONFINED}")
            }
            (Some(line), _) => format!("; QEMU said: \"{line}\""),
            (None, Some(line)) => format!("{CONSOLE_SAYS}\"{line}\""),
            (None, None) => "; its console is empty".to_owned(),
        }
    }

    /// Why QEMU has stopped the VM, if KVM could not run its guest any more; for the user. Such a VM would stay for ever.
    pub fn kvm_failure(&self) -> Option<String> {
        let said = self.complaints.kvm_failure()?;
        Some(format!("the node's KVM could not run the guest any further (\"{said}\"); the VM was ended"))
    }

    /// Why the channel closed, for the user: from QEMU's end and from what was printed.
    pub fn exit_reason(&mut self) -> String {
        self.read_texts();
        // The channel closes a moment before the process can be reaped: on a busy node that has to free its memory, seconds.
        let status = self.child.as_mut().and_then(|qemu| child::wait(qemu, Duration::from_secs(10)));
        let how = match status {
            Some(status) => match (status.signal(), status.code()) {
                (Some(libc::SIGKILL), _) if (self.ran_out_of_memory)() => {
                    "the node's kernel killed QEMU, because the memory of this task is used up: ask for more with --mem; if \
                     nothing else of the job needs any, the site's 'memory_overhead_mib' is too little"
                        .to_owned()
                }
                (Some(libc::SIGKILL), _) => {
                    "QEMU was killed (signal 9), by an administrator or for lack of memory: in that case ask for more with --mem"
                        .to_owned()
                }
                (Some(libc::SIGSYS), _) => "QEMU was ended for a system call that its sandbox forbids".to_owned(),
                (Some(signo), _) => format!("QEMU was killed by signal {signo}"),
                (None, Some(0)) => return self.end_of_guest(),
                (None, code) => format!("QEMU failed with code {}", code.unwrap_or(-1)),
            },
            None => "QEMU closed the channel".to_owned(),
        };
        self.read_texts();
        format!("{how}{}", self.last_words())
    }

    /// Whether somebody else ended QEMU by a signal: the kernel for lack of memory or for a limit, an administrator.
    /// Then its end says nothing about the guest.
    pub fn was_killed(&mut self) -> bool {
        let status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        status.is_some_and(child::was_killed)
    }

    /// Why the machine stopped, if QEMU ended normally because of that.
    fn end_of_guest(&mut self) -> String {
        self.read_texts();
        match (self.printed.panic(), self.monitor.shutdown()) {
            (Some(reason), _) => format!("{PANIC_SAYS}\"{reason}\""),
            (None, Some(Shutdown::PowerOff)) => "the guest powered itself off before the command ended".to_owned(),
            (None, Some(Shutdown::Reset)) => {
                // Linux says why it panics. Without that, what was printed last is for the administrator.
                tracing::debug!("reset of the guest{}", self.last_words());
                "the guest rebooted, which ends a VM, before the command ended: a program in it asked for that, or its \
                 kernel could not report a fault of its own (a triple fault)"
                    .to_owned()
            }
            (None, Some(Shutdown::Host)) => "QEMU was told to quit by somebody on this node".to_owned(),
            (None, None) => format!("the guest stopped by itself{}", self.last_words()),
        }
    }

    /// Whether somebody stopped QEMU: SIGSTOP, a debugger.
    pub fn is_stopped(&self) -> bool {
        let stat = self.child.as_ref().map(|child| std::fs::read_to_string(format!("/proc/{}/stat", child.id())));
        let Some(Ok(stat)) = stat else { return false };
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
    }

    /// Kills QEMU without waiting for its end: freeing its memory takes milliseconds, in which the
    /// other VMs can continue.
    pub fn kill(&mut self) {
        // A child that was not reaped keeps its id, so this cannot hit another process.
        let _ = self.child.as_mut().map(Child::kill);
    }

    /// Kills QEMU and waits for its end. One that a file system or a device holds ends later; Slurm sees it in the step's control group.
    pub fn finish(&mut self) {
        let Some(qemu) = &mut self.child else { return };
        if child::end(qemu, GONE_WITHIN).is_none() {
            tracing::warn!(
                "QEMU (process {}) was killed and does not end: a file system or a device holds it",
                qemu.id()
            );
            // Nobody waits a second time.
            self.child = None;
        }
    }
}

impl Drop for QemuProcess {
    fn drop(&mut self) {
        self.finish();
    }
}

fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests;
