//! The runner: the host process that becomes the Slurm task and owns the VMs of its slot.
//!
//! ```text
//! slot ─► plan (memory, processors) ─► shares ─► start: accelerator ─► template ─► for each VM: scratch ─► qemu
//!      ─► relay (poll loop: stdio, signals, channel of each vm) ─► how it ended
//! ```
//!
//! Single-threaded; every wait is in the relay's poll and has a deadline until the command runs.
//! Whatever way this process dies, its VMs die with it (`PR_SET_PDEATHSIG`) and their disks have no
//! name that could be left behind.

// println! and eprintln! panic when nobody reads any more.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod config;
pub mod delivery;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod helper;
mod install;
mod job;
pub mod limits;
mod lock;
pub mod log;
pub mod notice;
mod plan;
mod relay;
mod save;
mod session;
mod shares;
mod signals;
mod start;
mod task;
pub mod template;
mod this_node;
mod timing;
mod trust;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use self::delivery::{Delivered, Disk};
use self::error::{Blame, Context, Fault, RunError, ensure};
use self::plan::SlotResources;
use self::signals::{Signal, Signals};
use self::start::{Attempt, Outcome, Policy, Started, Timeouts, source};
use self::task::{End, RawTerminal, Task, same_file, terminal_size};
use crate::config::{AccelChoice, Config};
use image::kit::Kit;
use image::{Image, ImageError, runs_here};
use proto::{ExitStatus, FailKind};
use qemu::{Accel, BootSource, MachineType, Share, VmSize, scratch};
use request::{Asked, ImageName, ImageRef, JobRef};

pub use self::install::{InstallOptions, Installed, image_of_disk, install_agent};
pub use self::save::SaveAs;
pub use self::signals::die_by;
pub use self::start::{Prebuilt, limits_of_users, prebuild};

/// A start that takes longer than this is announced to a person who waits at a terminal.
const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// A slot and what is to run in it.
#[derive(Debug)]
pub struct Slot {
    /// The site's configuration.
    pub config: Config,
    /// The image asked for.
    pub image: ImageRef,
    /// The job, where there is one.
    pub job: Option<JobRef>,
    /// What is asked for beside the image. Its `vm_save` has become [`Slot::save`].
    pub asked: Asked,
    /// Memory of the whole slot, where it is limited.
    pub memory: Option<limits::Memory>,
    /// Image that the first VM's root becomes if its command succeeds.
    pub save: Option<SaveAs>,
    /// The command; empty is an error.
    pub argv: Vec<OsString>,
    /// `argv[0]` is a batch script that exists on the host only.
    pub batch_script: bool,
    /// Where the guest has that script, if not at the same path.
    pub script_path: Option<PathBuf>,
    /// Print the phases of each VM to stderr at the end.
    pub timing: bool,
    /// When the work for this slot began.
    pub begin: Instant,
}

impl Slot {
    /// One VM of this image for this command, as the site has it; its work begins now.
    pub fn plain(config: Config, image: ImageRef, argv: Vec<OsString>) -> Self {
        Self {
            config,
            image,
            job: None,
            asked: Asked::default(),
            memory: None,
            save: None,
            argv,
            batch_script: false,
            script_path: None,
            timing: false,
            begin: Instant::now(),
        }
    }
}

/// What a slot's VMs are made of: everything that is looked up once.
struct Parts {
    image: Image,
    source: BootSource,
    disk: Disk,
    qemu: PathBuf,
    machine: MachineType,
    size: VmSize,
    timeouts: Timeouts,
    shares: Vec<Share>,
    task: Task,
}

/// What came of looking everything up.
enum Prepared {
    Parts(Box<Parts>),
    /// A signal came that ends the task.
    Interrupted(Signal),
}

/// Runs the command in the slot's VMs and says how it ended: the highest exit code of all VMs.
///
/// # Errors
/// When a VM could not be started or broke; the text is for the user. Nothing is left behind.
pub fn run(slot: &Slot) -> Result<ExitStatus, RunError> {
    run_by(slot, Policy::of).map(|ended| ended.outcome)
}

/// The same with another policy for accelerators; says how the VMs came up, if they did.
fn run_by(slot: &Slot, policy: impl FnOnce(&Config, &Path) -> Policy) -> Result<Started<ExitStatus>, RunError> {
    let signals = Signals::watch().context("signals")?;
    let interrupted = |signal| Started { outcome: ExitStatus::Signal(signal), accel: Accel::Tcg, proven: false };
    let mut parts = match prepare(slot, &signals)? {
        Prepared::Parts(parts) => *parts,
        Prepared::Interrupted(signal) => return Ok(interrupted(signal)),
    };
    let terminal = enter_terminal(&mut parts.task)?;
    let attempt = |attempt: &Attempt<'_>| start::run(slot, &parts, &signals, attempt);
    let policy = policy(&slot.config, &parts.qemu);
    let Started { outcome, accel, proven } = policy.start(parts.timeouts, attempt, Outcome::never_came_up)?;
    drop(terminal);
    Ok(match outcome {
        Outcome::Died(signal) => interrupted(signal),
        Outcome::Ended(ends) => Started { outcome: conclude(slot, &ends, proven), accel, proven },
    })
}

