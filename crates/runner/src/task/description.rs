//! The user's command as it is described to the agent: everything that a bare-metal task has,
//! except what makes no sense in a guest.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, Gid, access, getgroups};

use super::command::Command;
use super::connection::Connection;
use super::environment::{self, Server, Surroundings};
use super::inherited::Inherited;
use super::person::{Person, Zone};
use super::pmix_server::{CONNECTIONS, PmixServer};
use super::socket::Socket;
use super::way::Way;
use crate::error::{Blame, Context, Fault, RunError};
use crate::limits::{self, Limit};
use crate::names::{name_of_node_vm, name_of_vm};
use crate::network::Network;
use crate::session::{Address, wall_clock};
use crate::shares::{Alias, Own, Role, Share, View};
use image::Links;
use proto::{DATA_CHUNK, ToGuest};
use request::{Asked, EnvEntry};

/// Bytes of host entropy that every guest gets before its command runs.
const ENTROPY_BYTES: usize = 64;

/// Directories with programs, for a command that has no environment of its own.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Tells MPICH not to look for ranks in its own memory.
const NO_LOCAL: &str = "MPIR_CVAR_NOLOCAL=";

/// The command with everything that a task inherits.
#[derive(Debug)]
pub struct Task {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    /// Variables that the user asked for.
    variables: Vec<EnvEntry>,
    cwd: PathBuf,
    person: Person,
    zone: Option<Zone>,
    gid: Gid,
    groups: Vec<Gid>,
    umask: u32,
    limits: &'static [Limit],
    script: Option<Vec<u8>>,
    terminal: Option<(u16, u16)>,
    /// stdout and stderr of the task are one file, so their order must be kept.
    merge_stderr: bool,
    /// The home directory is the VM's alone and is made there, if the image has none.
    has_home_in_vm: bool,
    /// What it has besides its streams: its way to Slurm's PMI server.
    sockets: Vec<Inherited>,
    /// Its way to Slurm's PMIx server.
    pmix: Option<PmixServer>,
}

impl Task {
    /// Describes a command as this process would run it: same user, groups, directory, environment and limits.
    ///
    /// # Errors
    /// When the working directory or the script cannot be read.
    pub fn from_this_process(command: &Command) -> Result<Self, RunError> {
        let mut argv = command.argv.clone();
        let groups = getgroups()?;
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
        Ok(Self {
            argv,
            env,
            variables: Vec::new(),
            cwd,
            person: Person::of_this_process(Gid::current(), &groups)?,
            zone: Zone::of_host(),
            gid: Gid::current(),
            groups,
            umask: take_umask(),
            limits: limits::of_task(),
            script,
            terminal: None,
            merge_stderr: false,
            has_home_in_vm: false,
            sockets: Vec::new(),
            pmix: None,
        })
    }

    /// Describes a program of the agent itself, as root in a guest without an image and without user accounts.
    pub fn of_helper(argv: Vec<OsString>) -> Self {
        Self {
            argv,
            env: Vec::new(),
            variables: Vec::new(),
            cwd: "/".into(),
            person: Person::root(),
            zone: None,
            gid: Gid::from_raw(0),
            groups: Vec::new(),
            umask: 0o022,
            limits: &[],
            script: None,
            terminal: None,
            merge_stderr: false,
            has_home_in_vm: false,
            sockets: Vec::new(),
            pmix: None,
        }
    }

    /// Describes a command of an ordinary user whom nobody knows, in this home.
    pub fn of_somebody(argv: Vec<OsString>, home: &Path) -> Self {
        let person = Person::somebody(home);
        let of_user = [("HOME", home.as_os_str()), ("USER", OsStr::new(&person.user.name)), ("PATH", OsStr::new(PATH))];
        let env = of_user.map(|(name, value)| (name.into(), value.to_owned())).into();
        let (cwd, gid, zone) = (home.to_owned(), person.user.gid, Zone::of_host());
        Self { env, cwd, person, zone, gid, limits: limits::of_task(), ..Self::of_helper(argv) }
    }

    /// Gives the command a terminal of this size.
    pub fn set_terminal(&mut self, size: (u16, u16)) {
        self.terminal = Some(size);
    }

