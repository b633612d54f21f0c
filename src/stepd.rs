//! In slurmstepd: the task of a VM step becomes `spank-vm-step`.
//!
//! The plugin rewrites the command line and leaves the start to slurmstepd, so that TaskProlog, CPU
//! binding, limits and the task's cgroup apply to the virtual machine as to any command. A plain
//! execve in the hook would skip them.

use super::args::Args;
use super::component::{self, Decision};
use super::error::Error;
use super::meeting::MeetingPlace;
use super::network::StepNetwork;
use super::network_error::NetworkError;
use super::plugin::Plugin;
use super::variables::{
    COMMAND_ENV, COMPONENTS_ENV, IMAGE_DIR_ENV, JOB_IMAGE_ENV, MPI_ENV, MULTI_PROG_ENV, VERBOSE_ENV,
};
use crate::spank::{Host, Level, SpankError, Step, is_executable};
use node::process::Process;
use node::status::Status;
use node::{dir, layout, task_dir};
use request::{IMAGE, JobRef, Meeting, NONE, Network, OPTIONS, REQUEST_ENV, STEP_PROGRAM, Scope, VmRequest};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

/// As root, before the tasks are forked: makes the step's own network, if it has one, and what tasks need to find each
/// other, if they may share a VM. Errors of the network are kept and reported in [`task_init`].
pub fn before_tasks(plugin: &mut Plugin, host: &mut dyn Host) {
    match make_network(plugin, host) {
        Ok(network) => plugin.network = network,
        Err(error) => plugin.deferred = Some(error),
    }
    make_meeting_place(plugin, host);
}

fn make_network(plugin: &mut Plugin, host: &mut dyn Host) -> Result<Option<StepNetwork>, Error> {
    let step = host.step()?;
    adopt_what_slurm_lost(plugin, host, step)?;
    let Some(request) = plugin.given.vms()?.filter(|_| step != Step::Extern) else { return Ok(None) };
    match request.asked.vm_net {
        Some(Network::Job) => StepNetwork::make(&request, plugin.args()?, host).map(Some),
        _ => Ok(None),
    }
}

/// The site's preference is not known here, so this is for every step of several tasks that does not say otherwise.
fn make_meeting_place(plugin: &mut Plugin, host: &dyn Host) {
    let may_share = |plugin: &mut Plugin| -> Result<bool, SpankError> {
        let step = host.step()?;
        if step == Step::Extern || host.local_tasks()? < 2 {
            return Ok(false);
        }
        adopt_what_slurm_lost(plugin, host, step)?;
        Ok(matches!(plugin.given.vms(), Ok(Some(request)) if request.asked.scope(Scope::Node) == Scope::Node))
    };
    // An error of Slurm's is found again, and reported, by the tasks.
    if may_share(plugin).unwrap_or(false) {
        match MeetingPlace::new() {
            Ok(place) => plugin.meeting = Some(place),
            Err(error) => host.log(Level::Warning, &format!("tasks cannot share a VM: {error}")),
        }
    }
}

/// The tasks were forked.
pub fn tasks_are_forked(plugin: &mut Plugin) {
    if let Some(place) = &mut plugin.meeting {
        place.leave();
    }
}

/// As root: writes the task's status for the node, and makes what only root can make for the user. Errors are kept and
/// reported in [`task_init`].
pub fn task_init_privileged(plugin: &mut Plugin, host: &mut dyn Host) {
    if let Err(error) = prepare_task(plugin, host) {
        plugin.deferred = Some(error);
    }
}

fn prepare_task(plugin: &mut Plugin, host: &mut dyn Host) -> Result<(), Error> {
    let step = host.step()?;
    adopt_what_slurm_lost(plugin, host, step)?;
    let Some(request) = plugin.given.vms()?.filter(|_| step != Step::Extern) else { return Ok(()) };
    let owner = host.owner()?;
    let path = task_dir::path(&plugin.args()?.state_dir, host.job_id()?, step, host.task_id()?);
    note_task(&path, &request, owner.0).map_err(|source| Error::StateDir { path, source })?;
    plugin.image_cache_dir = Some(make_shelves(plugin.args()?, owner, host));
    Ok(())
}

/// Makes the task's directory with its status; this process becomes the task.
fn note_task(path: &Path, request: &VmRequest, uid: u32) -> io::Result<()> {
    let runner = Process::this()?;
    let status = Status { image: request.image.to_string(), vms: request.asked.vms(), uid, runner };
    task_dir::create(path, &status.to_string())
}

