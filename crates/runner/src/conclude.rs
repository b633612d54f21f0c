//! The result of a slot, from the ends of its VMs; and the lines that tell the user why a VM ended.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::AccelChoice;
use crate::error::{Fault, RunError};
use crate::slot::Slot;
use crate::task::End;
use crate::{limits, log, notice};
use node::layout::this_node;
use node::progress::Phase;
use proto::{ExitStatus, FailKind};

/// Tells the user why VMs of a slot ended, each reason once: when it happens, or at the slot's end.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    slot: &'a Slot,
    told: RefCell<Vec<Told>>,
}

/// A reason that was told, and the VMs that ended for it.
#[derive(Debug)]
struct Told {
    text: String,
    vms: Vec<usize>,
    /// Whether it is about VMs and not about what all of them run.
    is_of_vm: bool,
}

impl<'a> Report<'a> {
    /// A report on this slot; nothing was told yet.
    pub(crate) fn new(slot: &'a Slot) -> Self {
        Self { slot, told: RefCell::default() }
    }

    /// The line for the end of a VM, unless its command ended by itself or the reason was told before. May be asked
    /// again and again. A slot of several VMs has numbers for them, by which `SLURM_VM_INDEX` names them too.
    pub(crate) fn line(&self, vm: usize, end: &End) -> Option<String> {
        if self.told.borrow().iter().any(|told| told.vms.contains(&vm)) {
            return None;
        }
        let error = failure(self.slot, end, true).err()?;
        self.line_for(vm, end, &error, self.slot.asked.vms() > 1)
    }

    fn line_for(&self, vm: usize, end: &End, error: &RunError, are_several: bool) -> Option<String> {
        let text = format!("{error:#}");
        let mut told = self.told.borrow_mut();
        if let Some(known) = told.iter_mut().find(|known| known.text == text) {
            if !known.vms.contains(&vm) {
                known.vms.push(vm);
            }
            return None;
        }
        let is_of_vm = are_several && matches!(end, End::NeverUp(_) | End::Broken(_) | End::NodeFailed(_));
        told.push(Told { text: text.clone(), vms: vec![vm], is_of_vm });
        Some(match is_of_vm {
            true => format!("error: VM {vm} of 0 to {}: {text}", self.slot.asked.vms().saturating_sub(1)),
            false => format!("error: {text}"),
        })
    }

    /// Combines the ends of all VMs: the highest code wins, and a signal counts as 128 + its number as in a shell.
    /// Reports what the user cannot see otherwise and was not told yet. `proven` says whether the accelerator is
    /// proven to run guests.
    pub(crate) fn conclude(&self, ends: &[End], proven: bool) -> ExitStatus {
        let mut statuses = Vec::new();
        for (vm, end) in ends.iter().enumerate() {
            match failure(self.slot, end, proven) {
                Ok(status) => statuses.push((status, None)),
                Err(error) => {
                    statuses.push((ExitStatus::Code(error.exit_code()), Some(error.fault())));
                    log::failure(&self.slot.image, Some(vm), &error, phase(end));
                    if let Some(line) = self.line_for(vm, end, &error, ends.len() > 1) {
                        notice::line(&line);
                    }
                }
            }
        }
        self.others().iter().for_each(|line| notice::line(line));
        // If the node is at fault, the other VMs' results do not hide that.
        let rank = |(status, fault): &(ExitStatus, Option<Fault>)| match status {
            _ if *fault == Some(Fault::Node) => u16::MAX,
            ExitStatus::Code(code) => u16::from(*code),
            ExitStatus::Signal(signo) => 128 + u16::from(*signo),
        };
        statuses.into_iter().max_by_key(rank).map_or(ExitStatus::Code(0), |(status, _)| status)
    }

    /// Lines about the VMs for which a reason was told of another one.
    fn others(&self) -> Vec<String> {
        let told = self.told.borrow();
        let of_several = told.iter().filter(|told| told.is_of_vm && told.vms.len() > 1);
        let line = |told: &Told| {
            let [first, rest @ ..] = &told.vms[..] else { return String::new() };
            let numbers = rest.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            let vms = if rest.len() == 1 { "VM" } else { "VMs" };
            format!("error: {vms} {numbers}: the same as VM {first}")
        };
        of_several.map(line).collect()
    }
}

/// Where in its life a VM was when it ended so.
fn phase(end: &End) -> &'static str {
    match end {
        End::NeverUp(_) | End::NodeFailed(_) => Phase::Start,
        End::Exited(_) | End::NotStarted(..) | End::Broken(_) | End::Refused(..) => Phase::Run,
        End::NotSaved(_) => Phase::Save,
    }
    .word()
}

