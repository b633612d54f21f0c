//! Memory and processors of a slot's VMs: plain arithmetic, shown in the error when it does not fit.

use crate::error::{Fault, RunError, ensure};
use crate::limits::Memory;
use qemu::{MIN_GUEST_MIB, VmSize};

/// Memory that a VM takes beside its guest's, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overhead {
    /// Whatever its size is.
    pub base_mib: u64,
    /// For each GiB of guest memory.
    pub per_gib_mib: u64,
}

/// Processors that take one MiB of it, after the first: QEMU's thread and tables for each take 0.4 MiB, idle.
const CPUS_PER_MIB: u64 = 2;

impl Overhead {
    /// Of a guest of that size.
    fn of(self, guest: VmSize) -> u64 {
        let tables = u128::from(guest.memory_mib) * u128::from(self.per_gib_mib) / 1024;
        let tables = u64::try_from(tables).unwrap_or(u64::MAX);
        let threads = u64::from(guest.cpus.saturating_sub(1)) / CPUS_PER_MIB;
        self.base_mib.saturating_add(threads).saturating_add(tables)
    }

    /// The largest guest that fits into `mib` with it; 0 if none does.
    fn largest_guest(self, mib: u64, cpus: u32) -> u64 {
        let rest = mib.saturating_sub(self.of(VmSize { memory_mib: 0, cpus }));
        // At most what its own share, rounded down, leaves: one or two more MiB may fit.
        let least = u128::from(rest) * 1024 / (1024 + u128::from(self.per_gib_mib));
        let least = u64::try_from(least).unwrap_or(rest);
        let fits = |&memory_mib: &u64| memory_mib.saturating_add(self.of(VmSize { memory_mib, cpus })) <= mib;
        (least..=rest.min(least.saturating_add(2))).rev().find(fits).unwrap_or(0)
    }
}

/// What a slot has to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotResources {
    /// VMs that share it.
    pub vms: u32,
    /// The task's memory, where it is limited.
    pub memory: Option<Memory>,
    /// Guest memory per VM in MiB where it is not limited.
    pub default_mib: u64,
    /// What QEMU and the kernel need beside a guest's memory.
    pub overhead: Overhead,
    /// Processors the task may run on.
    pub cpus: u32,
    /// Guest memory per VM in MiB that the user asked for; 0 is the same as nothing.
    pub wanted_mib: Option<u64>,
    /// Processors per VM that the user asked for.
    pub wanted_cpus: Option<u32>,
}

/// Divides the slot among its VMs.
///
/// # Errors
/// When the memory is too little for that many VMs; the text shows the arithmetic.
pub fn divide(slot: &SlotResources) -> Result<VmSize, RunError> {
    let SlotResources { vms, overhead, .. } = *slot;
    let wanted_mib = slot.wanted_mib.filter(|&mib| mib > 0);
    let cpus = slot.wanted_cpus.unwrap_or((slot.cpus / vms).max(1));
    let share = |task_mib: u64| overhead.largest_guest(task_mib / u64::from(vms), cpus);
    if let Some(Memory { mib: task_mib, because }) = &slot.memory {
        let least = wanted_mib.unwrap_or(MIN_GUEST_MIB);
        let overhead_mib = overhead.of(VmSize { memory_mib: least, cpus });
        // Most steps have one VM, and nobody asked for a number of them.
        ensure!(
            vms > 1 || share(*task_mib) >= least,
            Fault::User,
            "a VM of {least} MiB needs {overhead_mib} MiB more for QEMU, together {} MiB, the task has {task_mib} MiB{because}: ask for \
             more memory (--mem)",
            least.saturating_add(overhead_mib),
        );
        ensure!(
            share(*task_mib) >= least,
            Fault::User,
            "--vms-per-slot={vms} needs {vms} × ({least} MiB + {overhead_mib} MiB overhead) = {} MiB, \
             the task has {task_mib} MiB{because}: ask for more memory (--mem) or fewer VMs",
            u64::from(vms).saturating_mul(least.saturating_add(overhead_mib)),
        );
    }
    let memory_mib = wanted_mib.or(slot.memory.as_ref().map(|memory| share(memory.mib))).unwrap_or(slot.default_mib);
    ensure!(
        memory_mib >= MIN_GUEST_MIB,
        Fault::User,
        "--vm-mem={memory_mib}: a VM needs at least {MIN_GUEST_MIB} MiB of memory"
    );
    ensure!(
        cpus <= slot.cpus,
        Fault::User,
        "--vm-cpus={cpus}: the task has {}; ask for more with --cpus-per-task",
        processors(slot.cpus)
    );
    Ok(VmSize { memory_mib, cpus })
}