/// Makes the user's shelves in the caches, without which a VM works too. Returns this node's directory for copies of
/// images.
fn make_shelves(args: &Args, owner: (u32, u32), host: &dyn Host) -> PathBuf {
    if let Err(error) = dir::make_user_shelf(&args.template_dir, owner) {
        host.log(Level::Warning, &format!("every VM of user {} boots, no template can be kept: {error}", owner.0));
    }
    let image_cache_dir = layout::on_node(&args.image_cache_dir, &layout::node_name(slurm_name(host)));
    if let Err(error) = dir::make_user_shelf(&image_cache_dir, owner) {
        host.log(Level::Warning, &format!("user {} reads images in place, no copy can be kept: {error}", owner.0));
    }
    image_cache_dir
}

/// As the user, last before execve: turns the task into the step program.
///
/// # Errors
/// Everything that keeps a VM step from starting, including errors kept from earlier hooks. Never for a bare-metal
/// step.
pub fn task_init(plugin: &mut Plugin, host: &mut dyn Host) -> Result<(), Error> {
    match become_step(plugin, host) {
        Err(Error::Slurm(error)) if !plugin.given.wants_vm() => {
            host.log(Level::Admin, &error.to_string());
            Ok(())
        }
        result => result,
    }
}

fn become_step(plugin: &mut Plugin, host: &mut dyn Host) -> Result<(), Error> {
    let step = host.step()?;
    if step == Step::Extern {
        return Ok(());
    }
    adopt_what_slurm_lost(plugin, host, step)?;
    let sent = take_job_env(host, COMMAND_ENV)?;
    let multi_prog = take_job_env(host, MULTI_PROG_ENV)?.is_some();
    let verbose = take_job_env(host, VERBOSE_ENV)?.is_some();
    let wants_mpi = take_job_env(host, MPI_ENV)?.is_some();
    let image_dir = take_job_env(host, IMAGE_DIR_ENV)?;
    take_job_env(host, COMPONENTS_ENV)?;
    let argv = host.argv()?;
    let is_component = argv.first().is_some_and(|word| component::marked(word).is_some());
    let replaced = is_component || (!multi_prog && argv.first().is_some_and(|word| word == STEP_PROGRAM));
    let Some(mut request) = plugin.given.vms()? else {
        return if replaced { Err(Error::LostOption) } else { Ok(()) };
    };
    // Only steps that are started outside of a VM need it.
    take_job_env(host, JOB_IMAGE_ENV)?;
    if is_component && !plugin.given.is_decided() {
        return Err(Error::LostCommand);
    }
    if let Some(error) = plugin.deferred.take() {
        return Err(error);
    }
    let args = plugin.args()?;
    let program = args.step_program();
    is_executable(&program).map_err(|source| Error::NoProgram { path: program.clone(), source })?;
    if multi_prog && !host.can_prepend_argv() {
        // There the plugin cannot change the tasks' command lines, and they would run unchanged.
        return Err(Error::MultiProg);
    }
    let command = match request.argv0.take() {
        Some(of_component) => Some(of_component),
        None if replaced => Some(sent.ok_or(Error::LostCommand)?),
        None => argv.first().cloned(),
    };

    if let Some(path) = request.image.relative_path() {
        let dir = image_dir.filter(|dir| Path::new(dir).is_absolute());
        let dir = dir.ok_or_else(|| Error::LostImageDir(path.display().to_string()))?;
        request.image = request.image.seen_from(Path::new(&dir));
    }
    if request.asked.vm_net == Some(Network::Job) {
        let network = plugin.network.as_ref().ok_or(Error::Network(NetworkError::Late))?;
        request.job_network = Some(network.of_task(request.asked.vms(), host)?);
    }
    request.job = Some(JobRef { id: host.job_id()?, slurm_conf: host.own_env("SLURM_CONF").map(Into::into) });
    request.image_cache_dir = plugin.image_cache_dir.clone();
    request.verbose = verbose;
    request.wants_mpi = wants_mpi;
    request.batch_script = step == Step::Batch;
    request.tasks = host.local_tasks()?.max(1);
    request.memory_mib = task_memory(host, request.tasks)?;
    request.config = args.config.clone();
    request.meeting = meeting(plugin)?;
    Ok(hand_over(host, &program, request, command.as_deref(), replaced)?)
}

/// Has slurmstepd execute the program with this request. Where words cannot be put before the command, the program takes
/// the place of its first one, which then travels in the request. `replaced`: another word stands there already.
fn hand_over(
    host: &mut dyn Host,
    program: &Path,
    mut request: VmRequest,
    command: Option<&OsStr>,
    replaced: bool,
) -> Result<(), SpankError> {
    let can_prepend = host.can_prepend_argv();
    if !can_prepend {
        request.argv0 = command.map(OsStr::to_owned);
    }
    host.set_job_env(REQUEST_ENV, request.to_string().as_ref())?;
    if !can_prepend {
        return host.set_arg(0, program.as_os_str());
    }
    if let (true, Some(command)) = (replaced, command) {
        host.set_arg(0, command)?;
    }
    host.prepend_argv(&[program.as_os_str()])
}

