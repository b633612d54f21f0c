//! The user's command as it is described to the agent: everything that a bare-metal task has,
//! except what makes no sense in a guest.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, User, getgroups};

use super::command::Command;
use super::environment;
use crate::error::{Blame, Context, Fault, RunError};
use crate::session::Address;
use image::Links;
use proto::{DATA_CHUNK, ToGuest, Transport};
use qemu::Share;
use request::EnvEntry;

/// Bytes of host entropy that every guest gets before its command runs.
const ENTROPY_BYTES: usize = 64;

/// The command with everything that a task inherits.
#[derive(Debug)]
pub struct Task {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    /// Variables that the user asked for.
    variables: Vec<EnvEntry>,
    cwd: PathBuf,
    user: User,
    gid: Gid,
    groups: Vec<Gid>,
    umask: u32,
    script: Option<Vec<u8>>,
    terminal: Option<(u16, u16)>,
    /// stdout and stderr of the task are one file, so their order must be kept.
    merge_stderr: bool,
}

impl Task {
    /// Describes a command as this process would run it: same user, groups, directory, environment and limits.
    ///
    /// # Errors
    /// When the working directory or the script cannot be read.
    pub fn from_this_process(command: &Command) -> Result<Self, RunError> {
        let mut argv = command.argv.clone();
        let uid = Uid::current();
        let env: Vec<_> = std::env::vars_os().collect();
        let script = match argv.first() {
            Some(path) if command.batch_script => {
                let script = std::fs::read(path).blame(Fault::User);
                Some(script.with_context(|| format!("batch script {}", Path::new(path).display()))?)
            }
            _ => None,
        };
        let cwd = std::env::current_dir().blame(Fault::User).context("the working directory")?;
        // As slurmstepd shows it to a bare-metal command.
        if let Some(program) = argv.first_mut().filter(|word| word.as_bytes().contains(&b'/')) {
            *program = cwd.join(&*program).into_os_string();
        }
        if let (Some(_), Some(program), Some(path)) = (&script, argv.first_mut(), &command.script_path) {
            *program = path.into();
        }
        // The mask can be read only by setting it; nothing else runs in this process.
        let mask = umask(Mode::empty());
        umask(mask);
        Ok(Self {
            argv,
            env,
            variables: Vec::new(),
            cwd,
            user: User::from_uid(uid)?.unwrap_or_else(|| nameless(uid)),
            gid: Gid::current(),
            groups: getgroups()?,
            umask: mask.bits(),
            script,
            terminal: None,
            merge_stderr: false,
        })
    }

    /// Describes a program of the agent itself, as root in a guest without an image and without user accounts.
    pub fn of_helper(argv: Vec<OsString>) -> Self {
        let root = Uid::from_raw(0);
        Self {
            argv,
            env: Vec::new(),
            variables: Vec::new(),
            cwd: "/".into(),
            user: User { name: "root".into(), ..nameless(root) },
            gid: Gid::from_raw(0),
            groups: Vec::new(),
            umask: 0o022,
            script: None,
            terminal: None,
            merge_stderr: false,
        }
    }

    /// Gives the command a terminal of this size.
    pub fn set_terminal(&mut self, size: (u16, u16)) {
        self.terminal = Some(size);
    }

    /// Makes the command root in the guest, with root's home and name. On shares it still acts as
    /// the user, because QEMU does the work there.
    pub fn run_as_root(&mut self) {
        let root = Uid::from_raw(0);
        self.user = User { name: "root".into(), dir: "/root".into(), shell: "/bin/sh".into(), ..nameless(root) };
        (self.gid, self.groups) = (Gid::from_raw(0), Vec::new());
        for (name, value) in [("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root")] {
            self.env.retain(|(key, _)| key != name);
            self.env.push((name.into(), value.into()));
        }
    }

    /// Gives the command these variables in spite of the rules for the environment.
    pub fn set_variables(&mut self, variables: Vec<EnvEntry>) {
        self.variables = variables;
    }

