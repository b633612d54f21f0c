//! VMs of machines that are larger than what QEMU and KVM make.

use crate::error::{Fault, RunError, ensure};
use crate::notice;
use crate::plan::processors;
use qemu::{Accel, EMULATED_MIB, PLAIN_CPUS, VmSize};

/// What a user has asked for by an option; the rest follows from the task, and may be less.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) memory_mib: Option<u64>,
    pub(crate) cpus: Option<u32>,
}

/// The size that a VM gets: `size`, or what there is. `most_cpus` is asked only for VMs of more than 255 processors, and
/// `None` if nobody knows.
///
/// # Errors
/// When more was asked for, and when `most_cpus` fails.
pub(crate) fn fit(
    size: VmSize,
    wanted: Wanted,
    accel: Accel,
    most_cpus: impl FnOnce() -> Result<u32, RunError>,
) -> Result<VmSize, RunError> {
    let mut fitting = size;
    if size.cpus > PLAIN_CPUS {
        let most = most_cpus()?;
        ensure!(
            wanted.cpus.is_none_or(|cpus| cpus <= most),
            Fault::User,
            "--vm-cpus={}: a VM has at most {most} processors on this node",
            size.cpus
        );
        fitting.cpus = size.cpus.min(most);
    }
    if accel == Accel::Tcg {
        ensure!(
            wanted.memory_mib.is_none_or(|mib| mib <= EMULATED_MIB),
            Fault::User,
            "--vm-mem={}: an emulated VM has at most {EMULATED_MIB} MiB of memory",
            size.memory_mib
        );
        fitting.memory_mib = size.memory_mib.min(EMULATED_MIB);
    }
    if fitting != size {
        notice::line(&format!(
            "warning: the VM has {} and {} MiB of memory, which is all that QEMU's machine takes on this node; \
             the task has {} and {} MiB (--vms-per-slot divides them)",
            processors(fitting.cpus),
            fitting.memory_mib,
            size.cpus,
            size.memory_mib
        ));
    }
    Ok(fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1 << 20;

    fn large(cpus: u32, memory_mib: u64) -> VmSize {
        VmSize { memory_mib, cpus }
    }

    #[test]
    fn a_vm_that_fits_is_as_it_was_and_costs_no_question() {
        for size in [large(255, 512), large(1, EMULATED_MIB)] {
            assert_eq!(fit(size, Wanted::default(), Accel::Tcg, || unreachable!()).unwrap(), size);
        }
        assert_eq!(
            fit(large(255, 4 * TIB), Wanted::default(), Accel::Kvm, || unreachable!()).unwrap().memory_mib,
            4 * TIB
        );
        assert_eq!(fit(large(288, TIB), Wanted::default(), Accel::Kvm, || Ok(288)).unwrap(), large(288, TIB));
    }

    #[test]
    fn what_follows_from_the_task_is_cut_to_what_there_is() {
        let cut = fit(large(384, 2 * TIB), Wanted::default(), Accel::Kvm, || Ok(288)).unwrap();
        assert_eq!(cut, large(288, 2 * TIB));
        let cut = fit(large(256, 2 * TIB), Wanted::default(), Accel::Tcg, || Ok(255)).unwrap();
        assert_eq!(cut, large(255, EMULATED_MIB));
    }

    #[test]
    fn what_was_asked_for_is_refused_with_the_value_and_the_limit() {
        let wanted = Wanted { cpus: Some(300), memory_mib: None };
        let error = fit(large(300, 512), wanted, Accel::Kvm, || Ok(288)).unwrap_err();
        assert!(error.to_string().starts_with("--vm-cpus=300: a VM has at most 288 processors"), "{error}");
        let wanted = Wanted { cpus: None, memory_mib: Some(TIB) };
        let error = fit(large(1, TIB), wanted, Accel::Tcg, || unreachable!()).unwrap_err();
        assert!(error.to_string().starts_with("--vm-mem=1048576: an emulated VM has at most 983040 MiB"), "{error}");
    }

    #[test]
    fn a_question_without_an_answer_is_an_error() {
        let ask = || Err(RunError::new(Fault::Node, "no answer"));
        assert!(fit(large(300, 512), Wanted::default(), Accel::Kvm, ask).is_err());
    }
}
