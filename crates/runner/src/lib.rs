//! The runner: the host process that becomes the Slurm task and owns the VMs of its slot.
//!
//! ```text
//! slot ─► plan (memory, processors) ─► shares ─► attempt: template ─► for each VM: scratch ─► qemu (argv) ─► child
//!      ─► relay (poll loop: stdio, signals, channel of each vm) ─► how it ended
//! ```
//!
//! Single-threaded; every wait is in the relay's poll and has a deadline until the command runs.
//! Whatever way this process dies, its VMs die with it (`PR_SET_PDEATHSIG`) and their disks have no
//! name that could be left behind.

// println! and eprintln! panic when nobody reads any more.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod accel;
mod attempt;
pub mod config;
pub mod delivery;
pub mod fault;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod helper;
mod install;
mod job;
pub mod limits;
pub mod log;
pub mod notice;
mod plan;
mod prebuild;
mod relay;
mod save;
mod session;
mod shares;
mod signals;
mod source;
mod task;
pub mod template;
mod timing;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use self::attempt::Outcome;
use self::delivery::{Delivered, Disk};
use self::fault::{BlameNode, NodeFault, node};
use self::plan::SlotResources;
use self::signals::{Signal, Signals};
use self::task::{End, RawTerminal, Task, same_file, terminal_size};
use crate::config::{AccelChoice, Config};
use image::kit::Kit;
use image::{Image, ImageError, runs_here};
use proto::{ExitStatus, FailKind};
use qemu::{Accel, BootSource, MachineType, Share, VmSize, scratch};
use request::{Asked, ImageName, ImageRef, JobRef};

pub use self::install::{InstallOptions, Installed, image_of_disk, install_agent};
pub use self::prebuild::{Prebuilt, prebuild};
pub use self::save::SaveAs;
pub use self::signals::die_by;
pub use self::task::Command;

/// Exit code when not the command but the VM failed: as container runtimes do, above what programs use.
pub const EXIT_VM_FAILED: u8 = 125;

/// Exit code when this node is at fault and another may do: `EX_TEMPFAIL` of sysexits.h, which asks for another try.
/// The plugin uses it too.
pub const EXIT_NODE_FAILED: u8 = request::EXIT_NODE_FAILED;
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
    /// What runs in its VMs.
    pub command: Command,
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
            command: argv.into(),
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
    boot_timeout: Duration,
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
pub fn run(slot: &Slot) -> anyhow::Result<ExitStatus> {
    let signals = Signals::watch().context("signals")?;
    let mut parts = match prepare(slot, &signals)? {
        Prepared::Parts(parts) => *parts,
        Prepared::Interrupted(signal) => return Ok(ExitStatus::Signal(signal)),
    };
    let terminal = enter_terminal(&mut parts.task)?;
    let decision = accel::decide(slot.config.accel, &slot.config.state_dir, &parts.qemu).blame_node()?;
    let trial = decision.may_fall_back.then(|| source::kvm_trial(&parts.source, &slot.config));
    let boot_timeout = trial.unwrap_or(parts.boot_timeout);
    let mut outcome = attempt::run(slot, &parts, &signals, decision.accel, boot_timeout)?;
    if decision.may_fall_back && outcome.never_came_up() {
        accel::warn_broken();
        outcome = attempt::run(slot, &parts, &signals, Accel::Tcg, parts.boot_timeout)?;
        // An image that brings its own kernel may be what does not come up: then the node is not to blame.
        if matches!(parts.source, BootSource::Kit(_)) || !outcome.never_came_up() {
            accel::remember_broken(&slot.config.state_dir, &parts.qemu);
        }
    }
    drop(terminal);
    match outcome {
        Outcome::Died(signal) => Ok(ExitStatus::Signal(signal)),
        Outcome::Ended(ends) => Ok(conclude(slot, &ends)),
    }
}

