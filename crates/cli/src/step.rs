//! The task that slurmstepd starts instead of the user's command.

use std::ffi::OsString;
use std::time::Instant;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid, getppid};

use proto::ExitStatus;
use request::{ImageRef, NetworkPart, REQUEST_ENV, STEP_PROGRAM, Scope, VmRequest};
use runner::config::Config;
use runner::error::{Blame, Context, Fault, RunError};
use runner::{self, Command, SaveAs, Slot, limits};

/// Set to anything, prints the phases of every VM of the step to its stderr.
const TIMING_ENV: &str = "SPANK_VM_TIMING";

/// Set to anything, explains every phase on the step's stderr, as `srun -v` does.
const VERBOSE_ENV: &str = "SPANK_VM_VERBOSE";

/// Makes this task end with slurmstepd. Without slurmstepd nobody waits for the task, reads its output or can cancel
/// it: the VM would run on unseen in a job that Slurm believes to have ended. slurmstepd starts tasks from its main
/// thread, which ends only when slurmstepd itself ends.
fn die_with_slurmstepd() -> Result<(), RunError> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("prctl")?;
    match getppid() == Pid::from_raw(1) {
        true => Err(RunError::new(Fault::System, "slurmstepd is gone")),
        false => Ok(()),
    }
}

/// Runs the step that the plugin described in the environment; `arguments` follow `argv[0]`.
pub fn run(arguments: Vec<OsString>) -> Result<ExitStatus, RunError> {
    let begin = Instant::now();
    die_with_slurmstepd()?;
    limits::take()?;
    runner::progress::publish();
    let mut image = None;
    let ended = run_slot(arguments, begin, &mut image);
    if let Err(error) = &ended {
        let image = image.map(|image| image.to_string()).unwrap_or_default();
        runner::log::failure(&image, None, error, runner::progress::phase());
    }
    ended
}

/// Keeps the VM of the step's tasks on this node. What goes wrong is told to them.
pub fn keep(arguments: Vec<OsString>) -> Result<ExitStatus, RunError> {
    let begin = Instant::now();
    let request = read_request()?;
    let taps = request.job_network.as_ref().map_or(&[][..], |network| &network.taps);
    let keeper = runner::become_keeper(request.meeting, request.tasks, taps)?;
    limits::take()?;
    keeper.keep(|| {
        runner::log::init(is_verbose(&request));
        let config = load(&request)?;
        // The VM has what the tasks have together.
        let memory = request.memory_mib.map(|mib| mib.saturating_mul(request.tasks.into()));
        let memory = limits::memory(memory, 1);
        Ok(slot(request, config, arguments, memory, begin))
    });
    Ok(ExitStatus::Code(0))
}

fn read_request() -> Result<VmRequest, RunError> {
    let text = std::env::var(REQUEST_ENV)
        .blame(Fault::User)
        .with_context(|| format!("{REQUEST_ENV} is not set: this program is started by Slurm's plugin spank_vm"))?;
    text.parse().blame(Fault::User)
}

fn is_verbose(request: &VmRequest) -> bool {
    request.verbose || std::env::var_os(VERBOSE_ENV).is_some()
}

fn load(request: &VmRequest) -> Result<Config, RunError> {
    let mut config = Config::load(request.config.as_deref()).blame_node()?;
    if Uid::effective().is_root() && !config.allow_root {
        return Err(RunError::user(
            "jobs of root get no VM on this site: submit as an ordinary user, or set allow_root = true in the configuration",
        ));
    }
    // The plugin knows this node's real name, and has made the directory.
    if let Some(dir) = &request.image_cache_dir {
        config.image_cache_dir.clone_from(dir);
    }
    Ok(config)
}

/// Notes the image as soon as it is known.
fn run_slot(arguments: Vec<OsString>, begin: Instant, image: &mut Option<ImageRef>) -> Result<ExitStatus, RunError> {
    let mut request = read_request()?;
    *image = Some(request.image.clone());
    runner::log::init(is_verbose(&request));
    let config = load(&request)?;
    let (tasks, meeting) = (request.tasks, request.meeting);
    let scope = config.scope(&request.asked)?;
    let is_made_for = |network: &NetworkPart| if network.of_node.is_some() { Scope::Node } else { Scope::Slot };
    if tasks > 1 && request.job_network.as_ref().is_some_and(|network| is_made_for(network) != scope) {
        // The site's configuration has been changed since: tasks with VMs of their own would share a tap.
        return Err(RunError::node(format!(
            "--vm-net=job: the network was not made for vm_scope = '{}'",
            scope.word()
        )));
    }
    if scope == Scope::Node && tasks > 1 {
        let given = arguments.clone();
        return runner::run_attached(&slot(request, config, arguments, None, begin), meeting, &given);
    }
    // A step saves one image: that of its first task.
    let save = request.asked.vm_save.take().filter(|_| is_first_task());
    let save = save.map(|spec| SaveAs::new(&spec, None, &config).with_context(|| format!("--vm-save={spec}")));
    let memory = limits::memory(request.memory_mib, tasks);
    let save = save.transpose()?;
    runner::run(&Slot { save, ..slot(request, config, arguments, memory, begin) })
}

fn slot(
    request: VmRequest,
    config: Config,
    mut arguments: Vec<OsString>,
    memory: Option<limits::Memory>,
    begin: Instant,
) -> Slot {
    // srun's plugin put this before each program of --multi-prog, for nodes that have no plugin.
    if request.argv0.is_none() && arguments.first().is_some_and(|word| word == STEP_PROGRAM) {
        arguments.remove(0);
    }
    let argv = request.argv0.into_iter().chain(arguments).collect();
    Slot {
        config,
        image: request.image,
        job: request.job,
        job_network: request.job_network,
        asked: request.asked,
        wants_mpi: request.wants_mpi,
        memory,
        save: None,
        command: Command { argv, batch_script: request.batch_script, script_path: None },
        timing: std::env::var_os(TIMING_ENV).is_some(),
        begin,
    }
}

/// Whether this is the first task of its step. A batch script is.
fn is_first_task() -> bool {
    std::env::var("SLURM_PROCID").map_or(true, |rank| rank == "0")
}
