//! Starting the command: everything between "the description is complete" and its first instruction.

#![allow(unsafe_code)]

mod refusal;
mod stdio;

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, read};

use proto::FailKind;

use self::stdio::{ChildStdio, Stdio};
use super::error::{AgentError, Doing};
use super::kmsg;
use super::task::{PreparedTask, Priority, ResourceLimit, TaskSpec};

/// How long a program may take to be loaded; it may have to come over a share.
const EXEC_PATIENCE: Duration = Duration::from_secs(60);

/// How long a process may take to die.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// The kernel's limit for the limit of open files, and what it may be at most.
const NR_OPEN: &str = "/proc/sys/fs/nr_open";
const NR_OPEN_MOST: u64 = 0x7fff_ffc0;

/// The agent's side of a started command.
#[derive(Debug)]
pub(super) struct Spawned {
    pub pid: Pid,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    /// `None` when both outputs are one stream: with a terminal, or if the task asks for it.
    pub stderr: Option<OwnedFd>,
    /// Keeps the terminal open if the command closes it for a moment.
    pub terminal: Option<OwnedFd>,
    /// Why the working directory could not be used; the command then runs in `/tmp`.
    pub cwd_error: Option<Errno>,
}

/// Why a command was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SpawnError {
    pub kind: FailKind,
    pub text: String,
}

impl From<AgentError> for SpawnError {
    fn from(error: AgentError) -> Self {
        Self { kind: FailKind::Setup, text: error.to_string() }
    }
}

/// Starts the command that `spec` describes.
pub(super) fn spawn(spec: &TaskSpec) -> Result<Spawned, SpawnError> {
    let task = spec.prepare()?;
    let stdio = Stdio::open(spec, (task.credentials.uid, task.credentials.gid))?;
    make_room_for(&task.limits);
    let argv = pointers(&task.args);
    let env = pointers(&task.env);
    let (report, child_report) = pipe2(OFlag::O_CLOEXEC).doing(|| "make a pipe".to_owned())?;
    let birth = Birth { task: &task, argv: &argv, env: &env, stdio: &stdio.child, report: child_report.as_raw_fd() };
    let mut stack = vec![0_u128; CHILD_STACK / size_of::<u128>()];
    let pid = give_birth(&birth, &mut stack).doing(|| "start a process".to_owned())?;
    drop(child_report);
    match read_report(&report) {
        Ok(Report { failure: None, cwd_error }) => Ok(Spawned {
            pid,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            cwd_error,
        }),
        Ok(Report { failure: Some((stage, errno)), .. }) => {
            let _ = waitpid(pid, None);
            Err(explain(stage, errno, &spec.args[0], &task.candidates))
        }
        Err(errno) => {
            let _ = kill(pid, Signal::SIGKILL);
            if !ends_soon(pid) {
                // It may still use what it was given, in this process's memory.
                Box::leak(Box::new((task, argv, env, stdio.child, stack)));
            }
            let text = format!("see whether the command started within {} s", EXEC_PATIENCE.as_secs());
            Err(AgentError::Os { doing: text, errno }.into())
        }
    }
}

/// Reaps a child that was killed; `false` if it hangs in the kernel.
fn ends_soon(pid: Pid) -> bool {
    let deadline = Instant::now() + KILL_PATIENCE;
    while Instant::now() < deadline {
        if !matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Lets the kernel allow as many open files as the task may have: on the host, its administrator may have raised that.
fn make_room_for(limits: &[ResourceLimit]) {
    let wanted = limits.iter().find(|limit| u32::from(limit.resource) == libc::RLIMIT_NOFILE).map(|limit| limit.hard);
    let most = fs::read_to_string(NR_OPEN).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if let (Some(wanted), Some(most)) = (wanted, most)
        && wanted > most
        && let Err(error) = fs::write(NR_OPEN, wanted.min(NR_OPEN_MOST).to_string())
    {
        kmsg::note(&format!("{NR_OPEN}: {error}"));
    }
}

/// Everything that the child reads.
struct Birth<'a> {
    task: &'a PreparedTask,
    /// Null-terminated, as execve wants them.
    argv: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    stdio: &'a ChildStdio,
    report: RawFd,
}

/// `IOPRIO_WHO_PROCESS` of `<linux/ioprio.h>`.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;

/// Bytes of the child's stack; it calls system calls and nothing deep.
const CHILD_STACK: usize = 64 * 1024;

/// Starts the child, on this stack, in the agent's memory, which it uses until it becomes the command or ends. A copy of
/// the memory would take about ten milliseconds in an emulated guest. Unlike after vfork, the agent goes on: it waits
/// for the end of the report, with a deadline, because a program on a share may never arrive.
fn give_birth(birth: &Birth<'_>, stack: &mut [u128]) -> nix::Result<Pid> {
    extern "C" fn child(birth: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the pointer is `birth` below, which outlives the child's use of it: the caller keeps it until the report
        // has ended, which is after the last use.
        let Birth { task, argv, env, stdio, report } = unsafe { &*birth.cast_const().cast::<Birth<'_>>() };
        // SAFETY: this is the child, and both pointer lists end with a null.
        unsafe { run_child(task, argv, env, stdio, *report) }
    }
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the child has a stack of its own, of which this is the upper end, aligned to 16 bytes; the caller keeps it
    // as long as the child may use it. It calls `run_child` and nothing else. That function makes system calls only: no
    // allocation, no lock, no destructor, so it changes nothing in the memory it shares but errno. Meanwhile the parent
    // only waits for the report, in calls that do not fail, so it neither reads that errno nor changes it. What other
    // threads (there are some when this is tested) do does not matter. Signal dispositions and descriptors are the
    // child's own copies.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(child, top.cast(), flags, std::ptr::from_ref(birth).cast_mut().cast())
    };
    Errno::result(pid).map(Pid::from_raw)
}

/// The null-terminated pointer list that execve wants.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The step at which a child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Session = 1,
    Terminal,
    Stdio,
    Credentials,
    Cwd,
    Exec,
}