    /// Makes the command root in the guest, with root's home and name. On shares it still acts as
    /// the user, because QEMU does the work there.
    pub fn run_as_root(&mut self) {
        self.person = Person::root();
        self.has_home_in_vm = true;
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

    /// Whether lines of the command's output get numbers. On a terminal the program in the VM controls where lines begin.
    pub fn has_labels(&self, asked: &Asked) -> bool {
        asked.vm_label == Some(true) && !self.has_terminal()
    }

    /// Makes the command's stderr the same file as its stdout.
    pub fn merge_stderr(&mut self) {
        self.merge_stderr = true;
    }

    /// Whether it is the first task of its step.
    pub fn is_first(&self) -> bool {
        self.number("SLURM_PROCID") == Some(0_u32)
    }

    fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.variable(name)?.to_str()?.parse().ok()
    }

    /// Takes the task's way to Slurm's PMI server, for a command that is the only one of its task. Returns why the commands
    /// will not have the interface for MPI programs that the step has, if it has several tasks: one alone needs none.
    pub fn take_mpi(&mut self, is_only: bool) -> Option<&'static str> {
        let pmi = self.number("PMI_FD").and_then(Inherited::take);
        let pmix = PmixServer::of(|name| self.variable(name));
        let lost = match (&pmi, &pmix) {
            (Some(_), _) if !is_only => {
                Some("pmi2 reaches into no slot of several VMs: use a task for each VM (--ntasks)")
            }
            (_, Some(_)) if !is_only => {
                Some("pmix reaches into no slot of several VMs: use a task for each VM (--ntasks)")
            }
            (_, Some(Err(()))) => Some(
                "pmix reaches into no VM, because this node's PMIx is older than 4.1 or not at a port of 127.0.0.1: use --mpi=pmi2, which needs neither",
            ),
            _ => None,
        };
        self.sockets = pmi.into_iter().filter(|_| is_only).collect();
        self.pmix = pmix.and_then(Result::ok).filter(|_| is_only && self.sockets.is_empty());
        lost.filter(|_| self.number("SLURM_NTASKS").is_some_and(|tasks: u32| tasks > 1))
    }

    /// Its ways to Slurm, for one attempt to run it.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(super) fn ways(&self) -> io::Result<Vec<Way>> {
        if let Some(server) = &self.pmix {
            return Ok((0..CONNECTIONS).map(|place| Way::Connection(Connection::new(place, server))).collect());
        }
        (0..).zip(&self.sockets).map(|(place, socket)| Socket::new(place, socket).map(Way::Socket)).collect()
    }

    /// Gives the user a home that ends with the VM: the site does not want to share the real one.
    pub fn keep_home_in_vm(&mut self) {
        self.has_home_in_vm = true;
    }

    /// The user's directories that a guest should see: home, submit directory, working directory; then other names
    /// that they may have.
    pub fn own_directories(&self, share_home: bool) -> Vec<Own> {
        let named = |name| self.variable(name).map(PathBuf::from);
        let all = [
            (Role::Home, share_home.then(|| self.person.user.dir.clone())),
            (Role::Submit, named("SLURM_SUBMIT_DIR")),
            (Role::Work, Some(self.cwd.clone())),
            (Role::Name, named("HOME")),
            (Role::Name, named("PWD")),
        ];
        all.into_iter().filter_map(|(role, path)| Some(Own { role, path: path? })).collect()
    }

    /// Host name of VM number `index` of `vms`.
    pub fn hostname(&self, index: u32, vms: u32) -> String {
        match (self.number("SLURM_JOB_ID"), self.number("SLURM_PROCID"), self.number("SLURM_NODEID")) {
            (Some(job), Some(rank), _) => name_of_vm(job, rank, index, vms),
            // The keeper of a node's VM is no task.
            (Some(job), None, Some(node)) => name_of_node_vm(job, node),
            _ if vms > 1 => format!("vm-{index}"),
            _ => "vm".to_owned(),
        }
    }

    fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// The messages that describe the user of this process with their home's place, and the node's time zone, to a guest; they
    /// are the same for all jobs.
    pub fn introduction(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(zone) = &self.zone {
            zone.message().encode(0, &mut out);
        }
        // Only what is the same for all jobs: a job may have other groups than the last one.
        if let Ok(person) = Person::without_job() {
            person.introduce(|message| message.encode(0, &mut out));
            let (uid, gid) = (person.user.uid.as_raw(), person.user.gid.as_raw());
            ToGuest::Credentials { uid, gid, umask: 0o022, groups: Vec::new() }.encode(0, &mut out);
            // Where the home will be mounted, if it can be. A home behind links would be another place in the guest.
            let home = &person.user.dir;
            let is_there = home.canonicalize().is_ok_and(|real| real == *home && real.is_dir());
            let may_enter = || access(home, AccessFlags::R_OK | AccessFlags::X_OK).is_ok();
            if home.parent().is_some() && is_there && may_enter() {
                ToGuest::Home(home.as_os_str().as_bytes()).encode(0, &mut out);
            }
        }
        out
    }

    /// What concerns the machine: who it is, and what it sees of the host.
    fn describe_machine(&self, guest: &Guest<'_>, at: Address, vms: u32, out: &mut Vec<u8>) -> Result<(), RunError> {
        let mut send = |message: ToGuest<'_>| message.encode(at.task, out);
        let index = at.vm as u32;
        send(wall_clock());
        // Before the name, which is then known by its address in the network.
        if let Some(network) = guest.network {
            network.introduce(at.vm, &mut send);
        }
        let name = guest.network.and_then(Network::own_name).unwrap_or_else(|| self.hostname(index, vms));
        send(ToGuest::Hostname(name.as_bytes()));
        send(ToGuest::Entropy(&host_entropy()?));
        for (path, target) in guest.links.iter() {
            let (path, target) = (path.as_os_str().as_bytes(), target.as_os_str().as_bytes());
            send(ToGuest::Link { path, target });
        }
        for (number, share @ Share { target, read_only, .. }) in (0..).zip(guest.shares) {
            let (path, file) = (target.as_os_str().as_bytes(), share.served().1.as_bytes());
            send(ToGuest::Share { number, path, file, read_only: *read_only });
        }
        for Alias { path, target } in guest.aliases {
            send(ToGuest::Alias { path: path.as_os_str().as_bytes(), target: target.as_os_str().as_bytes() });
        }
        if let Some(zone) = &self.zone {
            send(zone.message());
        }
        Ok(())
    }

    /// What concerns the command.
    fn describe_command(&self, guest: &Guest<'_>, at: Address, vms: u32, out: &mut Vec<u8>) {
        let mut send = |message: ToGuest<'_>| message.encode(at.task, out);
        let index = at.vm as u32;
        self.person.introduce(&mut send);
        let groups = self.groups.iter().map(|gid| gid.as_raw()).collect();
        let (uid, gid) = (self.person.user.uid.as_raw(), self.gid.as_raw());
        send(ToGuest::Credentials { uid, gid, umask: self.umask, groups });
        if self.has_home_in_vm {
            send(ToGuest::Home(self.person.user.dir.as_os_str().as_bytes()));
        }
        for &Limit { resource, soft, hard } in self.limits {
            send(ToGuest::Rlimit { resource, soft, hard });
        }
        send(priority());
        send(ToGuest::Cwd(self.cwd.as_os_str().as_bytes()));
        for arg in &self.argv {
            send(ToGuest::Arg(arg.as_bytes()));
        }
        let has_pmi = !self.sockets.is_empty();
        let pmix = self.pmix.as_ref().map(|server| Server { address: server.in_guest, is_shared: guest.is_described });
        let surroundings = Surroundings { seen: guest.view(), processors: guest.processors, has_pmi, pmix };
        let pairs = self.guest_environment(index, vms, surroundings);
        pairs.iter().for_each(|pair| send(ToGuest::Env(pair.as_bytes())));
        if let Some(hosts) = guest.network.and_then(Network::hosts) {
            send(ToGuest::Env(format!("SLURM_VM_HOSTS={hosts}").as_bytes()));
        }
        // Slurm's PMI says which ranks share a node, and MPICH would look for those in memory of its own VM.
        let are_apart = guest.network.is_some_and(Network::separates_ranks);
        let is_said = pairs.iter().any(|pair| pair.as_bytes().starts_with(NO_LOCAL.as_bytes()));
        if has_pmi && are_apart && !is_said {
            send(ToGuest::Env(format!("{NO_LOCAL}1").as_bytes()));
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
        self.sockets.iter().for_each(|socket| send(ToGuest::Socket(socket.number)));
        if let Some(there) = self.pmix.as_ref().map(|server| server.in_guest) {
            let (address, port) = (there.ip().octets(), there.port());
            send(ToGuest::Listener { address, port, connections: CONNECTIONS });
        }
        send(ToGuest::Start);
    }

    /// The task's environment as the command in the guest gets it.
    fn guest_environment(&self, index: u32, vms: u32, there: Surroundings<'_>) -> Vec<OsString> {
        let vars = environment::for_guest(&self.env, &self.variables, there);
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
    /// Other names of these directories.
    pub aliases: &'a [Alias],
    /// The image's links into these shares.
    pub links: &'a Links,
    /// Their network.
    pub network: Option<&'a Network>,
    /// Number of processors for the command.
    pub processors: u32,
    /// The same, if the guests have more.
    pub cpus: Option<u16>,
    /// Bytes of memory that are plugged into each guest in addition to its template's.
    pub memory: Option<u64>,
    /// Somebody else describes the machine.
    pub is_described: bool,
}

impl Guest<'_> {
    fn view(&self) -> View<'_> {
        View { shares: self.shares, aliases: self.aliases }
    }

    /// The messages that make one of `vms` VMs run the command.
    ///
    /// # Errors
    /// When the host's random generator cannot be read.
    pub fn describe(&self, at: Address, vms: u32) -> Result<Vec<u8>, RunError> {
        let mut out = if self.is_described { Vec::new() } else { self.describe_machine(at, vms)? };
        self.task.describe_command(self, at, vms, &mut out);
        Ok(out)
    }

    /// Those of them that concern the VM, whatever runs in it.
    ///
    /// # Errors
    /// As [`Guest::describe`].
    pub fn describe_machine(&self, at: Address, vms: u32) -> Result<Vec<u8>, RunError> {
        let mut out = Vec::new();
        if let Some(count) = self.cpus {
            ToGuest::Cpus(count).encode(at.task, &mut out);
        }
        if let Some(bytes) = self.memory {
            ToGuest::Memory(bytes).encode(at.task, &mut out);
        }
        self.task.describe_machine(self, at, vms, &mut out)?;
        Ok(out)
    }
}

