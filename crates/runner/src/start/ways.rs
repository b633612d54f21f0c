//! The ways to start a guest that this node has, from the fastest to the one that always works.
//!
//! A way is tried by its first guest: it must answer within the time that a trial of KVM has. If it does not, the next way
//! is tried, and nobody is told but the log. If a template of that way then comes up, the first one is remembered as
//! broken (`verdict.rs`) until the node boots, or its program is replaced.

use std::path::Path;

use super::verdict::{Verdict, Verdicts};
use super::{Policy, source};
use crate::config::{Config, MachineChoice};
use crate::error::RunError;
use qemu::{Accel, BootSource, MIN_GUEST_MIB, MachineType, Need, VmSize, Way};

/// A way to start small VMs of a kit on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayHere {
    /// Program and machine.
    pub name: String,
    /// Why it is not used.
    pub not_used: Option<String>,
    /// Whether that is because it has failed here.
    pub has_failed: bool,
}

/// The ways to start small VMs on this node, the fastest first; the first that is used is theirs.
///
/// # Errors
/// When there is no kit or no QEMU.
pub fn ways_here(config: &Config) -> Result<Vec<WayHere>, RunError> {
    let qemu = config.qemu_path()?;
    let ways = Ways::of(config, &source::kit(config)?, &qemu);
    let accel = Policy::of(config, &qemu).first_accel();
    let size = VmSize { memory_mib: MIN_GUEST_MIB, cpus: 1 };
    let failed = |way: &Way| ways.list.iter().any(|known| known.way == *way && known.verdicts.recall().is_some());
    let here = ways.judge(accel, size).into_iter().map(|(way, not_used)| WayHere {
        name: way.to_string(),
        has_failed: not_used.is_some() && failed(way),
        not_used,
    });
    Ok(here.collect())
}

/// The ways of a node for guests of one source.
#[derive(Debug)]
pub(crate) struct Ways {
    source: BootSource,
    /// The largest memory for which a machine that cannot plug any is chosen, where the site leaves that open.
    most_mib: Option<u64>,
    /// All but the last may be missing or broken.
    list: Vec<Known>,
}

/// What is known of a way on this node.
#[derive(Debug, Clone)]
struct Known {
    way: Way,
    verdicts: Verdicts,
    /// Why its program would have no sandbox.
    lacks_sandbox: Option<String>,
}

impl Ways {
    /// Those that the site allows. `qemu` is its QEMU.
    pub(crate) fn of(config: &Config, source: &BootSource, qemu: &Path) -> Self {
        let machine = source::machine(source, config.machine);
        let ways = match (source, config.machine) {
            (BootSource::Kit(_), MachineChoice::Auto) => Way::all(qemu),
            (BootSource::Kit(_), MachineChoice::Microvm) => {
                Way::all(qemu).into_iter().filter(|way| way.machine == MachineType::Microvm).collect()
            }
            _ => vec![Way::plain(qemu, machine)],
        };
        let known = |way: Way| {
            let verdicts = Verdicts::of_way(config, &way);
            let lacks_sandbox = way.lacks_sandbox(config.confinement());
            Known { way, verdicts, lacks_sandbox }
        };
        Self {
            source: source.clone(),
            most_mib: (config.machine == MachineChoice::Auto).then_some(config.microvm_memory_mib),
            list: ways.into_iter().map(known).collect(),
        }
    }

    /// Those that a guest of this size may use, the fastest first. There is always one.
    pub(crate) fn of_guest(&self, accel: Accel, size: VmSize) -> Vec<&Way> {
        let mut usable = Vec::new();
        for (way, why) in self.judge(accel, size) {
            match why {
                None => usable.push(way),
                Some(why) => tracing::debug!("not started by {way}: {why}"),
            }
        }
        usable
    }

