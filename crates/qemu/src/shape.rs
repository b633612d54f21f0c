//! The size of a VM, and the hardware of a template: a class of VM sizes, so that jobs of many sizes share one template.

/// Processors that a PC's interrupts reach with eight bits. More take interrupt remapping, and QEMU to be asked.
pub const PLAIN_CPUS: u32 = 255;

/// Memory in MiB that QEMU's emulated processors reach: they have 40 address bits, of which a PC's devices take the end.
pub const EMULATED_MIB: u64 = 960 << 10;

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

/// Memory that every clone starts with: enough that a command never waits for plugged memory.
/// Smaller VMs have a class of their own.
const USUAL_BASE_MIB: u64 = 256;

/// The same for a system with an init of its own.
const FULL_BASE_MIB: u64 = 512;

/// Minimum of pluggable memory: most jobs need less.
const LEAST_PLUGGABLE_MIB: u64 = 8 << 10;

/// Maximum of pluggable memory: QEMU's emulated processors address 1 TiB, PCI included. A larger VM boots.
const MOST_PLUGGABLE_MIB: u64 = 256 << 10;

/// Maximum of memory that a kernel holds back: its notes on it, 16 MiB for each GiB, are in the template.
const MOST_HELD_MIB: u64 = 64 << 10;

/// virtio-mem's unit, in MiB: one huge page of x86. A template has one block plugged: the first one costs a
/// guest as much as the next gigabyte.
pub const BLOCK_MIB: u64 = 2;

/// The hardware of a template, which each of its clones must have too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Memory before anything is plugged, in MiB; with what the guest's kernel holds back.
    pub base_mib: u64,
    /// Size of the device through which the rest is plugged, in MiB; 0 for no such device.
    pub pluggable_mib: u64,
    /// The part of the base that the template's kernel holds back, in MiB. A clone's agent makes it give back what the VM
    /// should have.
    pub held_mib: u64,
    /// Processors, of which a clone's command may get fewer.
    pub cpus: u32,
}

impl Shape {
    /// The class of a VM, if there is one.
    pub fn of(size: VmSize) -> Option<Self> {
        let least_mib = if size.memory_mib < USUAL_BASE_MIB { MIN_GUEST_MIB } else { USUAL_BASE_MIB };
        Self::above(least_mib, size)
    }

    /// The class of a VM that boots its own kernel. If that kernel accepts no memory while it runs, or the VM is
    /// small, each size is a class of its own.
    pub fn of_full_boot(size: VmSize, takes_memory: bool) -> Option<Self> {
        if takes_memory && size.memory_mib >= FULL_BASE_MIB {
            return Self::above(FULL_BASE_MIB, size);
        }
        let cpus = size.cpus.checked_next_power_of_two()?.min(PLAIN_CPUS);
        (size.cpus <= cpus).then_some(Self { base_mib: size.memory_mib, pluggable_mib: 0, held_mib: 0, cpus })
    }

    /// The class of a VM whose machine has no device to plug memory through: it has all memory of the class from the
    /// beginning, and its kernel holds back what is more than the least of the class.
    pub fn without_plug(size: VmSize) -> Option<Self> {
        let least_mib = if size.memory_mib < USUAL_BASE_MIB { MIN_GUEST_MIB } else { USUAL_BASE_MIB };
        let base_mib = size.memory_mib.max(least_mib + 1).checked_next_power_of_two()?;
        let cpus = size.cpus.checked_next_power_of_two()?.min(PLAIN_CPUS);
        let fits = size.memory_mib >= least_mib && base_mib <= MOST_HELD_MIB && size.cpus <= cpus;
        fits.then_some(Self { base_mib, pluggable_mib: 0, held_mib: base_mib - least_mib, cpus })
    }

    fn above(least_mib: u64, size: VmSize) -> Option<Self> {
        let base_mib = least_mib - BLOCK_MIB;
        let rest = size.memory_mib.checked_sub(least_mib)?;
        let pluggable_mib = rest.next_power_of_two().max(LEAST_PLUGGABLE_MIB);
        let cpus = size.cpus.checked_next_power_of_two()?.min(PLAIN_CPUS);
        (pluggable_mib <= MOST_PLUGGABLE_MIB && size.cpus <= cpus).then_some(Self {
            base_mib,
            pluggable_mib,
            held_mib: 0,
            cpus,
        })
    }

