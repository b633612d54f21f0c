//! What tests, benches and fuzz targets share.
//!
//! [`cluster`] is a private Slurm on this machine: the scripts in `testkit/cluster` and their Rust interface. [`suite`]
//! runs many cases on one, [`measure`] a measurement. [`lab`] is the same with node VMs, nodes with a kernel and a systemd of
//! their own.

#![forbid(unsafe_code)]

pub mod clock;
pub mod cluster;
pub mod fuzzing;
pub mod lab;
pub mod measure;
pub mod place;
pub mod process;
pub mod random;
pub mod suite;
pub mod undo;
pub mod wait;

mod ran;

pub use cluster::Cluster;
pub use ran::{Ran, is_chatter, is_waiting, ran, system};
