//! What a user asks of spank-vm: the options (`options.rs` lists them and says how one is added), and the request
//! that the plugin makes of their values for the runner.

#![forbid(unsafe_code)]

mod error;
mod network_part;
mod options;
mod values;
mod vm_option;
mod vm_request;

pub use self::error::RequestError;
pub use self::network_part::{NetworkPart, OfNode};
pub use self::options::*;
pub use self::vm_option::{About, VmOption};
pub use self::vm_request::{Encoded, JobRef, Meeting, REQUEST_ENV, VmRequest, decode};

/// Name under which the program is started as a task. srun also sends it in place of the user's
/// command, so that a node without the plugin finds nothing to execute.
pub const STEP_PROGRAM: &str = "spank-vm-step";

/// Exit code of a step that failed because of its node: `EX_TEMPFAIL` of sysexits.h.
pub const EXIT_NODE_FAILED: u8 = 75;