/// The status of a command that ended; else the reason why it did not.
pub(crate) fn failure(slot: &Slot, end: &End, proven: bool) -> Result<ExitStatus, RunError> {
    let image = &slot.image;
    if let End::NodeFailed(why) | End::NeverUp(why) | End::Broken(why) = end
        && let Some(error) = limits::blame(why)
    {
        return Err(error);
    }
    Err(match end {
        End::Exited(status) => return Ok(*status),
        End::NotStarted(kind, why) => match kind {
            FailKind::Setup => RunError::new(Fault::Image, format!("image '{image}' cannot run the command: {why}")),
            FailKind::NotFound => RunError::new(Fault::NotFound, missing(slot, why)),
            FailKind::NotExecutable => RunError::new(Fault::NotExecutable, in_image(slot, why)),
        },
        End::NodeFailed(why) => RunError::node(why),
        End::Refused(fault, why) => RunError::new(*fault, why),
        // The user's command has not run yet, and the image does not decide what the site demands.
        End::NeverUp(why) if slot.config.accel == AccelChoice::Kvm && !proven => {
            RunError::new(Fault::Node, format!("this node ({}) cannot run VMs with KVM: {why}", this_node()))
        }
        End::NotSaved(why) => RunError::new(Fault::User, format!("the command succeeded, its VM is not saved: {why}")),
        End::NeverUp(why) => RunError::new(Fault::Image, format!("image '{image}' on {}: {why}", this_node())),
        End::Broken(why) => RunError::new(Fault::Guest, format!("image '{image}' on {}: {why}", this_node())),
    })
}

/// The agent's words about a file that is not there, and in which image it is not.
fn in_image(slot: &Slot, why: &str) -> String {
    match why.ends_with(": No such file or directory") {
        true => format!("{why} in image '{}'", slot.image),
        false => why.to_owned(),
    }
}

/// The same of the command itself. A user who has it on the host is told that the VM is another system.
fn missing(slot: &Slot, why: &str) -> String {
    let command = slot.command.argv.first().filter(|_| !slot.command.batch_script);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let hint = command.and_then(|command| on_host(command, &path)).map(|path| {
        format!(
            "; {} of node {} is not in the VM (install it in an image, or share its directory)",
            path.display(),
            this_node()
        )
    });
    in_image(slot, why) + &hint.unwrap_or_default()
}

/// The file that a shell on this host would execute for the command.
fn on_host(command: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let is_program =
        |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if command.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(command)).filter(is_program);
    }
    let directories = path.as_bytes().split(|&byte| byte == b':').map(|dir| Path::new(OsStr::from_bytes(dir)));
    directories.filter(|dir| dir.is_absolute()).map(|dir| dir.join(command)).find(is_program)
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
        let slot = slot(AccelChoice::Auto);
        let conclude = |ends: &[End]| Report::new(&slot).conclude(ends, true);
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
    fn each_reason_is_told_once_with_the_number_of_its_vm() {
        let mut slot = slot(AccelChoice::Auto);
        slot.asked.set("vms-per-slot", "4").unwrap().unwrap();
        let report = Report::new(&slot);
        let (broken, node) = (End::Broken("QEMU was killed".into()), this_node());
        let line = format!("error: VM 2 of 0 to 3: image 'tiny' on {node}: QEMU was killed");
        assert_eq!(report.line(2, &broken), Some(line));
        for vm in [2, 0, 3, 0] {
            assert_eq!(report.line(vm, &broken), None);
        }
        assert_eq!(report.line(1, &End::Exited(ExitStatus::Code(3))), None);
        assert_eq!(report.others(), ["error: VMs 0, 3: the same as VM 2"]);
        let absent = End::NotStarted(FailKind::NotFound, "foo: No such file or directory".into());
        assert!(report.line(1, &absent).unwrap().starts_with("error: foo: No such file or directory in image 'tiny'"));
        assert_eq!((report.line(4, &absent), report.others().len()), (None, 1), "it is not about a VM");
    }

    #[test]
    fn a_command_of_the_host_alone_is_said_to_be_there() {
        let found = |command: &str, path: &str| on_host(OsStr::new(command), OsStr::new(path));
        assert_eq!(found("sh", "/none:bin:/bin"), Some("/bin/sh".into()));
        assert_eq!(found("/bin/sh", ""), Some("/bin/sh".into()));
        for absent in ["/etc/passwd", "no-such-command", "/bin", "."] {
            assert_eq!(found(absent, "/bin:/etc:/"), None, "{absent}");
        }
        let mut slot = slot(AccelChoice::Auto);
        slot.command = vec!["/bin/sh".into()].into();
        assert!(missing(&slot, "/bin/sh: No such file or directory").contains("in image 'tiny'; /bin/sh of node "));
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
