//! The channel between the runner on the host and the agent in the guest.
//!
//! One byte stream (a virtio-serial port) carries frames both ways. This module is the whole wire
//! format: no I/O, no `unsafe`, no allocation that the peer can make grow. **The guest is hostile
//! input**: whatever bytes arrive, the decoder answers with a message or an error, never a panic.
//!
//! # Life of a session
//!
//! ```text
//! runner                                        agent
//!   HELLO version nonce            ───────────►   (waits for it, drops anything before)
//!                                  ◄───────────   HELLO version same-nonce boot-times
//!   CLOCK HOSTNAME ENTROPY SHARE…  ───────────►   (also CPUS, MEMORY, LINK, ZONE, TASKS, NETWORK, ADDRESS, HOSTS, RESOLVER)
//!   USER GROUP… CREDENTIALS CWD ARG… ENV… ────►   (also RLIMIT, PRIORITY, CPU-SET, PTY, MERGE-STDERR, SOCKET, LISTENER)
//!   FILE FILE-DATA… START          ───────────►
//!                                  ◄───────────   ASK-CLOCK      (only if CLOCK was long on its way; a few times)
//!   CLOCK                          ───────────►   (the answer to ASK-CLOCK)
//!                                  ◄───────────   STARTED pid   or   FAILED why
//!   DATA stdin  WINDOW  SIGNAL     ◄──────────►   DATA stdout/stderr  WINDOW  EOF
//!   DATA socket WINDOW  EOF        ◄──────────►   DATA socket WINDOW  EOF
//!                                  ◄───────────   EXIT           (after EOF of both outputs)
//!   SETTLE                         ───────────►   (only before a template is saved; answered by SYNCED)
//!   PING                           ───────────►   (now and then while the command runs; answered by PONG)
//!   CLOCK                          ───────────►   (the answer to PONG)
//! ```
//!
//! If several tasks share a VM, each is described, started and ended on its own, by its number; what concerns the machine
//! comes once, before all of them.
//!
//! To save a VM's root, the runner opens another session after EXIT: HELLO, TAKE-BACK, and the agent's own exporter
//! as the command.
//!
//! A virtio-serial port tells neither side when the other connects, and after a clone it may hold
//! bytes of an earlier session: that is what the HELLO with its nonce is for ([`Decoder`] skips to
//! it). The nonce is a session number, not a secret.
//!
//! # Flow control
//!
//! Each data stream of each task has a window of [`WINDOW`] bytes. A sender may have that many
//! bytes unacknowledged; the receiver returns credit with WINDOW frames once it has passed bytes
//! on. A reader that stops therefore blocks its own stream only, and memory is bounded by
//! `streams × WINDOW` on either side.

#![forbid(unsafe_code)]

mod error;
pub mod files;
mod frame;
mod message;
mod network;
mod payload;
#[cfg(test)]
mod tests;
mod to_guest;
mod to_host;
mod window;

pub use error::ProtoError;
pub use frame::{Decoder, Frame};
pub use message::{BootTimes, ExitStatus, FailKind, Stream};
pub use network::{Inet, Interface, MoreAddresses};
pub use to_guest::ToGuest;
pub use to_host::ToHost;
pub use window::{RecvWindow, SendWindow};

/// Version of the wire format. Runner and agent must agree exactly: they are built from one source
/// and travel in one package, the check gives a clear error when somebody kept an old kit.
pub const VERSION: u16 = 11;

/// Name of the virtio-serial port, as the guest sees it in `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "org.spank-vm.agent";

/// Bytes in a frame header: kind (1), stream (1), task (2), payload length (4), little endian.
pub const HEADER_LEN: usize = 8;

/// Largest payload of a frame in bytes. Linux caps one argument or environment string at 128 KiB
/// (`MAX_ARG_STRLEN`), so every item of a task fits in one frame.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Largest payload that either side puts into one DATA or FILE-DATA frame, in bytes.
pub const DATA_CHUNK: usize = 64 * 1024;

/// Unacknowledged bytes allowed per stream.
pub const WINDOW: u32 = 256 * 1024;

/// Sockets that a task may have besides its three streams.
pub const SOCKETS_MAX: u8 = 8;

/// Starts the payload of every HELLO. A receiver that is not yet in step looks for it in the stream.
pub const MAGIC: [u8; 16] = *b"\xf5spank-vm hello\n";
