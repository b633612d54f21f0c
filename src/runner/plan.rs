//! Memory and processors of a slot's VMs: plain arithmetic, explained when it does not work out.

#![forbid(unsafe_code)]

use anyhow::ensure;

/// Least guest memory in MiB: the kit's kernel and initramfs need about 100 to come up.
pub const MIN_GUEST_MIB: u64 = 128;

/// What every VM of a slot gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSize {
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// Guest processors.
    pub cpus: u32,
}

/// What a slot has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotResources {
    /// VMs that share it.
    pub vms: u32,
    /// The task's memory in MiB, where Slurm limits it.
    pub memory_mib: Option<u64>,
    /// Guest memory per VM in MiB where it does not.
    pub default_mib: u64,
    /// What QEMU itself needs per VM, in MiB.
    pub overhead_mib: u64,
    /// Processors the task may run on.
    pub cpus: u32,
}

/// Divides the slot among its VMs.
///
/// # Errors
/// When the memory is too little for that many VMs; the text shows the arithmetic.
pub fn divide(slot: &SlotResources) -> anyhow::Result<VmSize> {
    let SlotResources { vms, overhead_mib, .. } = *slot;
    let memory_mib = match slot.memory_mib {
        None => slot.default_mib,
        Some(task_mib) => {
            let guest = (task_mib / u64::from(vms)).saturating_sub(overhead_mib);
            ensure!(
                guest >= MIN_GUEST_MIB,
                "--vms-per-slot={vms} needs {vms} × ({MIN_GUEST_MIB} MiB + {overhead_mib} MiB overhead) = {} MiB, \
                 the task has {task_mib} MiB: ask for more memory (--mem) or fewer VMs",
                u64::from(vms) * (MIN_GUEST_MIB + overhead_mib),
            );
            guest
        }
    };
    ensure!(
        memory_mib >= MIN_GUEST_MIB,
        "a VM needs at least {MIN_GUEST_MIB} MiB of memory, {memory_mib} MiB were asked for"
    );
    Ok(VmSize { memory_mib, cpus: (slot.cpus / vms).max(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotResources =
        SlotResources { vms: 1, memory_mib: Some(2048), default_mib: 512, overhead_mib: 96, cpus: 4 };

    #[test]
    fn vms_share_the_task_and_leave_room_for_qemu() {
        assert_eq!(divide(&SLOT).unwrap(), VmSize { memory_mib: 1952, cpus: 4 });
        let four = SlotResources { vms: 4, ..SLOT };
        assert_eq!(divide(&four).unwrap(), VmSize { memory_mib: 416, cpus: 1 });
        let unlimited = SlotResources { vms: 8, memory_mib: None, ..SLOT };
        assert_eq!(divide(&unlimited).unwrap(), VmSize { memory_mib: 512, cpus: 1 });
    }

    #[test]
    fn too_many_vms_are_refused_with_the_arithmetic() {
        let error = divide(&SlotResources { vms: 16, ..SLOT }).unwrap_err().to_string();
        assert!(error.contains("16 × (128 MiB + 96 MiB overhead) = 3584 MiB, the task has 2048 MiB"), "{error}");
    }
}
