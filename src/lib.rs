//! The SPANK plugin: turns a step that asked for an image into `spank-vm-step`.
//!
//! What it does in each program that loads it:
//!
//! | file | program |
//! | --- | --- |
//! | `client` | srun, sbatch, salloc: options, submit-time checks, the placeholder command |
//! | `component` | the same for several components, and the part on the node that reads them |
//! | `interactive` | the same for the shell that salloc starts on a node |
//! | `mpi` | the same for `--mpi`: which interfaces reach into VMs |
//! | `stepd` | slurmstepd: turns the task into `spank-vm-step`, cleans up after it |
//! | `meeting` | slurmstepd: how tasks find each other that share a VM |
//! | `network` | slurmstepd: the step's own network |
//! | `sweep` | slurmd and its epilog: leftovers of killed processes |
//! | `exports` | all of them: the functions Slurm calls; nothing else leaves the library |
//!
//! Two rules come from how Slurm treats failing hooks. In slurmstepd only `task_init` fails: a
//! failure before it drains the node or is lost, so an earlier error is kept until then. And a step
//! that asked for a VM never runs on the bare host, even where plugstack.conf says `optional` and
//! Slurm ignores what hooks return.

// println! and eprintln! panic if the reader has closed the pipe.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod client;
mod component;
mod error;
mod exports;
mod given;
mod imagecheck;
mod interactive;
mod meeting;
mod mpi;
mod multiprog;
mod network;
mod network_error;
mod plugin;
mod spank;
mod stepd;
mod sweep;
mod sys;
mod variables;
mod version;

pub use exports::*;
pub use version::{plugin_name, plugin_type, plugin_version};
