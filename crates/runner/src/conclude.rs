//! The result of a slot, from the ends of its VMs.

use crate::config::AccelChoice;
use crate::error::{Fault, RunError};
use crate::slot::Slot;
use crate::task::End;
use crate::{log, notice};
use node::layout::this_node;
use node::progress::Phase;
use proto::{ExitStatus, FailKind};

/// Combines the ends of all VMs: the highest code wins, and a signal counts as 128 + its number as in a shell.
/// Reports what the user cannot see otherwise, each sentence once. `proven` says whether the accelerator is proven
/// to run guests.
pub(crate) fn conclude(slot: &Slot, ends: &[End], proven: bool) -> ExitStatus {
    let mut said: Vec<String> = Vec::new();
    let mut statuses = Vec::new();
    for (vm, end) in ends.iter().enumerate() {
        match failure(slot, end, proven) {
            Ok(status) => statuses.push((status, None)),
            Err(error) => {
                statuses.push((ExitStatus::Code(error.exit_code()), Some(error.fault())));
                log::failure(&slot.image, Some(vm), &error, phase(end));
                let text = format!("error: {error:#}");
                if !said.contains(&text) {
                    notice::line(&text);
                    said.push(text);
                }
            }
        }
    }
    // If the node is at fault, the other VMs' results do not hide that.
    let rank = |(status, fault): &(ExitStatus, Option<Fault>)| match status {
        _ if *fault == Some(Fault::Node) => u16::MAX,
        ExitStatus::Code(code) => u16::from(*code),
        ExitStatus::Signal(signo) => 128 + u16::from(*signo),
    };
    statuses.into_iter().max_by_key(rank).map_or(ExitStatus::Code(0), |(status, _)| status)
}

/// Where in its life a VM was when it ended so.
fn phase(end: &End) -> &'static str {
    match end {
        End::NeverUp(_) | End::NodeFailed(_) => Phase::Start,
        End::Exited(_) | End::NotStarted(..) | End::Broken(_) => Phase::Run,
        End::NotSaved(_) => Phase::Save,
    }
    .word()
}

/// The status of a command that ended; else the reason why it did not.
fn failure(slot: &Slot, end: &End, proven: bool) -> Result<ExitStatus, RunError> {
    let image = &slot.image;
    Err(match end {
        End::Exited(status) => return Ok(*status),
        End::NotStarted(kind, why) => match kind {
            FailKind::Setup => RunError::new(Fault::Image, format!("image '{image}' cannot run the command: {why}")),
            FailKind::NotFound => RunError::new(Fault::NotFound, why),
            FailKind::NotExecutable => RunError::new(Fault::NotExecutable, why),
        },
        End::NodeFailed(why) => RunError::node(why),
        // The user's command has not run yet, and the image does not decide what the site demands.
        End::NeverUp(why) if slot.config.accel == AccelChoice::Kvm && !proven => {
            RunError::new(Fault::Node, format!("this node ({}) cannot run VMs with KVM: {why}", this_node()))
        }
        End::NotSaved(why) => RunError::new(Fault::User, format!("the command succeeded, its VM is not saved: {why}")),
        End::NeverUp(why) => RunError::new(Fault::Image, format!("image '{image}' on {}: {why}", this_node())),
        End::Broken(why) => RunError::new(Fault::Guest, format!("image '{image}' on {}: {why}", this_node())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn slot(accel: AccelChoice) -> Slot {
        Slot::plain(Config { accel, ..Config::default() }, "tiny".parse().unwrap(), vec!["true".into()])
    }

    fn blame(accel: AccelChoice, end: &End, proven: bool) -> (Fault, String) {
        let error = failure(&slot(accel), end, proven).unwrap_err();
        (error.fault(), error.to_string())
    }

    #[test]
    fn the_highest_code_counts_and_a_node_s_fault_above_all() {
        let code = |code| End::Exited(ExitStatus::Code(code));
        let conclude = |ends: &[End]| conclude(&slot(AccelChoice::Auto), ends, true);
        assert_eq!(conclude(&[code(3), End::Exited(ExitStatus::Signal(9)), code(0)]), ExitStatus::Signal(9));
        assert_eq!(conclude(&[code(200), End::NodeFailed("no room".into())]), ExitStatus::Code(75));
        assert_eq!(conclude(&[code(75), code(76)]), ExitStatus::Code(76), "a command may say what it likes");
        assert_eq!(conclude(&[End::NotStarted(FailKind::NotFound, "no".into()), code(1)]), ExitStatus::Code(127));
    }

    #[test]
    fn a_guest_that_never_came_up_is_the_nodes_fault_only_where_kvm_is_demanded_and_unproven() {
        let (node, end) = (this_node(), End::NeverUp("no answer".into()));
        let (fault, line) = blame(AccelChoice::Kvm, &end, false);
        assert_eq!((fault, line), (Fault::Node, format!("this node ({node}) cannot run VMs with KVM: no answer")));
        for (accel, proven) in [(AccelChoice::Kvm, true), (AccelChoice::Auto, false), (AccelChoice::Tcg, true)] {
            let image = (Fault::Image, format!("image 'tiny' on {node}: no answer"));
            assert_eq!(blame(accel, &end, proven), image);
        }
    }

    #[test]
    fn each_end_has_its_blame() {
        let fault = |end: End| blame(AccelChoice::Auto, &end, true).0;
        assert_eq!(fault(End::NotStarted(FailKind::Setup, "x".into())), Fault::Image);
        assert_eq!(fault(End::Broken("x".into())), Fault::Guest);
        assert_eq!(fault(End::NotSaved("x".into())), Fault::User);
        assert_eq!(blame(AccelChoice::Auto, &End::NodeFailed("x".into()), true).0.exit_code(), 75);
    }
}
