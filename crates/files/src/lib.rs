//! The file server: the host's end of `proto::files`, one process for each VM.
//!
//! ```text
//! guest's kernel ── FUSE ── courier ══ port ══ QEMU ══ socket pair ══ serve() ── system calls ── the user's directories
//!                             ╚═══════ slots: pages of the guest ═══════╝
//! ```
//!
//! # The border to the runner
//!
//! The runner starts `spank-vm file-server` **before** QEMU, with
//!
//! - standard input: a socket or pipe of the runner's, on which [`control`] messages arrive: first [`control::Shares`],
//!   once; then, when QEMU runs, [`control::Memory`], at most once. Its end means that nothing more will come, not that
//!   the server should end.
//! - descriptor [`PORT_FD`]: one end of a stream socket pair. QEMU has the other as the character device of the port.
//! - standard error: where one line goes if the server cannot go on.
//!
//! and nothing else: no environment, no other descriptor (they are closed). The server ends with 0 when the port's other end is
//! closed, which is when QEMU is gone; with 1 after one line on standard error; and it dies with the runner. It answers
//! requests as soon as it knows the shares. Before it knows the memory, or without it, all data travels over the port.
//!
//! Where Yama restricts ptrace, QEMU must name the server: `prctl(PR_SET_PTRACER, pid of the server)` between fork and
//! exec. QEMU must be of the same user and dumpable, with no capability that the server lacks. Otherwise the server
//! says that no slot is usable, and everything is slower and otherwise the same.

mod advance;
mod ahead;
mod belief;
mod buffer;
mod closing;
pub mod control;
mod dispatch;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod handles;
mod labels;
mod locks;
mod missing;
mod nodes;
mod ops;
mod past;
mod process;
mod seat;
mod server;
mod share;
mod slots;
mod sys;
mod walk;
mod wire;

pub use error::ServeError;

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;

use control::{Memory, Shares};
use server::Server;

/// The number of the descriptor on which the server finds the port.
pub const PORT_FD: RawFd = 3;

/// What a server works with.
#[derive(Debug)]
pub struct Options {
    /// The stream to the guest's courier.
    pub port: OwnedFd,
    /// Where the [`control`] messages come from.
    pub control: OwnedFd,
}

/// Serves until the port is closed.
///
/// # Errors
/// [`ServeError`].
pub fn serve(options: Options) -> Result<(), ServeError> {
    let mut control = File::from(options.control);
    let shares = Shares::read(&mut control)?;
    let prepare = |error: sys::Errno| ServeError::Process {
        what: "prepare for signals",
        source: io::Error::from_raw_os_error(error.0),
    };
    sys::lock::prepare().map_err(prepare)?;
    let server = Server::new(options.port, share::open_all(&shares)?);
    let listener = Arc::downgrade(&server);
    let thread = thread::Builder::new().name("control".to_owned()).spawn(move || {
        // What the runner cannot say is not said: then data travels over the port.
        let memory = Memory::read(&mut control).unwrap_or(None);
        if let Some(server) = listener.upgrade() {
            server.memory(memory);
        }
    });
    thread.map_err(|source| ServeError::Process { what: "start a thread", source })?;
    server.run()
}

/// The whole process `spank-vm file-server`: confines itself, and serves what the runner left for it.
///
/// # Errors
/// [`ServeError`].
pub fn run() -> Result<(), ServeError> {
    process::confine(PORT_FD)?;
    let (control, port) = process::inherited(PORT_FD)?;
    serve(Options { port, control })
}