/// Looks up everything the VMs need; all that can be wrong with a request or a node shows here.
fn prepare(slot: &Slot, signals: &Signals) -> Result<Prepared, RunError> {
    let Slot { config, asked, .. } = slot;
    let vms = asked.vms();
    ensure!(!slot.argv.is_empty(), Fault::User, "no command to run");
    ensure!(
        vms <= config.max_vms_per_slot,
        Fault::User,
        "--vms-per-slot={vms}: this site allows at most {} ('max_vms_per_slot')",
        config.max_vms_per_slot
    );
    let image = match config.catalogue().resolve(&slot.image) {
        Err(error @ ImageError::Directory { .. }) => return Err(error).blame_node(),
        found => found?,
    };
    if image.entry.allow.depends_on_job() {
        let facts =
            job::facts(slot.job.as_ref()).blame(Fault::System).with_context(|| format!("image '{}'", image.name))?;
        let refused = |refusal| ImageError::Refused { name: image.name.clone(), refusal };
        image.entry.allow.permits_job(&facts).map_err(refused)?;
    }
    ensure!(
        runs_here(&image.entry.arch),
        Fault::Image,
        "image '{}' is for {}, this node is {}",
        image.name,
        image.entry.arch,
        std::env::consts::ARCH
    );
    let source = source::of(&image, config)?;
    ensure!(
        slot.save.is_none() || matches!(source, BootSource::Kit(_)),
        Fault::User,
        "image '{}' boots its own kernel (boot = \"full\"): a VM of it cannot be saved",
        image.name
    );
    let qemu = config.qemu_path().blame_node()?;
    let cpus = limits::processors().blame(Fault::System)?;
    let size = plan::divide(&SlotResources {
        vms,
        memory: slot.memory.clone(),
        default_mib: config.default_memory_mib,
        overhead_mib: config.memory_overhead_mib + if slot.save.is_some() { save::OVERHEAD_MIB } else { 0 },
        cpus,
        wanted_mib: asked.vm_mem,
        wanted_cpus: asked.vm_cpus,
    })
    .blame(Fault::User)?;
    let mut task = Task::from_this_process(slot.argv.clone(), slot.batch_script).blame(Fault::User)?;
    let own = task.own_directories(config.share_home);
    if asked.vm_root == Some(true) {
        task.run_as_root();
    }
    if let Some(path) = &slot.script_path {
        task.move_script(path);
    }
    task.set_variables(asked.vm_env.clone().unwrap_or_default());
    let mounts = asked.vm_mount.as_deref().unwrap_or_default();
    for mount in mounts {
        ensure!(
            mount.source.is_dir(),
            Fault::User,
            "--vm-mount={mount}: {} is no directory on {}",
            mount.source.display(),
            this_node::name()
        );
    }
    let mut shares = shares::choose(&[mounts, config.shares.as_slice()].concat(), &own);
    if !image.entry.full_boot().shares {
        ensure!(
            mounts.is_empty(),
            Fault::User,
            "--vm-mount: the kernel of image '{}' cannot mount host directories",
            image.name
        );
        notice::line(&format!(
            "warning: the kernel of image '{}' cannot mount host directories; none is there",
            image.name
        ));
        shares.clear();
    }
    for (path, _) in image.entry.links.iter() {
        // It would be made on the host.
        if let Some(share) = shares.iter().find(|share| path.starts_with(&share.target)) {
            let (link, share) = (path.display(), share.target.display());
            let why = format!(
                "image '{}': its link {link} would lie in the share {share}; correct [links] in its entry",
                image.name
            );
            return Err(RunError::new(Fault::Image, why));
        }
    }
    let machine = source::machine(&source, config.machine);
    // VMs that share a processor boot one after the other in effect.
    let turns = vms.div_ceil(cpus);
    let timeouts = source::timeouts(&source, config, turns);
    // Last: it may take as long as a copy of the image does.
    let notice_at = io::stderr().is_terminal().then(|| slot.begin + NOTICE_AFTER);
    let disk = match delivery::deliver(&image, &delivery::Terms::of(config, signals, notice_at))? {
        Delivered::Disk(disk) => disk,
        Delivered::Interrupted(signal) => return Ok(Prepared::Interrupted(signal)),
    };
    Ok(Prepared::Parts(Box::new(Parts { image, source, disk, qemu, machine, size, timeouts, shares, task })))
}

/// With a terminal on stdin and stdout, the command gets one of its own and this one is only a wire.
/// Without, stderr stays apart from stdout unless the two are one file already.
fn enter_terminal(task: &mut Task) -> Result<Option<RawTerminal>, RunError> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    if stdin.is_terminal() && stdout.is_terminal() {
        task.set_terminal(terminal_size(stdin.as_fd()).unwrap_or((24, 80)));
        return Ok(Some(RawTerminal::enter(stdin.as_fd()).blame(Fault::System).context("the terminal")?));
    }
    if same_file(stdout.as_fd(), stderr.as_fd()) {
        task.merge_stderr();
    }
    Ok(None)
}