/// `1 processor`, `2 processors`.
pub(crate) fn processors(count: u32) -> String {
    format!("{count} {}", if count == 1 { "processor" } else { "processors" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotResources = SlotResources {
        vms: 1,
        memory: Some(Memory { mib: 2048, because: String::new() }),
        default_mib: 512,
        overhead: Overhead { base_mib: 96, per_gib_mib: 5 },
        cpus: 4,
        wanted_mib: None,
        wanted_cpus: None,
    };

    #[test]
    fn vms_share_the_task_and_leave_room_for_qemu() {
        assert_eq!(divide(&SLOT).unwrap(), VmSize { memory_mib: 1942, cpus: 4 });
        let four = SlotResources { vms: 4, ..SLOT };
        assert_eq!(divide(&four).unwrap(), VmSize { memory_mib: 414, cpus: 1 });
        let unlimited = SlotResources { vms: 8, memory: None, ..SLOT };
        assert_eq!(divide(&unlimited).unwrap(), VmSize { memory_mib: 512, cpus: 1 });
    }

    #[test]
    fn a_large_vm_leaves_room_for_page_tables() {
        let of = |mib, cpus| {
            let memory = Some(Memory { mib, because: String::new() });
            divide(&SlotResources { memory, cpus, ..SLOT }).unwrap().memory_mib
        };
        // The node's tables and KVM's take 8 bytes each for each page of 4 KiB, KVM's other notes half as much.
        let tib = 1 << 20;
        let room = tib - of(tib, 1);
        assert!((tib / 512 * 2 + tib / 2048 + 96..=tib / 128).contains(&room), "{room}");
        // What is left over beside guest and overhead would not make a larger guest.
        let overhead = SLOT.overhead;
        for (mib, cpus) in [(224, 1), (300, 1), (301, 2), (1229, 3), (4096, 16), (tib - 1, 255), (tib, 4096)] {
            let memory_mib = of(mib, cpus);
            let takes = |memory_mib| memory_mib + overhead.of(VmSize { memory_mib, cpus });
            assert!(takes(memory_mib) <= mib && takes(memory_mib + 1) > mib, "{memory_mib} of {mib} with {cpus}");
        }
    }

    #[test]
    fn no_number_is_too_large_for_the_arithmetic() {
        let memory = Some(Memory { mib: u64::MAX, because: String::new() });
        let overhead = Overhead { base_mib: 96, per_gib_mib: 1 << 40 };
        assert!(divide(&SlotResources { memory: memory.clone(), overhead, ..SLOT }).is_ok());
        let overhead = Overhead { base_mib: u64::MAX, per_gib_mib: u64::MAX };
        assert!(divide(&SlotResources { memory, overhead, ..SLOT }).is_err());
    }

    #[test]
    fn what_the_user_asks_for_is_given_if_the_task_has_it() {
        let wanted = SlotResources { vms: 2, wanted_mib: Some(300), wanted_cpus: Some(4), ..SLOT };
        assert_eq!(divide(&wanted).unwrap(), VmSize { memory_mib: 300, cpus: 4 });
        let error = |slot: SlotResources| divide(&slot).unwrap_err().to_string();
        let text = error(SlotResources { wanted_mib: Some(1000), ..wanted.clone() });
        assert!(text.contains("2 × (1000 MiB + 101 MiB overhead) = 2202 MiB, the task has 2048 MiB"), "{text}");
        let text = error(SlotResources { wanted_cpus: Some(8), ..wanted.clone() });
        assert!(text.contains("--vm-cpus=8: the task has 4 processors"), "{text}");
        let text = error(SlotResources { wanted_cpus: Some(8), cpus: 1, ..wanted.clone() });
        assert!(text.contains("the task has 1 processor; ask"), "{text}");
        let text = error(SlotResources { wanted_mib: Some(64), ..wanted.clone() });
        assert!(text.contains("--vm-mem=64: a VM needs at least 128 MiB"), "{text}");
        assert_eq!(MIN_GUEST_MIB, request::MIN_MEM_MIB, "submission refuses what the node would");
        let all = divide(&SlotResources { wanted_mib: Some(0), ..wanted.clone() }).unwrap();
        assert_eq!(all, divide(&SlotResources { wanted_mib: None, ..wanted }).unwrap());
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
