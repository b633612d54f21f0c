//! The SPANK plugin: turns a step that asked for an image into `spank-vm-step`.
//!
//! What it does in each program that loads it:
//!
//! | file | program |
//! | --- | --- |
//! | [`client`] | srun, sbatch, salloc: options, submit-time checks, the placeholder command |
//! | [`component`] | the same where there are several components, and their counterpart on the node |
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
pub mod component;
pub mod error;
mod exports;
mod imagecheck;
mod multiprog;
pub mod options;
pub mod spank;
pub mod stepd;
pub mod sweep;
mod sys;
mod version;

pub use exports::*;
pub use version::{plugin_name, plugin_type, plugin_version};

use args::{Args, ArgsError};
use component::Component;
use error::Error;
use options::Options;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
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

/// Environment variable in which srun sends what each component of a heterogeneous step asked for ([`component`]).
pub const COMPONENTS_ENV: &str = "SLURM_SPANK_VM_COMPONENTS";

/// Environment variable in which sbatch and salloc say that their job asked for a VM, and for which image.
pub const JOB_IMAGE_ENV: &str = "SLURM_JOB_VM_IMAGE";

/// What the plugin remembers from one hook to the next.
#[derive(Debug)]
pub struct Plugin {
    /// The arguments in plugstack.conf. Wrong ones matter to VM steps only.
    pub args: Result<Args, ArgsError>,
    /// The options given so far; in clients those of the last component.
    pub options: Options,
    /// In clients: the components whose options are complete.
    components: Vec<Component>,
    /// In sbatch and salloc: the variables by which options are inherited, before these set them themselves.
    inherited: BTreeMap<String, OsString>,
    /// Whether the options in `options` are those of the last one of `components`: the next value begins a new one.
    complete: bool,
    /// What went wrong in a hook that must not fail.
    deferred: Option<Error>,
    /// This node's directory for copies of images.
    image_cache_dir: Option<PathBuf>,
    /// The image that was last found to be good, since clients ask once per component of a
    /// heterogeneous job.
    checked: Option<String>,
}

impl Plugin {
    /// The state at `slurm_spank_init`.
    pub fn new(arguments: &[OsString]) -> Self {
        Self {
            args: Args::parse(arguments),
            options: Options::default(),
            components: Vec::new(),
            inherited: BTreeMap::new(),
            complete: false,
            deferred: None,
            image_cache_dir: None,
            checked: None,
        }
    }

    /// Takes the value of option number `option`.
    pub fn take(&mut self, option: usize, value: Option<impl AsRef<OsStr>>) {
        self.begin_component();
        self.options.set(option, value);
    }

    /// Forgets what belongs to the last component. Slurm does not: it would pass it on to the next one.
    fn begin_component(&mut self) {
        if std::mem::take(&mut self.complete) {
            self.options = Options::default();
        }
    }

    /// Whether any part of what is being started must not run on the bare host.
    fn wants_vm(&self) -> bool {
        self.options.wants_vm() || self.components.iter().any(Component::wants_vm)
    }

    /// Whether components' commands were hidden one by one.
    fn are_hidden(&self) -> bool {
        self.components.iter().any(Component::is_hidden)
    }

    /// The arguments, for a VM step.
    fn args(&self) -> Result<&Args, Error> {
        self.args.as_ref().map_err(|error| Error::Args(error.clone()))
    }
}