    fn need(&self, accel: Accel, size: VmSize) -> Need<'_> {
        Need { source: &self.source, accel, size, most_mib: self.most_mib }
    }

    /// All of them, and why one cannot be used.
    pub(crate) fn judge(&self, accel: Accel, size: VmSize) -> Vec<(&Way, Option<String>)> {
        let need = self.need(accel, size);
        let last = self.list.len() - 1;
        let judged = self.list.iter().enumerate().map(|(number, known)| {
            let Known { way, verdicts, lacks_sandbox } = known;
            let broken = || {
                let says_so = verdicts.found_in();
                let why = "a guest did not come up by it, and did by another way";
                (verdicts.recall() == Some(Verdict::Broken)).then(|| format!("{why} ({} says so)", says_so.display()))
            };
            let unfit = || way.lacks(&need).or_else(|| way.is_missing()).or_else(|| lacks_sandbox.clone());
            let why = || unfit().or_else(broken);
            (way, if number == last { None } else { why() })
        });
        judged.collect()
    }

    /// What to do once a guest has come up by another way that did not by this one.
    pub(crate) fn is_broken(&self, way: &Way) -> Box<dyn FnOnce()> {
        let known = self.list.iter().find(|known| known.way == *way).cloned();
        Box::new(move || {
            if let Some(Known { way, verdicts, .. }) = known {
                tracing::warn!("VMs on this node do not start by {way}: it is left out until the node boots again");
                verdicts.remember(Verdict::Broken);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qemu::KitFiles;
    use std::fs;

    const SMALL: VmSize = VmSize { memory_mib: 370, cpus: 1 };

    /// A node that has these programs, and a site with these settings.
    fn ways(dir: &Path, settings: &str, programs: &[&str]) -> Ways {
        programs.iter().for_each(|name| fs::write(dir.join(name), "").unwrap());
        let text = format!("state_dir = '{0}'\ntemplate_dir = '{0}/templates'\n{settings}", dir.display());
        let config = Config::parse(&text).unwrap();
        let file = dir.join("kit");
        let kit = KitFiles { kernel: file.clone(), initramfs: file.clone(), scratch: file, digest: String::new() };
        Ways::of(&config, &BootSource::Kit(kit), &dir.join("qemu"))
    }

    fn words(ways: &Ways, accel: Accel, size: VmSize) -> Vec<&'static str> {
        ways.of_guest(accel, size).iter().map(|way| way.word()).collect()
    }

    #[test]
    fn each_way_is_tried_before_the_next_and_a_missing_program_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let bare = ways(dir.path(), "", &["qemu"]);
        assert_eq!(words(&bare, Accel::Kvm, SMALL), ["microvm", "q35"]);
        let debian = ways(dir.path(), "", &["qemu-microvm"]);
        assert_eq!(words(&debian, Accel::Kvm, SMALL), ["small-microvm", "microvm", "q35"]);
        assert_eq!(words(&debian, Accel::Tcg, SMALL), ["q35"]);
        assert_eq!(words(&debian, Accel::Kvm, VmSize { memory_mib: 4096, cpus: 1 }), ["q35"]);
    }

    #[test]
    fn a_site_can_pin_a_machine_set_its_limit_and_exclude_it() {
        let dir = tempfile::tempdir().unwrap();
        let of = |settings: &str, accel, memory_mib| {
            let ways = ways(dir.path(), settings, &["qemu", "qemu-microvm"]);
            words(&ways, accel, VmSize { memory_mib, cpus: 1 })
        };
        assert_eq!(of("machine = 'q35'", Accel::Kvm, 370), ["q35"]);
        assert_eq!(of("machine = 'microvm'", Accel::Kvm, 4096), ["small-microvm", "microvm"]);
        assert_eq!(of("machine = 'microvm'", Accel::Tcg, 370), ["microvm"]);
        assert_eq!(of("microvm_memory_mib = 4096", Accel::Kvm, 4096), ["small-microvm", "microvm", "q35"]);
        assert_eq!(of("microvm_memory_mib = 0", Accel::Kvm, 370), ["q35"]);
    }

    #[test]
    fn a_way_that_is_broken_is_left_out_until_its_program_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let debian = ways(dir.path(), "", &["qemu", "qemu-microvm"]);
        debian.is_broken(&debian.list[0].way)();
        assert_eq!(words(&debian, Accel::Kvm, SMALL), ["microvm", "q35"]);
        let why = debian.judge(Accel::Kvm, SMALL)[0].1.clone().unwrap();
        assert!(why.contains("did not come up") && why.contains("small-microvm.verdict"), "{why}");
        fs::write(dir.path().join("qemu-microvm"), "another").unwrap();
        let mended = ways(dir.path(), "", &[]);
        assert_eq!(words(&mended, Accel::Kvm, SMALL), ["small-microvm", "microvm", "q35"]);
    }
}