fn meeting(plugin: &Plugin) -> Result<Option<Meeting>, Error> {
    let met = plugin.meeting.as_ref().map_or(Ok(None), MeetingPlace::pass_on);
    met.map_err(Error::Meeting)
}

/// As root, after the task's end: removes leftovers of a killed runner.
pub fn task_exit(plugin: &mut Plugin, host: &mut dyn Host) {
    let path = sweeps(plugin, host).and_then(|args| match args {
        Some((parent, job, step)) => Ok(Some(task_dir::path(&parent, job, step, host.task_id()?))),
        None => Ok(None),
    });
    match path {
        Ok(Some(path)) => sweep(host, &path),
        Ok(None) => {}
        Err(error) => host.log(Level::Admin, &format!("not swept: {error}")),
    }
}

/// As root, after the step's end: the same for all its tasks on this node, because some were never
/// started or their end was missed.
pub fn exit(plugin: &mut Plugin, host: &mut dyn Host) {
    let paths = sweeps(plugin, host).and_then(|args| {
        let Some((parent, job, step)) = args else { return Ok(Vec::new()) };
        (0..host.local_tasks()?)
            .map(|local| Ok(task_dir::path(&parent, job, step, host.global_task_id(local)?)))
            .collect()
    });
    match paths {
        Ok(paths) => paths.iter().for_each(|path| sweep(host, path)),
        Err(error) => host.log(Level::Admin, &format!("not swept: {error}")),
    }
}

type Swept = Option<(PathBuf, u32, Step)>;

/// Whether there is anything to clean up, and where. A bare-metal step costs nothing.
fn sweeps(plugin: &mut Plugin, host: &dyn Host) -> Result<Swept, SpankError> {
    let step = host.step()?;
    adopt_what_slurm_lost(plugin, host, step)?;
    match &plugin.args {
        Ok(args) if plugin.given.wants_vm() && step != Step::Extern => {
            Ok(Some((args.state_dir.clone(), host.job_id()?, step)))
        }
        _ => Ok(None),
    }
}

/// A job must not fail because of its leftovers.
fn sweep(host: &dyn Host, path: &Path) {
    if let Err(error) = task_dir::remove(path) {
        host.log(Level::Admin, &format!("cannot remove {}: {error}", path.display()));
    }
}

/// The node's name in Slurm: the end of its address in the topology, which slurmstepd always sets itself,
/// before the first hook; other variables come later.
fn slurm_name(host: &dyn Host) -> Option<String> {
    let variable = |name: &str| host.job_env(name).ok().flatten().and_then(|value| value.into_string().ok());
    let parts = variable("SLURM_TOPOLOGY_ADDR_PATTERN").map_or(1, |pattern| pattern.split('.').count());
    Some(variable("SLURM_TOPOLOGY_ADDR")?.splitn(parts, '.').last()?.to_owned())
}

/// Memory of one task, when Slurm manages memory.
fn task_memory(host: &dyn Host, tasks: u32) -> Result<Option<u64>, Error> {
    let step = host.step_memory_mib()?;
    Ok((step > 0).then(|| step / u64::from(tasks)))
}

/// Corrects the values from Slurm with what the client sent beside them.
fn adopt_what_slurm_lost(plugin: &mut Plugin, host: &dyn Host, step: Step) -> Result<(), SpankError> {
    match step {
        Step::Batch | Step::Interactive => adopt_lost_options(plugin, host, step),
        Step::Srun(_) => {
            if let Some(asked) = component::of_task(host)? {
                plugin.given.decide(asked);
            }
            Ok(())
        }
        Step::Extern => Ok(()),
    }
}

/// `sbatch --export=NONE` before Slurm 23.11 loses a plugin's options on the way to the batch
/// step, which would then run on the host. The variables for the srun inside do arrive.
fn adopt_lost_options(plugin: &mut Plugin, host: &dyn Host, step: Step) -> Result<(), SpankError> {
    if plugin.given.has(IMAGE) {
        // sbatch gives both the same value; in salloc's shell the user may have set another one.
        let image = host.job_env(&OPTIONS[IMAGE].slurm_variable())?;
        if step == Step::Batch && !plugin.given.wants_vm() && image.is_some_and(|image| image != NONE) {
            plugin.given.decide(Decision::Lost);
        }
        return Ok(());
    }
    for (number, option) in OPTIONS.iter().enumerate() {
        if plugin.given.has(number) {
            continue;
        }
        if let Some(value) = host.job_env(&option.slurm_variable())? {
            plugin.given.set(number, Some(&value));
        }
    }
    Ok(())
}

fn take_job_env(host: &mut dyn Host, name: &str) -> Result<Option<OsString>, SpankError> {
    let value = host.job_env(name)?;
    if value.is_some() {
        host.unset_job_env(name)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