    /// Whether the command gets a terminal.
    pub fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Makes the command's stderr the same file as its stdout.
    pub fn merge_stderr(&mut self) {
        self.merge_stderr = true;
    }

    /// The user's directories that a guest should see: home, submit directory, working directory.
    pub fn own_directories(&self, share_home: bool) -> Vec<PathBuf> {
        let submit_dir = self.variable("SLURM_SUBMIT_DIR").map(PathBuf::from);
        let home = share_home.then(|| self.user.dir.clone());
        [home, submit_dir, Some(self.cwd.clone())].into_iter().flatten().collect()
    }

    /// Host name of VM number `index` of `vms`.
    pub fn hostname(&self, index: u32, vms: u32) -> String {
        let number = |name| self.variable(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        let mut name = match (number("SLURM_JOB_ID"), number("SLURM_PROCID")) {
            (Some(job), Some(rank)) => format!("vm{job}-{rank}"),
            _ => "vm".to_owned(),
        };
        if vms > 1 {
            name.push_str(&format!("-{index}"));
        }
        name
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// The messages that describe the user of this process to a guest; they are the same for all jobs.
    pub fn introduction(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let uid = Uid::current();
        let user = User::from_uid(uid).ok().flatten().unwrap_or_else(|| nameless(uid));
        user_message(&user).encode(0, &mut out);
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        ToGuest::Credentials { uid, gid, umask: 0o022, groups: Vec::new() }.encode(0, &mut out);
        out
    }

    fn describe(&self, guest: &Guest<'_>, at: Address, vms: u32, out: &mut Vec<u8>) -> Result<(), RunError> {
        let mut send = |message: ToGuest<'_>| message.encode(at.task, out);
        let index = at.vm as u32;
        send(clock());
        send(ToGuest::Hostname(self.hostname(index, vms).as_bytes()));
        send(ToGuest::Entropy(&host_entropy()?));
        for (path, target) in guest.links.iter() {
            let (path, target) = (path.as_os_str().as_bytes(), target.as_os_str().as_bytes());
            send(ToGuest::Link { path, target });
        }
        for (number, Share { target, read_only, .. }) in (0..).zip(guest.shares) {
            let (transport, path) = (guest.transport, target.as_os_str().as_bytes());
            send(ToGuest::Share { transport, number, path, read_only: *read_only });
        }
        send(user_message(&self.user));
        let groups = self.groups.iter().map(|gid| gid.as_raw()).collect();
        let (uid, gid) = (self.user.uid.as_raw(), self.gid.as_raw());
        send(ToGuest::Credentials { uid, gid, umask: self.umask, groups });
        for (resource, soft, hard) in limits() {
            send(ToGuest::Rlimit { resource, soft, hard });
        }
        send(ToGuest::Cwd(self.cwd.as_os_str().as_bytes()));
        for arg in &self.argv {
            send(ToGuest::Arg(arg.as_bytes()));
        }
        for pair in self.guest_environment(index, vms, guest.shares) {
            send(ToGuest::Env(pair.as_bytes()));
        }
        if let (Some(script), Some(path)) = (&self.script, self.argv.first()) {
            send(ToGuest::File { mode: 0o700, path: path.as_bytes() });
            script.chunks(DATA_CHUNK).for_each(|part| send(ToGuest::FileData(part)));
        }
        if let Some((rows, cols)) = self.terminal {
            send(ToGuest::Pty { rows, cols });
        }
        if self.merge_stderr {
            send(ToGuest::MergeStderr);
        }
        send(ToGuest::Start);
        Ok(())
    }

    /// The task's environment as the command in the guest gets it.
    fn guest_environment(&self, index: u32, vms: u32, shares: &[Share]) -> Vec<OsString> {
        let vars = environment::for_guest(&self.env, &self.variables, shares);
        let mut pairs: Vec<OsString> = vars.iter().map(|(name, value)| pair(name, value)).collect();
        pairs.push(format!("SLURM_VM_INDEX={index}").into());
        pairs.push(format!("SLURM_VMS_PER_SLOT={vms}").into());
        pairs
    }
}

/// What the guests of a task get before its command runs in them.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// The command.
    pub task: &'a Task,
    /// The host directories they see.
    pub shares: &'a [Share],
    /// How their files get there.
    pub transport: Transport,
    /// The image's links into these shares.
    pub links: &'a Links,
    /// Number of processors for the command, if the guests have more.
    pub cpus: Option<u16>,
    /// Bytes of memory that are plugged into each guest in addition to its template's.
    pub memory: Option<u64>,
}

impl Guest<'_> {
    /// The messages that make one of `vms` VMs run the command.
    ///
    /// # Errors
    /// When the host's random generator cannot be read.
    pub fn describe(&self, at: Address, vms: u32) -> Result<Vec<u8>, RunError> {
        let mut out = Vec::new();
        if let Some(count) = self.cpus {
            ToGuest::Cpus(count).encode(at.task, &mut out);
        }
        if let Some(bytes) = self.memory {
            ToGuest::Memory(bytes).encode(at.task, &mut out);
        }
        self.task.describe(self, at, vms, &mut out)?;
        Ok(out)
    }
}

