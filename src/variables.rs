//! Environment variables in which the plugin in a client sends the plugin on a node what Slurm itself does not carry.

/// Environment variable in which srun sends the user's own `argv[0]` when the placeholder
/// [`request::STEP_PROGRAM`] stands in its place. The name starts with SLURM because
/// `srun --export=NONE` lets nothing else through (env.c: `env_array_merge_slurm`).
pub const COMMAND_ENV: &str = "SLURM_SPANK_VM_COMMAND";

/// Environment variable by which srun says that the step is `--multi-prog`; slurmstepd does not
/// tell its plugins.
pub const MULTI_PROG_ENV: &str = "SLURM_SPANK_VM_MULTI_PROG";

/// Environment variable by which srun says that it was called with `-v`.
pub const VERBOSE_ENV: &str = "SLURM_SPANK_VM_VERBOSE";

/// Environment variable by which srun says that its user asked for an interface for MPI programs: in Slurm's own
/// variable for it a node also finds the site's `MpiDefault`.
pub const MPI_ENV: &str = "SLURM_SPANK_VM_MPI";

/// Environment variable in which a client sends the directory that a relative path of `--vm-image` starts at:
/// the node gets the option's value as the user wrote it.
pub const IMAGE_DIR_ENV: &str = "SLURM_SPANK_VM_IMAGE_DIR";

/// Environment variable in which srun sends what each component of a heterogeneous step asked for ([`super::component`]).
pub const COMPONENTS_ENV: &str = "SLURM_SPANK_VM_COMPONENTS";

/// Environment variable in which sbatch and salloc say that their job asked for a VM, and for which image.
pub const JOB_IMAGE_ENV: &str = "SLURM_JOB_VM_IMAGE";