/// Looks up everything the VMs need; all that can be wrong with a request or a node shows here.
fn prepare(slot: &Slot, signals: &Signals) -> anyhow::Result<Prepared> {
    let Slot { config, asked, .. } = slot;
    let vms = asked.vms();
    ensure!(!slot.command.argv.is_empty(), "no command to run");
    ensure!(
        vms <= config.max_vms_per_slot,
        "--vms-per-slot={vms}: this site allows at most {} ('max_vms_per_slot')",
        config.max_vms_per_slot
    );
    let image = match config.catalogue().resolve(&slot.image) {
        // An image of another name would not be found either.
        Err(error @ ImageError::Directory { .. }) => return Err(error).blame_node(),
        found => found?,
    };
    if image.entry.allow.depends_on_job() {
        let facts = job::facts(slot.job.as_ref()).with_context(|| format!("image '{}'", image.name))?;
        let refused = |refusal| ImageError::Refused { name: image.name.clone(), refusal };
        image.entry.allow.permits_job(&facts).map_err(refused)?;
    }
    ensure!(
        runs_here(&image.entry.arch),
        "image '{}' is for {}, this node is {}",
        image.name,
        image.entry.arch,
        std::env::consts::ARCH
    );
    let source = source::of(&image, config)?;
    ensure!(
        slot.save.is_none() || matches!(source, BootSource::Kit(_)),
        "image '{}' boots its own kernel (boot = \"full\"): a VM of it cannot be saved",
        image.name
    );
    let qemu = config.qemu_path().blame_node()?;
    let cpus = limits::processors()?;
    let size = plan::divide(&SlotResources {
        vms,
        memory: slot.memory.clone(),
        default_mib: config.default_memory_mib,
        overhead_mib: config.memory_overhead_mib + if slot.save.is_some() { save::OVERHEAD_MIB } else { 0 },
        cpus,
        wanted_mib: asked.vm_mem,
        wanted_cpus: asked.vm_cpus,
    })?;
    let mut task = Task::from_this_process(&slot.command)?;
    let own = task.own_directories(config.share_home);
    if asked.vm_root == Some(true) {
        task.run_as_root();
    }
    task.set_variables(asked.vm_env.clone().unwrap_or_default());
    let mounts = asked.vm_mount.as_deref().unwrap_or_default();
    for mount in mounts {
        ensure!(mount.source.is_dir(), "--vm-mount={mount}: {} is no directory on {}", mount.source.display(), node());
    }
    let mut shares = shares::choose(&[mounts, config.shares.as_slice()].concat(), &own);
    if !image.entry.full_boot().shares {
        ensure!(mounts.is_empty(), "--vm-mount: the kernel of image '{}' cannot mount host directories", image.name);
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
            bail!(
                "image '{}': its link {link} would lie in the share {share}; correct [links] in its entry",
                image.name
            );
        }
    }
    let machine = source::machine(&source, config.machine);
    // VMs that share a processor boot one after the other in effect.
    let turns = vms.div_ceil(cpus);
    let boot_timeout = source::boot_timeout(&source, config) * turns;
    // Last: it may take as long as a copy of the image does.
    let notice_at = io::stderr().is_terminal().then(|| slot.begin + NOTICE_AFTER);
    let disk = match delivery::deliver(&image, &delivery::CopyTerms::of(config, signals, notice_at))? {
        Delivered::Disk(disk) => disk,
        Delivered::Interrupted(signal) => return Ok(Prepared::Interrupted(signal)),
    };
    Ok(Prepared::Parts(Box::new(Parts { image, source, disk, qemu, machine, size, boot_timeout, shares, task })))
}

/// With a terminal on stdin and stdout, the command gets one of its own and this one is only a wire.
/// Without, stderr stays apart from stdout unless the two are one file already.
fn enter_terminal(task: &mut Task) -> anyhow::Result<Option<RawTerminal>> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    if stdin.is_terminal() && stdout.is_terminal() {
        task.set_terminal(terminal_size(stdin.as_fd()).unwrap_or((24, 80)));
        return Ok(Some(RawTerminal::enter(stdin.as_fd()).context("the terminal")?));
    }
    if same_file(stdout.as_fd(), stderr.as_fd()) {
        task.merge_stderr();
    }
    Ok(None)
}

