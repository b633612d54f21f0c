//! What lies on a node.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod dir;
pub mod layout;
pub mod lock;
pub mod process;
pub mod space;
pub mod status;
mod sys;
pub mod text;
pub mod trust;
