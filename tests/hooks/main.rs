//! The real library, loaded by a C program that plays Slurm (`fake_slurmstepd.c`).
//!
//! What the hooks decide is tested beside them with a fake in Rust. These tests are about the
//! border to C: exported symbols, calls and their types, panics, loading and unloading.

mod stand_in;

mod library;

mod client;
mod directories;
mod sweep;
mod task;
mod ways;

mod memory;
mod panics;