/// Combines the ends of all VMs: the highest code wins, and a signal counts as 128 + its number as in a shell.
/// Reports what the user cannot see otherwise, each sentence once.
fn conclude(slot: &Slot, ends: &[End]) -> ExitStatus {
    let blames_node = ends.iter().any(|end| matches!(end, End::NodeFailed(_)));
    // That a node is at fault is not hidden by what became of the other VMs.
    let rank = |status: &ExitStatus| match status {
        ExitStatus::Code(EXIT_NODE_FAILED) if blames_node => u16::MAX,
        ExitStatus::Code(code) => u16::from(*code),
        ExitStatus::Signal(signo) => 128 + u16::from(*signo),
    };
    let mut said: Vec<String> = Vec::new();
    let statuses = ends.iter().map(|end| {
        let (status, text) = match end {
            End::Exited(status) => return *status,
            End::NotStarted(FailKind::Setup, why) => {
                (EXIT_VM_FAILED, format!("image '{}' cannot run the command: {why}", slot.image))
            }
            End::NotStarted(FailKind::NotFound, why) => (127, why.clone()),
            End::NotStarted(FailKind::NotExecutable, why) => (126, why.clone()),
            End::NodeFailed(why) => (EXIT_NODE_FAILED, format!("{NodeFault}: {why}")),
            // Nothing of the user's has run yet, and the image has no say in what the site demands.
            End::NeverUp(why) if slot.config.accel == AccelChoice::Kvm => {
                (EXIT_NODE_FAILED, format!("{NodeFault} with KVM: {why}"))
            }
            End::NotSaved(why) => (EXIT_VM_FAILED, format!("the command succeeded, its VM is not saved: {why}")),
            End::NeverUp(why) | End::Broken(why) => {
                (EXIT_VM_FAILED, format!("image '{}' on {}: {why}", slot.image, node()))
            }
        };
        if !said.contains(&text) {
            notice::line(&format!("error: {text}"));
            said.push(text);
        }
        ExitStatus::Code(status)
    });
    statuses.max_by_key(rank).unwrap_or(ExitStatus::Code(0))
}

/// Tries whether KVM really runs a guest: the image's own boot, and a command that does nothing.
///
/// # Errors
/// Why it does not.
pub fn try_kvm(config: &Config, image: &ImageName) -> anyhow::Result<Duration> {
    let config = Config { accel: AccelChoice::Kvm, boot_timeout_s: config.kvm_timeout_s, ..config.clone() };
    let slot = Slot::plain(config, image.clone().into(), vec!["true".into()]);
    match run(&slot)? {
        ExitStatus::Code(0) => Ok(slot.begin.elapsed()),
        status => bail!("the guest did not come up: {status:?}"),
    }
}

/// Brings an image to this node, as the first job that wants it would.
///
/// # Errors
/// When it cannot be used.
pub fn fetch(config: &Config, image: &ImageRef) -> anyhow::Result<Disk> {
    let image = config.catalogue().resolve(image)?;
    let signals = Signals::watch().context("signals")?;
    match delivery::deliver(&image, &delivery::CopyTerms::of(config, &signals, None))? {
        Delivered::Disk(disk) => Ok(disk),
        Delivered::Interrupted(signal) => {
            die_by(signal);
            bail!("interrupted by {signal}")
        }
    }
}

/// Tries whether a VM's private disk can be made where the site wants it.
///
/// # Errors
/// Why not.
pub fn try_scratch(kit: &Kit, config: &Config) -> anyhow::Result<()> {
    let original = File::open(kit.scratch())?;
    scratch::create(&original, &config.scratch_dir).map(drop)
}