impl Stage {
    fn parse(byte: u8) -> Option<Self> {
        [Self::Session, Self::Terminal, Self::Stdio, Self::Credentials, Self::Cwd, Self::Exec]
            .into_iter()
            .find(|&stage| stage as u8 == byte)
    }
}

/// What the child reported before it became the command, or why it did not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    cwd_error: Option<Errno>,
    failure: Option<(Stage, Errno)>,
}

/// Bytes of one line of the report: the stage and the error number.
const REPORT_LEN: usize = 5;

/// Reads the child's report until exec closes it.
fn read_report(pipe: &OwnedFd) -> nix::Result<Report> {
    let deadline = Instant::now() + EXEC_PATIENCE;
    let mut bytes = Vec::new();
    loop {
        let left = deadline.checked_duration_since(Instant::now()).ok_or(Errno::ETIMEDOUT)?;
        let mut set = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(Errno::ETIMEDOUT),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        let mut chunk = [0; 4 * REPORT_LEN];
        match read(pipe, &mut chunk)? {
            0 => return Ok(parse_report(&bytes)),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}

fn parse_report(bytes: &[u8]) -> Report {
    let mut report = Report::default();
    for line in bytes.chunks_exact(REPORT_LEN) {
        let errno = Errno::from_raw(i32::from_le_bytes([line[1], line[2], line[3], line[4]]));
        match Stage::parse(line[0]) {
            Some(Stage::Cwd) => report.cwd_error = Some(errno),
            stage => report.failure = Some((stage.unwrap_or(Stage::Exec), errno)),
        }
    }
    report
}

/// The sentence for a failure; if the command itself is the cause, in the words of a shell.
fn explain(stage: Stage, errno: Errno, command: &[u8], candidates: &[CString]) -> SpawnError {
    let setup = |what: &str| SpawnError { kind: FailKind::Setup, text: format!("cannot {what}: {}", errno.desc()) };
    match stage {
        Stage::Session => setup("make a session for the command"),
        Stage::Terminal => setup("give the command its terminal"),
        Stage::Stdio => setup("connect the command's input and output"),
        Stage::Credentials => setup("become the user"),
        Stage::Cwd => setup("enter the working directory"),
        Stage::Exec => {
            let (kind, text) = refusal::explain(errno, command, candidates);
            SpawnError { kind, text }
        }
    }
}

/// The child's side: becomes the command, or reports why not and ends.
///
/// # Safety
/// Only for a forked child. `argv` and `env` are null-terminated lists of C strings.
unsafe fn run_child(
    task: &PreparedTask,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
    stdio: &ChildStdio,
    report: RawFd,
) -> ! {
    // SAFETY: system calls on values that live as long as the process; the contract of this
    // function covers argv and env. Nothing here allocates, locks or unwinds.
    unsafe {
        reset_signals();
        // A session of its own, so that signals to the process group reach the command and its children.
        check(libc::setsid(), Stage::Session, report);
        if stdio.is_terminal {
            check(libc::ioctl(stdio.raw[0], libc::TIOCSCTTY, 0), Stage::Terminal, report);
        }
        // The report pipe first: it may sit on 0, 1 or 2 if the agent was started without them.
        let report = libc::fcntl(report, libc::F_DUPFD_CLOEXEC, 10);
        let mut sources = [0; 3];
        for (source, &fd) in sources.iter_mut().zip(&stdio.raw) {
            *source = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10);
            check(*source, Stage::Stdio, report);
        }
        for (target, &source) in sources.iter().enumerate() {
            check(libc::dup2(source, target as RawFd), Stage::Stdio, report);
        }
        // All descriptors of the agent are close-on-exec already; this is a second protection.
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);

        // Set limits while still root: only root may raise them.
        for limit in &task.limits {
            set_limit(limit);
        }
        if let Some(Priority { nice, io }) = task.priority {
            // Best effort, and only for the command's own sake: on the host, QEMU has both already.
            libc::setpriority(libc::PRIO_PROCESS, 0, nice.into());
            libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, libc::c_int::from(io));
        }
        // Set groups before the user: afterwards there is no right to change them.
        let credentials = &task.credentials;
        let is_root = libc::geteuid() == 0;
        if is_root {
            // By system call: glibc's wrappers try to inform other threads, which this process does not have.
            let groups = &credentials.groups;
            check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) as i32, Stage::Credentials, report);
        }
        let (uid, gid) = (credentials.uid, credentials.gid);
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid) as i32, Stage::Credentials, report);
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as i32, Stage::Credentials, report);
        libc::umask(credentials.umask);
        // As the user, because the user's rights decide who may enter a directory. If it fails, go on in /tmp, like
        // srun.
        if libc::chdir(task.cwd.as_ptr()) != 0 {
            send_report(Stage::Cwd, report);
            if libc::chdir(c"/tmp".as_ptr()) != 0 {
                libc::chdir(c"/".as_ptr());
            }
        }
        exec_first(&task.candidates, argv, env);
        send_report(Stage::Exec, report);
        libc::_exit(127)
    }
}

