//! The largest machine that a QEMU makes: it differs between releases, and distributions have numbers of their own.

use std::path::Path;

use serde_json::Value;

use crate::abilities::version_of;
use crate::ask::ask;
use crate::error::QemuError;
use crate::machine::{Accel, MachineType};
use crate::shape::PLAIN_CPUS;

/// The first QEMU whose emulated processors take interrupts by more than eight bits.
const EMULATED_X2APIC_SINCE: (u32, u32) = (9, 0);

/// The most processors of a VM. It costs a start of QEMU: ask for VMs with more than [`PLAIN_CPUS`] only.
///
/// # Errors
/// When QEMU cannot be started or does not say.
pub fn most_cpus(qemu: &Path, machine: MachineType, accel: Accel) -> Result<u32, QemuError> {
    // Interrupt remapping is a device on PCI Express.
    let remaps = match (machine, accel) {
        (MachineType::Microvm | MachineType::Pc, _) => false,
        (MachineType::Q35, Accel::Kvm) => true,
        (MachineType::Q35, Accel::Tcg) => version_of(qemu)? >= EMULATED_X2APIC_SINCE,
    };
    if !remaps {
        return Ok(PLAIN_CPUS);
    }
    let answer = ask(qemu, "its machines", &["-machine", "none"], &["query-machines"])?;
    let most = most_of(&answer.lines, "q35");
    most.ok_or_else(|| QemuError::new(format!("{} does not say how many processors its machine has", qemu.display())))
}

/// The most processors of the machine with that name, in lines of the monitor's protocol.
fn most_of(text: &str, machine: &str) -> Option<u32> {
    let answers = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let machines = answers.filter_map(|answer| answer.get("return")?.as_array().cloned()).flatten();
    let is_meant =
        |entry: &Value| ["name", "alias"].iter().any(|key| entry.get(key).is_some_and(|name| name == machine));
    let cpus = machines.filter(is_meant).find_map(|entry| entry.get("cpu-max")?.as_u64())?;
    u32::try_from(cpus).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const SAID: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}
{"return": {}}
{"return": [{"name": "pc-i440fx-7.2", "cpu-max": 255, "alias": "pc"}, {"name": "pc-q35-7.2", "cpu-max": 288, "alias": "q35"}]}
{"return": {}}
"#;

    /// A program that answers like a QEMU of that release.
    fn qemu(dir: &Path, version: &str, said: &str) -> PathBuf {
        let path = dir.join("qemu");
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version {version}' && exit\ncat <<'E'\n{said}E\n"
        );
        node::testing::program(&path, &text).unwrap();
        path
    }

    #[test]
    fn qemu_is_asked_for_the_limit_of_its_machine() {
        let dir = tempfile::tempdir().unwrap();
        let old = qemu(dir.path(), "7.2.22", SAID);
        assert_eq!(most_cpus(&old, MachineType::Q35, Accel::Kvm).unwrap(), 288);
        let new = qemu(dir.path(), "10.0.2", &SAID.replace("288", "4096"));
        assert_eq!(most_cpus(&new, MachineType::Q35, Accel::Kvm).unwrap(), 4096);
        assert_eq!(most_cpus(&new, MachineType::Q35, Accel::Tcg).unwrap(), 4096);
    }

    #[test]
    fn what_cannot_remap_interrupts_has_255() {
        let dir = tempfile::tempdir().unwrap();
        let old = qemu(dir.path(), "7.2.22", SAID);
        assert_eq!(most_cpus(&old, MachineType::Q35, Accel::Tcg).unwrap(), 255);
        for machine in [MachineType::Pc, MachineType::Microvm] {
            assert_eq!(most_cpus(&old, machine, Accel::Kvm).unwrap(), 255);
        }
    }

    #[test]
    fn a_qemu_that_says_nothing_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let mute = qemu(dir.path(), "10.0.2", "{}\n");
        let error = most_cpus(&mute, MachineType::Q35, Accel::Kvm).unwrap_err().to_string();
        assert!(error.contains(&mute.display().to_string()) && error.contains("how many processors"), "{error}");
    }
}
