//! The ways to start a guest: which program of QEMU, which machine, and what guests on it can have. One table.
//!
//! | program | machine | for |
//! | --- | --- | --- |
//! | QEMU's name and `-microvm` (a part of Debian's and Ubuntu's package) | microvm | small guests of a kit, with KVM |
//! | QEMU | microvm | the same, where there is no such program |
//! | QEMU | q35 | everything |
//!
//! The first program knows nothing but KVM and a handful of devices without PCI. So it is a quarter as large, needs a
//! quarter of the libraries, and is ready in a fraction of the time. A microvm has no device for memory: what a guest
//! may get beyond its template's is in the template's file and held back, and pages of a file are never huge. So it is for
//! small guests.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::abilities::Abilities;
use crate::boot::BootSource;
use crate::confine::Confinement;
use crate::machine::{Accel, MachineType};
use crate::shape::{PLAIN_CPUS, VmSize};

/// What the small program is called after QEMU's own name.
const SUFFIX: &str = "-microvm";

/// A way to start guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The program.
    pub qemu: PathBuf,
    /// The machine that it makes.
    pub machine: MachineType,
    /// The program has no emulation.
    is_small: bool,
}

/// What a guest needs of its way.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// What it boots from.
    pub source: &'a BootSource,
    /// Who executes it.
    pub accel: Accel,
    /// Its size.
    pub size: VmSize,
    /// The largest memory in MiB for which a machine that cannot plug any is chosen; `None` if the site has chosen it.
    pub most_mib: Option<u64>,
}

impl Way {
    /// All ways of this QEMU to start guests of a kit, the fastest first. The last one can do everything.
    pub fn all(qemu: &Path) -> Vec<Self> {
        let mut small: OsString = qemu.as_os_str().to_owned();
        small.push(SUFFIX);
        vec![
            Self { qemu: small.into(), machine: MachineType::Microvm, is_small: true },
            Self { qemu: qemu.to_owned(), machine: MachineType::Microvm, is_small: false },
            Self::plain(qemu, MachineType::Q35),
        ]
    }

    /// QEMU itself with this machine.
    pub fn plain(qemu: &Path, machine: MachineType) -> Self {
        Self { qemu: qemu.to_owned(), machine, is_small: false }
    }

    /// A word for it, the same on every node.
    pub fn word(&self) -> &'static str {
        match (self.is_small, self.machine) {
            (true, _) => "small-microvm",
            (false, MachineType::Microvm) => "microvm",
            (false, MachineType::Q35) => "q35",
            (false, MachineType::Pc) => "pc",
        }
    }

    /// Why it is not for this guest on any node, if it is not.
    pub fn lacks(&self, need: &Need<'_>) -> Option<String> {
        if self.machine != MachineType::Microvm {
            return None;
        }
        let Need { source, accel, size, most_mib } = *need;
        let most = most_mib.unwrap_or(u64::MAX);
        match () {
            () if matches!(source, BootSource::Image(_)) => Some("an image's own kernel gets a PC".to_owned()),
            () if self.is_small && accel != Accel::Kvm => Some("it has no emulation".to_owned()),
            // There about one boot in ten finds no clock that is steady, and hangs.
            () if most_mib.is_some() && accel != Accel::Kvm => Some("it is not for emulated guests".to_owned()),
            () if size.memory_mib > most => Some(format!("it is for VMs of up to {most} MiB")),
            () if size.cpus > PLAIN_CPUS => Some(format!("it has {PLAIN_CPUS} processors at most")),
            () => None,
        }
    }

    /// Why it is not for any guest on this node, if its program is missing.
    pub fn is_missing(&self) -> Option<String> {
        (!self.qemu.exists()).then(|| format!("{} is not there", self.qemu.display()))
    }

    /// Why it is not for any guest on this node, if its program would have no sandbox there.
    pub fn lacks_sandbox(&self, confinement: Confinement<'_>) -> Option<String> {
        confinement.lacks_sandbox(&self.qemu)
    }

    /// What its program can do, for a guest that boots: asking it takes a few milliseconds of a second or more. Of one that
    /// does not answer everything is believed, as starting it says what is wrong.
    pub fn abilities_to_boot(&self) -> Abilities {
        match self.machine {
            MachineType::Q35 => Abilities::of(&self.qemu).unwrap_or(Abilities::ALL),
            MachineType::Microvm | MachineType::Pc => Abilities::ALL,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = match self.machine {
            MachineType::Microvm => "microvm",
            MachineType::Q35 => "q35",
            MachineType::Pc => "pc",
        };
        write!(f, "machine {machine} of {}", self.qemu.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{FullBoot, KitFiles};
    use image::{DiskBus, DiskFormat};

    fn kit() -> BootSource {
        let file = PathBuf::from("/kit");
        BootSource::Kit(KitFiles {
            kernel: file.clone(),
            initramfs: file.clone(),
            scratch: file,
            digest: String::new(),
        })
    }

    fn first(need: &Need<'_>) -> &'static str {
        let ways = Way::all(Path::new("/usr/bin/qemu"));
        ways.iter().find(|way| way.lacks(need).is_none()).unwrap().word()
    }

    #[test]
    fn each_guest_gets_the_fastest_way_that_has_what_it_needs() {
        let source = &kit();
        let size = VmSize { memory_mib: 370, cpus: 1 };
        let small = Need { source, accel: Accel::Kvm, size, most_mib: Some(512) };
        assert_eq!(first(&small), "small-microvm");
        assert_eq!(first(&Need { accel: Accel::Tcg, ..small }), "q35");
        assert_eq!(first(&Need { size: VmSize { memory_mib: 513, cpus: 1 }, ..small }), "q35");
        assert_eq!(first(&Need { size: VmSize { memory_mib: 370, cpus: 256 }, ..small }), "q35");
        assert_eq!(first(&Need { most_mib: Some(0), ..small }), "q35");
        let pinned = Need { most_mib: None, ..small };
        assert_eq!(first(&Need { size: VmSize { memory_mib: 4096, cpus: 1 }, ..pinned }), "small-microvm");
        assert_eq!(first(&Need { accel: Accel::Tcg, ..pinned }), "microvm");
        let full = BootSource::Image(FullBoot {
            disk_bus: DiskBus::Virtio,
            format: DiskFormat::Raw,
            kernel: None,
            initrd: None,
            memory_hotplug: true,
        });
        assert_eq!(first(&Need { source: &full, ..small }), "q35");
    }

    #[test]
    fn the_small_program_lies_beside_qemu() {
        let dir = tempfile::tempdir().unwrap();
        let ways = Way::all(&dir.path().join("qemu-system-x86_64"));
        assert_eq!(ways[0].qemu, dir.path().join("qemu-system-x86_64-microvm"));
        assert!(ways[0].is_missing().unwrap().ends_with("/qemu-system-x86_64-microvm is not there"));
        std::fs::write(&ways[0].qemu, "").unwrap();
        assert_eq!(ways[0].is_missing(), None);
    }
}
