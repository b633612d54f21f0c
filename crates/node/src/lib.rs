//! What lies on a node: the tasks that run there, and processes that are named for ever.

// println! and eprintln! panic when nobody reads any more.
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![forbid(unsafe_code)]

pub mod process;
pub mod status;
