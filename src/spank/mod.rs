//! A safe wrapper of Slurm's SPANK interface.
//!
//! Hook logic ([`crate::plugin`]) sees Slurm only through the trait [`Host`]: in production that
//! is [`Spank`], in unit tests a fake, so that tests link without Slurm. All `unsafe` of the plugin
//! is in this directory and at the `extern "C"` border.
//!
//! Data of Slurm's is copied at the border: nothing here hands out a pointer that a later call
//! could invalidate.

mod guard;
mod handle;
mod live;
pub mod log;
mod option;
mod process;
#[cfg(test)]
pub mod testing;

pub use guard::guard;
pub use handle::{Spank, own_word, own_words};
pub use live::command_begins;
pub use option::register;
pub use process::{end_task, exit_client, inherit, is_executable, readable_within, symbol};

pub use crate::sys::spank_t;

use std::ffi::{OsStr, OsString};
use std::fmt;

/// Which program the plugin was loaded into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// srun.
    Srun,
    /// sbatch, salloc or scrontab.
    Allocator,
    /// slurmstepd: the side that runs the task.
    Stepd,
    /// slurmd: the node's daemon, when it starts and ends.
    Slurmd,
    /// `slurmstepd spank prolog|epilog`, or something Slurm could not name.
    Other,
}

/// A step of a job, by Slurm's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The script of `sbatch`.
    Batch,
    /// The shell of `salloc` under `LaunchParameters=use_interactive_step`.
    Interactive,
    /// The container of foreign processes (`PrologFlags=contain`): it runs no task.
    Extern,
    /// A step started by srun.
    Srun(u32),
}

/// `SLURM_BATCH_SCRIPT`, `SLURM_INTERACTIVE_STEP` and `SLURM_EXTERN_CONT` of slurm.h, the same in every release.
const BATCH: u32 = 0xffff_fffb;
const INTERACTIVE: u32 = 0xffff_fffa;
const EXTERN: u32 = 0xffff_fffc;

impl Step {
    /// Its number in Slurm.
    pub fn number(self) -> u32 {
        match self {
            Self::Batch => BATCH,
            Self::Interactive => INTERACTIVE,
            Self::Extern => EXTERN,
            Self::Srun(id) => id,
        }
    }
}

impl From<u32> for Step {
    fn from(id: u32) -> Self {
        match id {
            BATCH => Self::Batch,
            INTERACTIVE => Self::Interactive,
            EXTERN => Self::Extern,
            id => Self::Srun(id),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch => f.write_str("batch"),
            Self::Interactive => f.write_str("interactive"),
            Self::Extern => f.write_str("extern"),
            Self::Srun(id) => write!(f, "{id}"),
        }
    }
}

/// Who reads a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The user must know and the step or submission fails: `srun: error: vm: …`.
    Error,
    /// The user should know: `srun: vm: …`.
    Note,
    /// The administrator must know: in slurmd's log in any case.
    Warning,
    /// The administrator may want to know: in slurmd's log with `-v`, or with `srun -v`.
    Admin,
}

/// A request that Slurm refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpankError {
    /// What was asked for.
    pub what: String,
    /// Slurm's explanation.
    pub reason: String,
}

impl fmt::Display for SpankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slurm refused {}: {}", self.what, self.reason)
    }
}

impl std::error::Error for SpankError {}

/// What hooks may ask of the program they are loaded into.
///
/// Each item is available in some contexts and hooks only; spank.h lists which.
pub trait Host {
    /// The program that loaded the plugin.
    fn context(&self) -> Context;

    /// Number of the job.
    ///
    /// # Errors
    /// When Slurm does not provide it in this hook; the same for all items below.
    fn job_id(&self) -> Result<u32, SpankError>;

    /// The step of the job.
    fn step(&self) -> Result<Step, SpankError>;

    /// User and group the task runs as.
    fn owner(&self) -> Result<(u32, u32), SpankError>;

    /// Number of the current task within the step.
    fn task_id(&self) -> Result<u32, SpankError>;

    /// Tasks of the step on this node.
    fn local_tasks(&self) -> Result<u32, SpankError>;

    /// Number of the current task among those of the step on this node.
    fn local_task_id(&self) -> Result<u32, SpankError>;

    /// Tasks of the step on all nodes.
    fn all_tasks(&self) -> Result<u32, SpankError>;

    /// Nodes of the step.
    fn step_nodes(&self) -> Result<u32, SpankError>;

    /// Number of this node among them.
    fn node_id(&self) -> Result<u32, SpankError>;

    /// Number within the step of this node's task `local`.
    fn global_task_id(&self, local: u32) -> Result<u32, SpankError>;

    /// Memory of the step on this node in MiB; 0 when Slurm does not manage memory.
    fn step_memory_mib(&self) -> Result<u64, SpankError>;

    /// A copy of the job's command line. In srun and slurmstepd it is the live one, which
    /// [`Host::set_arg`] changes; for `srun --multi-prog` it is not what the tasks execute.
    fn argv(&self) -> Result<Vec<OsString>, SpankError>;

    /// Replaces a word of the live command line, the first one being number 0.
    ///
    /// spank.h calls the array read-only, but srun sends this array and slurmstepd executes it
    /// (22.05 to 26.05). In slurmstepd's task process it is a private copy.
    fn set_arg(&mut self, index: usize, word: &OsStr) -> Result<(), SpankError>;

    /// The command of the component whose options srun has just read: at the end of `slurm_spank_init_post_opt`,
    /// before srun stores it and reads the next one. `None` if it cannot be found with certainty.
    fn component_command(&self) -> Option<Vec<OsString>>;

    /// Replaces the first word of [`Host::component_command`].
    fn hide_component_command(&mut self, word: &OsStr) -> Result<(), SpankError>;

    /// Whether [`Host::prepend_argv`] exists: Slurm 23.11 and later.
    fn can_prepend_argv(&self) -> bool;

    /// Puts words before the command line of the current task.
    fn prepend_argv(&mut self, words: &[&OsStr]) -> Result<(), SpankError>;

    /// A variable of the job's environment (slurmstepd only).
    fn job_env(&self, name: &str) -> Result<Option<OsString>, SpankError>;

    /// Sets a variable of the job's environment (slurmstepd only).
    fn set_job_env(&mut self, name: &str, value: &OsStr) -> Result<(), SpankError>;

    /// Removes a variable of the job's environment (slurmstepd only).
    fn unset_job_env(&mut self, name: &str) -> Result<(), SpankError>;

    /// Whether the user asked this client for explanations (`-v`).
    fn is_verbose(&self) -> bool;

    /// The command line of this very process, its own name first.
    fn command_line(&self) -> Vec<OsString>;

    /// A variable of this very process: srun, sbatch, salloc.
    fn own_env(&self, name: &str) -> Option<OsString>;

    /// Sets a variable of this very process.
    fn set_own_env(&mut self, name: &str, value: &OsStr);

    /// Writes one line; `vm: ` is put before it.
    fn log(&self, level: Level, text: &str);
}
