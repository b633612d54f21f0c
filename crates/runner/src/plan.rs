//! Memory and processors of a slot's VMs: plain arithmetic, shown in the error when it does not fit.

use crate::error::{Fault, RunError, ensure};
use crate::limits::Memory;
use qemu::{MIN_GUEST_MIB, VmSize};

/// The resources of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotResources {
    /// VMs that share it.
    pub vms: u32,
    /// The task's memory, where it is limited.
    pub memory: Option<Memory>,
    /// Guest memory per VM in MiB where it is not limited.
    pub default_mib: u64,
    /// What QEMU itself needs per VM, in MiB.
    pub overhead_mib: u64,
    /// Processors the task may run on.
    pub cpus: u32,
    /// Guest memory per VM in MiB that the user asked for.
    pub wanted_mib: Option<u64>,
    /// Processors per VM that the user asked for.
    pub wanted_cpus: Option<u32>,
}

/// Divides the slot among its VMs.
///
/// # Errors
/// When the memory is too little for that many VMs; the text shows the arithmetic.
pub fn divide(slot: &SlotResources) -> Result<VmSize, RunError> {
    let SlotResources { vms, overhead_mib, .. } = *slot;
    let share = |task_mib: u64| (task_mib / u64::from(vms)).saturating_sub(overhead_mib);
    if let Some(Memory { mib: task_mib, because }) = &slot.memory {
        let least = slot.wanted_mib.unwrap_or(MIN_GUEST_MIB);
        ensure!(
            share(*task_mib) >= least,
            Fault::User,
            "--vms-per-slot={vms} needs {vms} × ({least} MiB + {overhead_mib} MiB overhead) = {} MiB, \
             the task has {task_mib} MiB{because}: ask for more memory (--mem) or fewer VMs",
            u64::from(vms).saturating_mul(least.saturating_add(overhead_mib)),
        );
    }
    let memory_mib =
        slot.wanted_mib.or(slot.memory.as_ref().map(|memory| share(memory.mib))).unwrap_or(slot.default_mib);
    ensure!(
        memory_mib >= MIN_GUEST_MIB,
        Fault::User,
        "--vm-mem={memory_mib}: a VM needs at least {MIN_GUEST_MIB} MiB of memory"
    );
    let cpus = slot.wanted_cpus.unwrap_or((slot.cpus / vms).max(1));
    ensure!(
        cpus <= slot.cpus,
        Fault::User,
        "--vm-cpus={cpus}: the task has {} processors; ask for more with --cpus-per-task",
        slot.cpus
    );
    Ok(VmSize { memory_mib, cpus })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotResources = SlotResources {
        vms: 1,
        memory: Some(Memory { mib: 2048, because: String::new() }),
        default_mib: 512,
        overhead_mib: 96,
        cpus: 4,
        wanted_mib: None,
        wanted_cpus: None,
    };

    #[test]
    fn vms_share_the_task_and_leave_room_for_qemu() {
        assert_eq!(divide(&SLOT).unwrap(), VmSize { memory_mib: 1952, cpus: 4 });
        let four = SlotResources { vms: 4, ..SLOT };
        assert_eq!(divide(&four).unwrap(), VmSize { memory_mib: 416, cpus: 1 });
        let unlimited = SlotResources { vms: 8, memory: None, ..SLOT };
        assert_eq!(divide(&unlimited).unwrap(), VmSize { memory_mib: 512, cpus: 1 });
    }

    #[test]
    fn what_the_user_asks_for_is_given_if_the_task_has_it() {
        let wanted = SlotResources { vms: 2, wanted_mib: Some(300), wanted_cpus: Some(4), ..SLOT };
        assert_eq!(divide(&wanted).unwrap(), VmSize { memory_mib: 300, cpus: 4 });
        let error = |slot: SlotResources| divide(&slot).unwrap_err().to_string();
        let text = error(SlotResources { wanted_mib: Some(1000), ..wanted.clone() });
        assert!(text.contains("2 × (1000 MiB + 96 MiB overhead) = 2192 MiB, the task has 2048 MiB"), "{text}");
        let text = error(SlotResources { wanted_cpus: Some(8), ..wanted.clone() });
        assert!(text.contains("--vm-cpus=8: the task has 4 processors"), "{text}");
        let text = error(SlotResources { wanted_mib: Some(64), ..wanted });
        assert!(text.contains("--vm-mem=64: a VM needs at least 128 MiB"), "{text}");
    }

    #[test]
    fn too_many_vms_are_refused_with_the_arithmetic_and_where_the_rest_went() {
        let error = divide(&SlotResources { vms: 16, ..SLOT }).unwrap_err().to_string();
        assert!(error.contains("16 × (128 MiB + 96 MiB overhead) = 3584 MiB, the task has 2048 MiB: ask"), "{error}");
        let memory = Some(Memory { mib: 300, because: " (others use 1748)".into() });
        let error = divide(&SlotResources { vms: 2, memory, ..SLOT }).unwrap_err().to_string();
        assert!(error.contains("= 448 MiB, the task has 300 MiB (others use 1748): ask for more memory"), "{error}");
    }
}