    /// How many bytes a clone of this size has that its template did not have, if that are any.
    pub fn beyond_template(&self, size: VmSize) -> Option<u64> {
        match self.held_mib {
            0 => self.bytes_to_plug(size).map(|plugged| plugged - (BLOCK_MIB << 20)),
            held => Some((size.memory_mib + held).saturating_sub(self.base_mib) << 20).filter(|&bytes| bytes > 0),
        }
    }

    /// Total memory that is plugged into a clone of this size, in bytes; `None` if the template's is enough.
    pub fn bytes_to_plug(&self, size: VmSize) -> Option<u64> {
        if self.pluggable_mib == 0 {
            return None;
        }
        let plugged = size.memory_mib.saturating_sub(self.base_mib) / BLOCK_MIB * BLOCK_MIB;
        (plugged > BLOCK_MIB).then_some(plugged << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(memory_mib: u64, cpus: u32) -> Option<Shape> {
        Shape::of(VmSize { memory_mib, cpus })
    }

    #[test]
    fn usual_sizes_share_one_shape() {
        let usual = shape(256, 1).unwrap();
        for (memory_mib, cpus) in [(257, 1), (2000, 1), (8 << 10, 1)] {
            assert_eq!(shape(memory_mib, cpus).unwrap(), usual);
        }
        assert_ne!(shape(128, 1).unwrap(), usual);
        assert_eq!(shape(512, 3).unwrap(), shape(256, 4).unwrap());
        assert_ne!(shape(10 << 10, 1).unwrap(), usual);
        assert_eq!(shape(512, 48).unwrap().cpus, 64);
        assert_eq!(shape(512, 200).unwrap().cpus, 255);
    }

    #[test]
    fn what_no_template_can_hold_has_no_shape() {
        assert_eq!(shape(1 << 20, 1), None);
        assert_eq!(shape(512, 300), None);
        assert_eq!(shape(100, 1), None);
    }

    #[test]
    fn a_full_boot_has_a_class_of_its_size_unless_its_kernel_takes_memory() {
        let of = |memory_mib, takes| Shape::of_full_boot(VmSize { memory_mib, cpus: 1 }, takes).unwrap();
        assert_eq!(of(512, true), of(3000, true));
        assert_eq!(of(3000, true).bytes_to_plug(VmSize { memory_mib: 3000, cpus: 1 }), Some(2490 << 20));
        for shape in [of(3000, false), of(300, true)] {
            assert_eq!(shape.pluggable_mib, 0);
            assert_eq!(shape.bytes_to_plug(VmSize { memory_mib: shape.base_mib, cpus: 1 }), None);
        }
        assert_eq!(of(3000, false).base_mib, 3000);
    }

    #[test]
    fn without_a_device_for_memory_the_kernel_holds_back_what_a_smaller_vm_should_not_have() {
        let of = |memory_mib| Shape::without_plug(VmSize { memory_mib, cpus: 1 }).unwrap();
        assert_eq!((of(256).base_mib, of(256).held_mib), (512, 256));
        assert_eq!((of(128).base_mib, of(128).held_mib), (256, 128));
        assert_eq!((of(257), of(512), of(255)), (of(256), of(256), of(128)));
        assert_eq!((of(513).base_mib, of(513).held_mib), (1024, 768));
        let beyond = |memory_mib| of(memory_mib).beyond_template(VmSize { memory_mib, cpus: 1 });
        assert_eq!((beyond(256), beyond(370), beyond(512)), (None, Some(114 << 20), Some(256 << 20)));
        assert_eq!(of(370).bytes_to_plug(VmSize { memory_mib: 370, cpus: 1 }), None);
        assert_eq!(Shape::without_plug(VmSize { memory_mib: 100, cpus: 1 }), None);
        assert_eq!(Shape::without_plug(VmSize { memory_mib: 128 << 10, cpus: 1 }), None);
    }

    #[test]
    fn the_rest_is_plugged_in_whole_blocks() {
        let size = VmSize { memory_mib: 1105, cpus: 1 };
        assert_eq!(Shape::of(size).unwrap().bytes_to_plug(size), Some(850 << 20));
        assert_eq!(Shape::of(size).unwrap().beyond_template(size), Some(848 << 20));
        let small = VmSize { memory_mib: 257, cpus: 1 };
        assert_eq!(Shape::of(small).unwrap().bytes_to_plug(small), None);
    }
}
