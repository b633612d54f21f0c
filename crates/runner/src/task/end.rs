//! How a command ended, or its VM before that.

use proto::{ExitStatus, FailKind};

use crate::error::Fault;
use crate::session::{Failure, Vm};

/// How a VM of a slot ended, as its command's user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its command ended.
    Exited(ExitStatus),
    /// Its command could not be started.
    NotStarted(FailKind, String),
    /// The guest never answered, so nothing of the command ran; the text says why, for the user.
    NeverUp(String),
    /// The VM itself failed later; the text says how.
    Broken(String),
    /// This node does not give what the VM needs: a disk of it fails.
    NodeFailed(String),
    /// The VM that it shares with others failed; the text says why, and whose fault that is.
    Refused(Fault, String),
    /// Its command succeeded, but its root could not be saved; the text says why.
    NotSaved(String),
}

impl End {
    /// The end of a command whose VM has ended.
    pub fn of_vm(vm: &Vm) -> Self {
        match vm.failure() {
            Some(Failure::NodeFailed(why)) => Self::NodeFailed(why.clone()),
            Some(Failure::Refused(fault, why)) => Self::Refused(*fault, why.clone()),
            Some(failure) if vm.has_answered() => Self::Broken(failure.why().to_owned()),
            Some(failure) => Self::NeverUp(failure.why().to_owned()),
            None => Self::Broken("it was ended before its command".to_owned()),
        }
    }
}
