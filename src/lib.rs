//! The SPANK plugin: turns a step that asked for an image into `spank-vm-step`.
//!
//! What it does in each program that loads it:
//!
//! | file | program |
//! | --- | --- |
//! | [`client`] | srun, sbatch, salloc: options, submit-time checks, the placeholder command |
//! | [`stepd`] | slurmstepd: turns the task into `spank-vm-step`, sweeps up behind it |
//! | [`sweep`] | slurmd and its epilog: what killed processes left |
//! | `exports` | the functions Slurm calls; nothing else leaves the library |
//!
//! Two rules come from how Slurm treats failing hooks. In slurmstepd only `task_init` fails: a
//! failure before it drains the node or is lost, so what goes wrong earlier is kept until then. And
//! a step that asked for a VM never runs on the bare host, even where plugstack.conf says
//! `optional` and Slurm ignores what hooks return.

// println! and eprintln! panic when nobody reads any more.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
pub mod client;
pub mod error;
mod exports;
mod imagecheck;
pub mod options;
pub mod spank;
pub mod stepd;
pub mod sweep;
mod sys;
mod version;

pub use exports::*;
pub use version::{plugin_name, plugin_type, plugin_version};

use args::{Args, ArgsError};
use error::Error;
use options::Wish;
use std::ffi::OsString;
use std::path::PathBuf;

/// Environment variable in which srun sends the user's own `argv[0]` when the placeholder
/// [`request::STEP_PROGRAM`] stands in its place. The name starts with SLURM because
/// `srun --export=NONE` lets nothing else through (env.c: `env_array_merge_slurm`).
pub const COMMAND_ENV: &str = "SLURM_SPANK_VM_COMMAND";

/// Environment variable by which srun says that the step is `--multi-prog`; slurmstepd does not
/// tell its plugins.
pub const MULTI_PROG_ENV: &str = "SLURM_SPANK_VM_MULTI_PROG";

/// Environment variable by which srun says that it was called with `-v`.
pub const VERBOSE_ENV: &str = "SLURM_SPANK_VM_VERBOSE";

/// Environment variable in which a client sends the directory that a relative path of `--vm-image` starts at:
/// the node gets the option's value as the user wrote it.
pub const IMAGE_DIR_ENV: &str = "SLURM_SPANK_VM_IMAGE_DIR";

/// What the plugin remembers from one hook to the next.
#[derive(Debug)]
pub struct Plugin {
    /// The arguments in plugstack.conf. Wrong ones matter to VM steps only.
    pub args: Result<Args, ArgsError>,
    /// The options given so far.
    pub wish: Wish,
    /// What went wrong in a hook that must not fail.
    parked: Option<Error>,
    /// This node's directory for copies of images.
    image_cache_dir: Option<PathBuf>,
    /// The image that was last found to be good, since clients ask once per component of a
    /// heterogeneous job.
    checked: Option<String>,
}

impl Plugin {
    /// The state at `slurm_spank_init`.
    pub fn new(arguments: &[OsString]) -> Self {
        Self { args: Args::parse(arguments), wish: Wish::default(), parked: None, image_cache_dir: None, checked: None }
    }

    /// The arguments, for a VM step.
    fn args(&self) -> Result<&Args, Error> {
        self.args.as_ref().map_err(|error| Error::Args(error.clone()))
    }
}
