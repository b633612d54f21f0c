//! Run any Slurm job step inside a virtual machine.
//!
//! One source, three products, chosen by cargo features:
//!
//! | feature | product | runs as |
//! | --- | --- | --- |
//! | `plugin` | `spank_vm.so` | a SPANK plugin inside srun, sbatch, salloc, slurmstepd |
//! | `runner` | `spank-vm` | the user, in the task's place, on the node |
//! | `agent` | `spank-vm-agent` | PID 1 of the guest |
//!
//! Data flows one way: plugin → [`request`] → runner → [`proto`] → agent. ARCHITECTURE.md tells
//! the whole way of a job.

// println! and eprintln! panic when nobody reads any more: see `notice`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(any(feature = "runner", feature = "agent"))]
pub mod archive;
#[cfg(any(feature = "plugin", feature = "runner"))]
pub mod process;
pub mod proto;
pub mod request;

#[cfg(feature = "plugin")]
pub mod plugin;
#[cfg(feature = "plugin")]
pub mod spank;
#[cfg(feature = "plugin")]
mod sys;

#[cfg(feature = "runner")]
pub mod cli;
#[cfg(feature = "runner")]
pub mod config;
#[cfg(feature = "runner")]
pub mod digest;
#[cfg(all(feature = "runner", any(test, fuzzing)))]
pub mod fuzzing;
#[cfg(feature = "runner")]
pub mod image;
#[cfg(feature = "runner")]
pub mod kit;
#[cfg(feature = "runner")]
pub mod notice;
#[cfg(feature = "runner")]
pub mod runner;
#[cfg(feature = "runner")]
pub mod state;

#[cfg(feature = "agent")]
pub mod agent;