/// Sets a limit, or as much of it as the guest's kernel allows.
///
/// # Safety
/// Only for a forked child.
unsafe fn set_limit(limit: &ResourceLimit) {
    let resource = limit.resource.into();
    let wanted = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
    let mut have = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both structures live through the calls.
    unsafe {
        if libc::setrlimit(resource, &raw const wanted) == 0 || libc::getrlimit(resource, &raw mut have) != 0 {
            return;
        }
        // Nobody may raise it, or the kernel has a limit for it that could not be raised.
        let rlim_max = wanted.rlim_max.min(have.rlim_max);
        let most = libc::rlimit { rlim_cur: wanted.rlim_cur.min(rlim_max), rlim_max };
        libc::setrlimit(resource, &raw const most);
    }
}

/// Tries the candidates as execvp does: skips files that do not exist or must not be executed. If one was
/// refused, the refusal is reported in the end.
///
/// # Safety
/// As [`run_child`]. Returns only on failure, with errno set.
unsafe fn exec_first(candidates: &[CString], argv: &[*const libc::c_char], env: &[*const libc::c_char]) {
    let mut refused = false;
    for file in candidates {
        // To execute what is not there would make and unmake a whole process image first.
        // SAFETY: `file` is a C string; the rest is the caller's contract.
        unsafe {
            if candidates.len() == 1 || libc::access(file.as_ptr(), libc::F_OK) == 0 {
                libc::execve(file.as_ptr(), argv.as_ptr(), env.as_ptr());
            }
        }
        match Errno::last_raw() {
            libc::EACCES => refused = true,
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            _ => return,
        }
    }
    if refused {
        Errno::EACCES.set();
    }
}

/// Default disposition for every signal and none blocked: the agent ignores SIGPIPE (its runtime does) and
/// blocks SIGCHLD, and exec would hand both on.
///
/// # Safety
/// Only for a forked child, whose handlers nobody shares.
unsafe fn reset_signals() {
    // SAFETY: signal and sigprocmask are async-signal-safe; the set is initialised before use.
    unsafe {
        for signo in 1..=64 {
            // KILL, STOP and the two that libc keeps for itself answer EINVAL.
            libc::signal(signo, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Ends the child with a report if `result` is a failure.
///
/// # Safety
/// Only for a forked child.
unsafe fn check(result: libc::c_int, stage: Stage, report: RawFd) {
    if result < 0 {
        // SAFETY: the caller's contract; _exit runs no destructors.
        unsafe {
            send_report(stage, report);
            libc::_exit(127);
        }
    }
}

/// Writes the stage and errno to the agent.
///
/// # Safety
/// Only for a forked child; `report` is its descriptor.
unsafe fn send_report(stage: Stage, report: RawFd) {
    let [a, b, c, d] = Errno::last_raw().to_le_bytes();
    let line: [u8; REPORT_LEN] = [stage as u8, a, b, c, d];
    // SAFETY: `line` lives through the call. A pipe takes five bytes whole or not at all.
    unsafe { libc::write(report, line.as_ptr().cast(), line.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_the_failure_from_the_directory_that_was_missing() {
        assert_eq!(parse_report(b""), Report::default());
        let cwd = [5, 2, 0, 0, 0];
        assert_eq!(parse_report(&cwd), Report { cwd_error: Some(Errno::ENOENT), failure: None });
        let both = [cwd, [6, 13, 0, 0, 0]].concat();
        let failure = Some((Stage::Exec, Errno::EACCES));
        assert_eq!(parse_report(&both), Report { cwd_error: Some(Errno::ENOENT), failure });
    }

    #[test]
    fn what_the_agent_cannot_do_is_not_the_command_s_fault() {
        assert_eq!(explain(Stage::Credentials, Errno::EPERM, b"foo", &[]).kind, FailKind::Setup);
        assert_eq!(explain(Stage::Exec, Errno::ENOENT, b"foo", &[]).kind, FailKind::NotFound);
    }
}
