//! From the request to the parts of its VMs.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::delivery::{self, Delivered, Disk};
use crate::error::{Blame, Context, Fault, RunError, ensure};
use crate::network::Network;
use crate::plan::{self, Overhead, SlotResources};
use crate::shares::{Chosen, Own};
use crate::signals::{Signal, Signals};
use crate::slot::{NOTICE_AFTER, Slot};
use crate::start::{Timeouts, Ways, source};
use crate::task::{RawTerminal, Task, same_file, terminal_size};
use crate::{job, limits, notice, progress, save, shares};
use image::{Image, ImageError, Owner};
use qemu::{BootSource, MachineType, VmSize};

/// The parts of a slot's VMs: everything that is looked up once.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) image: Image,
    pub(crate) source: BootSource,
    pub(crate) disk: Disk,
    pub(crate) qemu: PathBuf,
    /// What starts a guest for which there is nothing better.
    pub(crate) machine: MachineType,
    pub(crate) ways: Ways,
    pub(crate) size: VmSize,
    /// Processors that all VMs share.
    pub(crate) cpus: u32,
    pub(crate) timeouts: Timeouts,
    pub(crate) seen: Chosen,
    pub(crate) task: Task,
    pub(crate) network: Option<Network>,
}

/// Result of looking everything up.
#[derive(Debug)]
pub(crate) enum Prepared {
    Parts(Box<Parts>),
    /// A signal ends the task.
    Interrupted(Signal),
}

/// Looks up everything the VMs need; all errors of a request or a node are found here.
///
/// # Errors
/// What is wrong, and whose fault it is.
pub(crate) fn prepare(slot: &Slot, signals: &Signals) -> Result<Prepared, RunError> {
    let Slot { config, asked, .. } = slot;
    let vms = asked.vms();
    config.scope(asked)?;
    ensure!(
        vms <= config.max_vms_per_slot,
        Fault::User,
        "--vms-per-slot={vms}: this site allows at most {} ('max_vms_per_slot')",
        config.max_vms_per_slot
    );
    let Seen { image, task, shares: seen } = see(slot, true)?;
    let source = source::of(&image, config)?;
    let qemu = config.qemu_path().blame_node()?;
    let network = Network::of(slot, &image, &source, &qemu)?;
    let cpus = limits::processors()?;
    let size = plan::divide(&SlotResources {
        vms,
        memory: slot.memory.clone(),
        default_mib: config.default_memory_mib,
        overhead: Overhead {
            base_mib: config.memory_overhead_mib + if slot.save.is_some() { save::OVERHEAD_MIB } else { 0 },
            per_gib_mib: config.memory_overhead_per_gib_mib,
        },
        cpus,
        wanted_mib: asked.vm_mem,
        wanted_cpus: asked.vm_cpus,
    })?;
    limits::allow_vm(size.memory_mib.saturating_mul(1 << 20), source::disk_bytes(&source), vms)?;
    progress::size(size);
    let machine = source::machine(&source, config.machine);
    let ways = Ways::of(config, &source, &qemu);
    // VMs that share a processor in effect boot one after the other.
    let timeouts = source::timeouts(&source, config, vms.div_ceil(cpus));
    // This comes last, because it may have to copy the image.
    let notice_at = io::stderr().is_terminal().then(|| slot.begin + NOTICE_AFTER);
    let disk = match delivery::deliver(&image, &delivery::CopyTerms::of(config, signals, notice_at))? {
        Delivered::Disk(disk) => disk,
        Delivered::Interrupted(signal) => return Ok(Prepared::Interrupted(signal)),
    };
    let parts = Parts { image, source, disk, qemu, machine, ways, size, cpus, timeouts, seen, task, network };
    Ok(Prepared::Parts(Box::new(parts)))
}

/// What a task needs to know of its VM, however it is started.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) image: Image,
    pub(crate) task: Task,
    pub(crate) shares: Chosen,
}