/// Combines the ends of all VMs: the highest code wins, and a signal counts as 128 + its number as in a shell.
/// Reports what the user cannot see otherwise, each sentence once. `proven` is whether the accelerator runs guests
/// beyond doubt.
fn conclude(slot: &Slot, ends: &[End], proven: bool) -> ExitStatus {
    let mut said: Vec<String> = Vec::new();
    let mut statuses = Vec::new();
    for end in ends {
        match failure(slot, end, proven) {
            Ok(status) => statuses.push((status, None)),
            Err(error) => {
                statuses.push((ExitStatus::Code(error.exit_code()), Some(error.fault())));
                let text = format!("error: {error:#}");
                if !said.contains(&text) {
                    notice::line(&text);
                    said.push(text);
                }
            }
        }
    }
    // That a node is at fault is not hidden by what became of the other VMs.
    let rank = |(status, fault): &(ExitStatus, Option<Fault>)| match status {
        _ if *fault == Some(Fault::Node) => u16::MAX,
        ExitStatus::Code(code) => u16::from(*code),
        ExitStatus::Signal(signo) => 128 + u16::from(*signo),
    };
    statuses.into_iter().max_by_key(rank).map_or(ExitStatus::Code(0), |(status, _)| status)
}

/// The status of a command that ended; else why not.
fn failure(slot: &Slot, end: &End, proven: bool) -> Result<ExitStatus, RunError> {
    let image = &slot.image;
    Err(match end {
        End::Exited(status) => return Ok(*status),
        End::NotStarted(kind, why) => match kind {
            FailKind::Setup => RunError::new(Fault::Image, format!("image '{image}' cannot run the command: {why}")),
            FailKind::NotFound => RunError::new(Fault::NotFound, why),
            FailKind::NotExecutable => RunError::new(Fault::NotExecutable, why),
        },
        End::NodeFailed(why) => RunError::node(why),
        // Nothing of the user's has run yet, and the image has no say in what the site demands.
        End::NeverUp(why) if slot.config.accel == AccelChoice::Kvm && !proven => {
            RunError::new(Fault::Node, format!("this node ({}) cannot run VMs with KVM: {why}", this_node::name()))
        }
        End::NotSaved(why) => RunError::new(Fault::User, format!("the command succeeded, its VM is not saved: {why}")),
        End::NeverUp(why) => RunError::new(Fault::Image, format!("image '{image}' on {}: {why}", this_node::name())),
        End::Broken(why) => RunError::new(Fault::Guest, format!("image '{image}' on {}: {why}", this_node::name())),
    })
}

/// What a test of KVM has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmTest {
    /// A guest came up and ended in this time.
    Runs(Duration),
    /// A guest did not come up, and then did when it was emulated.
    Broken,
    /// The guest came up in neither way, so nothing is known of KVM.
    Unknown,
    /// This process may not use KVM, or there is none; the line says why and what helps.
    Unusable(String),
}

/// Tries whether KVM really runs a guest: the image's own boot, and a command that does nothing. What the node knew of
/// KVM does not count, and what it shows now is remembered.
///
/// # Errors
/// When no guest can be started at all.
pub fn try_kvm(config: &Config, image: &ImageName) -> Result<KvmTest, RunError> {
    if let Err(why) = start::kvm_usable() {
        return Ok(KvmTest::Unusable(why.to_string()));
    }
    let slot = Slot::plain(config.clone(), image.clone().into(), vec!["true".into()]);
    let ended = run_by(&slot, Policy::for_test)?;
    Ok(match (ended.accel, ended.proven) {
        (Accel::Kvm, true) => KvmTest::Runs(slot.begin.elapsed()),
        (Accel::Tcg, true) => KvmTest::Broken,
        (_, false) => KvmTest::Unknown,
    })
}

/// Brings an image to this node, as the first job that wants it would.
///
/// # Errors
/// When it cannot be used.
pub fn fetch(config: &Config, image: &ImageRef) -> Result<Disk, RunError> {
    let image = config.catalogue().resolve(image)?;
    let signals = Signals::watch().context("signals")?;
    match delivery::deliver(&image, &delivery::Terms::of(config, &signals, None))? {
        Delivered::Disk(disk) => Ok(disk),
        Delivered::Interrupted(signal) => {
            die_by(signal);
            Err(RunError::new(Fault::System, format!("interrupted by {signal}")))
        }
    }
}

/// Tries whether a VM's private disk can be made where the site wants it.
///
/// # Errors
/// Why not.
pub fn try_scratch(kit: &Kit, config: &Config) -> Result<(), RunError> {
    let original = File::open(kit.scratch())?;
    scratch::create(&original, &config.scratch_dir).map(drop).blame(Fault::Node)
}
