//! What depends on the processor and the machine: names, options, words for the guest's kernel. One table for each.

use crate::abilities::Abilities;
use crate::boot::BootSource;

/// Virtual hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineType {
    /// QEMU's minimal machine with virtio-mmio devices.
    Microvm,
    /// A PC with PCI Express.
    Q35,
    /// An older PC, for systems that know only its disk controller.
    Pc,
}

/// Who executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor, through /dev/kvm.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl MachineType {
    pub(crate) fn option(self, source: &BootSource, abilities: Abilities) -> &'static str {
        match (self, source) {
            // pic=off: the ACPI tables promise a machine without one, and its first tick is a divide error.
            // pit, rtc: without them the kernel needs seconds to calibrate its clock.
            (Self::Microvm, _) => "microvm,acpi=on,pic=off,pit=on,rtc=on,usb=off,isa-serial=on",
            // The kernel spends 200 ms of emulated time on a HPET that nothing uses.
            (Self::Q35, BootSource::Kit(_)) if !abilities.without_keyboard => {
                "q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off"
            }
            (Self::Q35, BootSource::Kit(_)) => "q35,usb=off,vmport=off,smbus=off,sata=off,i8042=off,hpet=off",
            // graphics=off: firmware and boot loader speak to the serial console, as there is no screen.
            (Self::Q35, BootSource::Image(_)) => "q35,usb=off,vmport=off,sata=off,hpet=off,graphics=off",
            (Self::Pc, _) => "pc,usb=off,vmport=off,hpet=off,graphics=off",
        }
    }

    /// Suffix of virtio device names on this machine's bus.
    pub(crate) fn bus(self) -> &'static str {
        match self {
            Self::Microvm => "device",
            Self::Q35 | Self::Pc => "pci",
        }
    }

    /// Whether it has a device through which a running guest gets more memory.
    pub fn plugs_memory(self) -> bool {
        !matches!(self, Self::Microvm)
    }

    pub(crate) fn kernel_words(self) -> &'static str {
        match self {
            Self::Microvm => "pci=off",
            Self::Q35 | Self::Pc => "",
        }
    }
}

impl Accel {
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            // The translation cache is memory of the job; 64 MiB hold a working set, the default is up to 1 GiB.
            Self::Tcg => "tcg,thread=multi,tb-size=64",
        }
    }

    pub(crate) fn kernel_words(self) -> &'static str {
        match self {
            Self::Kvm => "",
            // The emulated time stamp counter is steady; measuring that takes the guest a second. There is no
            // speculation to mitigate. rodata, init_on_alloc, smap, smep: they cost a quarter of a second and more code
            // to translate. A guest of one user does not need this hardening, because its root has only the user's
            // rights on the host. A fifth level of page tables is one more look-up for addresses that no guest here
            // has. lsm: AppArmor and TOMOYO have no rules there, and are asked at every file; psi: nobody reads how long
            // tasks wait, and it is reckoned at every switch.
            Self::Tcg => {
                "tsc=reliable no_timer_check mitigations=off rodata=off init_on_alloc=0 nosmap nosmep no5lvl \
                 lsm=landlock,yama psi=0"
            }
        }
    }
}