/// Looks up the image, and what the task sees of the host. `tells`: the user is told of what is left out.
///
/// # Errors
/// What is wrong with the request.
pub(crate) fn see(slot: &Slot, tells: bool) -> Result<Seen, RunError> {
    ensure!(!slot.command.argv.is_empty(), Fault::User, "no command to run");
    let image = find_image(slot)?;
    let (task, own) = describe_task(slot)?;
    let shares = choose_shares(slot, &image, &own, tells)?;
    Ok(Seen { image, task, shares })
}

/// The image, if this user and job may use it here.
fn find_image(slot: &Slot) -> Result<Image, RunError> {
    let catalogue = slot.config.catalogue();
    let is_the_sites = |path: &Path| catalogue.dirs().iter().any(|dir| dir.path == path && dir.owner == Owner::Site);
    let image = match catalogue.resolve(&slot.image) {
        Err(ImageError::Directory { dir, source }) if is_the_sites(&dir) => {
            return Err(ImageError::Directory { dir, source }).blame_node();
        }
        // A directory of the user's own, or of a group: that is for them to open.
        Err(error @ ImageError::Directory { .. }) => return Err(error).blame(Fault::User),
        found => found?,
    };
    if image.entry.allow.depends_on_job() {
        let facts = job::facts(slot.job.as_ref()).with_context(|| format!("image '{}'", image.name))?;
        let refused = |refusal| ImageError::Refused { name: image.name.clone(), refusal };
        image.entry.allow.permits_job(&facts).map_err(refused)?;
    }
    source::fits_processor(&image)?;
    Ok(image)
}

/// The command as it is described to the agent, and the user's own directories that it should see.
fn describe_task(slot: &Slot) -> Result<(Task, Vec<Own>), RunError> {
    let asked = &slot.asked;
    let mut task = Task::from_this_process(&slot.command)?;
    let own = task.own_directories(slot.config.share_home);
    if !slot.config.share_home {
        task.keep_home_in_vm();
    }
    if asked.vm_root == Some(true) {
        task.run_as_root();
    }
    if let Some(why) = task.take_mpi(asked.vms() == 1) {
        let why = format!("Slurm's MPI interface {why}");
        ensure!(!slot.wants_mpi, Fault::User, "{why}, or --mpi=none and mpirun within one VM");
        if task.is_first() {
            notice::line(&format!(
                "warning: {why}; an MPI program would run alone in each VM (--mpi=none silences this line)"
            ));
        }
    }
    task.set_variables(asked.vm_env.clone().unwrap_or_default());
    Ok((task, own))
}

/// What the guests see of the host.
fn choose_shares(slot: &Slot, image: &Image, own: &[Own], tells: bool) -> Result<Chosen, RunError> {
    let mounts = slot.asked.vm_mount.as_deref().unwrap_or_default();
    let name = &image.name;
    if !image.entry.full_boot().shares {
        ensure!(
            mounts.is_empty(),
            Fault::User,
            "--vm-mount: the kernel of image '{name}' cannot mount host directories; leave it out, or use another image"
        );
        if tells {
            notice::line(&format!(
                "warning: the kernel of image '{name}' cannot mount host directories; none is there"
            ));
        }
        return Ok(Chosen::default());
    }
    let chosen = shares::choose(mounts, &slot.config.shares, own)?;
    // Once per step and node.
    if tells && std::env::var("SLURM_LOCALID").map_or(true, |number| number == "0") {
        chosen.warnings.iter().for_each(|warning| notice::line(warning));
    }
    for (path, _) in image.entry.links.iter() {
        // The link would be made on the host.
        if let Some(share) = chosen.shares.iter().find(|share| path.starts_with(&share.target)) {
            let (link, share) = (path.display(), share.target.display());
            let why = format!(
                "image '{}': its link {link} would lie in the share {share}; correct [links] in its entry",
                image.name
            );
            return Err(RunError::new(Fault::Image, why));
        }
    }
    Ok(chosen)
}

/// With a terminal on stdin and stdout, the command gets its own, and this one only passes bytes on.
/// Without a terminal, stderr stays separate from stdout unless both are one file already.
///
/// # Errors
/// When the terminal cannot be set up.
pub(crate) fn enter_terminal(task: &mut Task) -> Result<Option<RawTerminal>, RunError> {
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