/// The message that sets a guest's clock to this host's.
pub fn clock() -> ToGuest<'static> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ToGuest::Clock(now.as_nanos() as u64)
}

fn user_message(user: &User) -> ToGuest<'_> {
    ToGuest::User {
        name: user.name.as_bytes(),
        home: user.dir.as_os_str().as_bytes(),
        shell: user.shell.as_os_str().as_bytes(),
    }
}

fn pair(name: &OsStr, value: &OsStr) -> OsString {
    let mut pair = name.to_owned();
    pair.push("=");
    pair.push(value);
    pair
}

/// A uid without an account still runs jobs.
fn nameless(uid: Uid) -> User {
    User {
        name: format!("uid{uid}"),
        passwd: c"x".to_owned(),
        uid,
        gid: Gid::current(),
        gecos: c"".to_owned(),
        dir: "/".into(),
        shell: "/bin/sh".into(),
    }
}

fn host_entropy() -> Result<[u8; ENTROPY_BYTES], RunError> {
    let mut bytes = [0; ENTROPY_BYTES];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).context("/dev/urandom")?;
    Ok(bytes)
}

/// The resource limits that Slurm or the user set for this task, by their Linux numbers.
fn limits() -> impl Iterator<Item = (u8, u64, u64)> {
    let resources = [
        Resource::RLIMIT_CPU,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_DATA,
        Resource::RLIMIT_STACK,
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_NPROC,
        Resource::RLIMIT_NOFILE,
        Resource::RLIMIT_MEMLOCK,
        Resource::RLIMIT_AS,
    ];
    resources.into_iter().filter_map(|resource| {
        let (soft, hard) = getrlimit(resource).ok()?;
        Some((resource as u8, soft, hard))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(env: &[(&str, &str)]) -> Task {
        let env = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Task { env, ..Task::from_this_process(&vec!["true".into()].into()).unwrap() }
    }

    #[test]
    fn every_vm_of_a_slot_is_told_its_number() {
        let env = task(&[("A", "line\nline=\u{e9}")]).guest_environment(1, 3, &[]);
        let env: Vec<_> = env.iter().map(|pair| pair.to_str().unwrap()).collect();
        assert_eq!(env, ["A=line\nline=\u{e9}", "SLURM_VM_INDEX=1", "SLURM_VMS_PER_SLOT=3"]);
    }

    #[test]
    fn hostnames_tell_job_task_and_vm_apart() {
        let task_of_job = task(&[("SLURM_JOB_ID", "12"), ("SLURM_PROCID", "3")]);
        assert_eq!(task_of_job.hostname(0, 1), "vm12-3");
        assert_eq!(task_of_job.hostname(2, 4), "vm12-3-2");
        assert_eq!(task(&[]).hostname(0, 1), "vm");
    }
}
