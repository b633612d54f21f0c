//! The task that slurmstepd starts in the place of the user's command.

use std::ffi::OsString;
use std::time::Instant;

use anyhow::Context;

use crate::config::Config;
use crate::proto::ExitStatus;
use crate::request::{REQUEST_ENV, VmRequest};
use crate::runner::fault::BlameNode;
use crate::runner::{self, Slot, limits};

/// Set to anything, prints the phases of every VM of the step to its stderr.
const TIMING_ENV: &str = "SPANK_VM_TIMING";

/// Set to anything, explains every phase on the step's stderr, as `srun -v` does.
const VERBOSE_ENV: &str = "SPANK_VM_VERBOSE";

/// Runs the step that the plugin described in the environment; `arguments` follow `argv[0]`.
pub fn run(arguments: Vec<OsString>) -> anyhow::Result<ExitStatus> {
    let begin = Instant::now();
    let text = std::env::var(REQUEST_ENV)
        .with_context(|| format!("{REQUEST_ENV} is not set: this program is started by Slurm's plugin spank_vm"))?;
    let request: VmRequest = text.parse()?;
    runner::log::init(request.verbose || std::env::var_os(VERBOSE_ENV).is_some());
    let argv = request.argv0.clone().into_iter().chain(arguments).collect();
    let slot = Slot {
        config: Config::load(request.config.as_deref()).blame_node()?,
        image: request.image,
        vms: request.vms_per_slot,
        memory: limits::memory(request.memory_mib, request.tasks),
        vm_memory_mib: request.vm_memory_mib,
        vm_cpus: request.vm_cpus,
        mounts: request.mounts,
        as_root: request.as_root,
        variables: request.variables,
        label: request.label,
        argv,
        batch_script: request.batch_script,
        state_dir: request.state_dir,
        timing: std::env::var_os(TIMING_ENV).is_some(),
        begin,
    };
    runner::run(&slot)
}
