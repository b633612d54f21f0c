//! What a user asks of spank-vm: the options (`options.rs` lists them and says how one is added), and the request
//! that the plugin makes of their values for the runner.

#![forbid(unsafe_code)]

mod options;
mod values;
mod vm_request;

use std::fmt;

pub use self::options::*;
pub use self::vm_request::{JobRef, VmRequest};

/// Environment variable that carries a [`VmRequest`] from the plugin to the runner. The runner
/// removes it, and everything that starts with `SPANK_VM_`, before the command sees the environment.
pub const REQUEST_ENV: &str = "SPANK_VM_REQUEST";

/// Name under which the program is started as a task. It doubles as the word that srun sends in
/// place of the user's command, so that a node without the plugin finds nothing to execute.
pub const STEP_PROGRAM: &str = "spank-vm-step";

/// Exit code of a step that failed because of its node: `EX_TEMPFAIL` of sysexits.h.
pub const EXIT_NODE_FAILED: u8 = 75;

/// Why a value of an option or a request is refused. The text names the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError(String);

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequestError {}