fn pair(name: &OsStr, value: &OsStr) -> OsString {
    let mut pair = name.to_owned();
    pair.push("=");
    pair.push(value);
    pair
}

fn host_entropy() -> Result<[u8; ENTROPY_BYTES], RunError> {
    let mut bytes = [0; ENTROPY_BYTES];
    File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).context("/dev/urandom")?;
    Ok(bytes)
}

/// The task's file mode creation mask. From then on this process's own files are kept from nobody but others: a mask that
/// takes everything from their owner would leave templates that cannot be used.
fn take_umask() -> u32 {
    static OF_TASK: OnceLock<u32> = OnceLock::new();
    *OF_TASK.get_or_init(|| {
        // It can be read only by setting it; nothing else runs in this process.
        let mask = umask(Mode::empty());
        umask(mask & (Mode::S_IRWXG | Mode::S_IRWXO));
        mask.bits()
    })
}

/// How this process competes with others in its guest.
fn priority() -> ToGuest<'static> {
    let (nice, io) = limits::priority();
    ToGuest::Priority { nice, io }
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
        let there = Surroundings { seen: View::default(), processors: 1, has_pmi: false, pmix: None };
        let env = task(&[("A", "line\nline=\u{e9}")]).guest_environment(1, 3, there);
        let env: Vec<_> = env.iter().map(|pair| pair.to_str().unwrap()).collect();
        assert_eq!(env[0], "A=line\nline=\u{e9}");
        assert_eq!(env[env.len() - 2..], ["SLURM_VM_INDEX=1", "SLURM_VMS_PER_SLOT=3"]);
    }

    #[test]
    fn hostnames_tell_job_task_and_vm_apart() {
        let task_of_job = task(&[("SLURM_JOB_ID", "12"), ("SLURM_PROCID", "3")]);
        assert_eq!(task_of_job.hostname(0, 1), "vm12-3");
        assert_eq!(task_of_job.hostname(2, 4), "vm12-3-2");
        let of_node = task(&[("SLURM_JOB_ID", "12"), ("SLURM_NODEID", "1")]);
        assert_eq!(of_node.hostname(0, 1), "vm12-n1");
        assert_eq!(task(&[]).hostname(0, 1), "vm");
    }
}
