//! What is attached to VMs: a task's command in each, its streams, its signals, its end; and its description for
//! the agent.

mod attached;
mod command;
mod commands;
mod connection;
mod description;
mod end;
mod environment;
mod inherited;
mod output;
mod person;
mod pmi;
mod pmix;
mod pmix_server;
mod pump;
mod socket;
mod streams;
mod terminal;
mod way;

#[cfg(any(test, feature = "fuzzing"))]
pub use attached::Attached;
pub use command::Command;
pub use commands::Commands;
pub use description::{Guest, Task};
pub use end::End;
pub use output::{Output, Trouble};
pub use streams::{Input, Streams};
pub use terminal::{RawTerminal, same_file, terminal_size};
