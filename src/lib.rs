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
mod given;
mod imagecheck;
mod multiprog;
mod plugin;
pub mod spank;
pub mod stepd;
pub mod sweep;
mod sys;
mod variables;
mod version;

pub use exports::*;
pub use version::{plugin_name, plugin_type, plugin_version};
