//! Why a VM ended, if nobody wanted that.

use crate::error::Fault;

/// Why a VM ended unexpectedly; the text is for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// An expected event did not come in time, or cannot come any more.
    TimedOut(String),
    /// QEMU has ended, or the agent sent a wrong message.
    Broken(String),
    /// Somebody else ended QEMU or the file server by a signal, which says nothing about guest and node.
    Killed(String),
    /// This node does not give what the VM needs: a disk of it fails.
    NodeFailed(String),
    /// The keeper of a shared VM says that it cannot be had any longer, and whose fault that is.
    Refused(Fault, String),
}

impl Failure {
    /// The text.
    pub fn why(&self) -> &str {
        match self {
            Self::TimedOut(why)
            | Self::Broken(why)
            | Self::Killed(why)
            | Self::NodeFailed(why)
            | Self::Refused(_, why) => why,
        }
    }
}
