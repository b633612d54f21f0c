//! The host's end of the channel to a guest: the one place with a HELLO, a decoder, a clock and a poll.
//!
//! ```text
//! relay (a task's commands) ─┐
//! template's builder ────────┼─► Events: sleep ─► Vm: frames, console, monitor, deadline, heartbeat ─► Listener::hear
//! save (the exporter) ───────┘                     │
//!                                                  └─► QEMU's process, which lives no longer than its Vm
//! ```
//!
//! If the tasks of a node share a VM, its keeper is behind the channel, and QEMU is the keeper's.
//!
//! A [`Vm`] owns its process, its monitor, its progress and its deadline. Its user handles the commands, and gets
//! their messages as a [`Listener`], with VM and task number.

mod backing;
mod channel;
mod clock;
mod events;
mod failure;
mod heartbeat;
mod keeper_frames;
mod lesson;
#[cfg(any(test, feature = "fuzzing"))]
mod stand_in;
#[cfg(test)]
mod tests;
mod turn;
mod vm;
mod wall_clock;

pub use channel::{Address, Listener, Outgoing, Refusal};
pub use clock::{AwakeClock, Deadline};
pub use events::{Events, nonce};
pub use failure::Failure;
pub(crate) use keeper_frames::{Attach, Word};
pub use lesson::Lesson;
#[cfg(test)]
pub use stand_in::Peer;
#[cfg(any(test, feature = "fuzzing"))]
pub use stand_in::{PIECE_MAX, play};
pub use vm::{Vm, Wait};
pub use wall_clock::wall_clock;
