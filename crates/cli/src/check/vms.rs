//! What VMs are made of: QEMU, the boot kit, images, room for their disks, and KVM.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::ask::{NoAnswer, answer};
use super::finding::{Finding, State};
use super::patience;
use image::kit::Kit;
use image::{Image, ImageError};
use node::space::Space;
use qemu::{Abilities, Confine, Unconfined};
use request::ImageName;
use runner::config::{AccelChoice, Config};
use runner::error::{Fault, chain};
use runner::{self, KvmTest, WayHere};

/// How long QEMU may take to print what it has. Twice this fits into the time of a node check.
const PATIENCE: Duration = Duration::from_secs(7);

/// Devices without which no VM is made, by any of these names.
const NEEDED: [&str; 3] = ["virtio-blk-pci", "virtio-serial-pci", "virtserialport"];

/// What VMs can do without, but not to be cloned.
const PLUG: &str = "virtio-mem-pci";

/// QEMU, and which way of starting it allows.
pub(super) fn qemu(config: &Config) -> Finding {
    let path = match config.qemu_path() {
        Ok(path) => path,
        Err(error) => return Finding::bad(format!("{error:#}")),
    };
    let shown = path.display();
    let broken = |why| Finding::bad(why).remedy("install QEMU anew, or set 'qemu' in the configuration");
    let ask = |words: &[&str]| match answer(Command::new(&path).args(words), PATIENCE) {
        Ok(said) => Ok(said),
        Err(NoAnswer::NotStarted(error)) => Err(broken(format!("{shown}: {error}"))),
        Err(NoAnswer::Late) => {
            let waited = format!("{shown} {}: no answer within {} s", words.join(" "), PATIENCE.as_secs());
            Err(Finding::stalled(waited).remedy("see what holds it up: its disk, or a node that is overloaded"))
        }
        Err(NoAnswer::Failed(_)) => Err(broken(format!("{shown} {} fails", words.join(" ")))),
    };
    let said = ask(&["--version"]).and_then(|version| Ok((version, ask(&["-device", "help"])?)));
    match said {
        Ok((version, devices)) => {
            let version = format!("{shown}: {}", version.lines().next().unwrap_or_default());
            judge_qemu(&version, &devices, Abilities::of(&path).is_ok_and(|able| able.read_only_templates))
        }
        Err(why) => why,
    }
}

fn judge_qemu(version: &str, devices: &str, shares_templates: bool) -> Finding {
    let has = |name: &str| devices.contains(&format!("name \"{name}\""));
    let missing: Vec<&str> = NEEDED.into_iter().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        return Finding::bad(format!("{version} lacks {}", missing.join(", "))).remedy(
            "install a QEMU with virtio devices (Debian: qemu-system-x86), or set 'qemu' in the configuration",
        );
    }
    if !has(PLUG) {
        return Finding::limited(format!("{version}: without {PLUG} VMs boot and are not cloned"))
            .remedy("install a QEMU that has it (Debian: qemu-system-x86)");
    }
    match shares_templates {
        true => Finding::good(format!("{version}; VMs are clones, and all users share the site's templates")),
        false => {
            Finding::good(format!("{version}; VMs are clones of each user's own templates (8.2 or newer shares them)"))
        }
    }
}

/// Whether QEMU can open files of its user.
pub(super) fn confined(config: &Config) -> Finding {
    let confinement = config.confinement();
    match config.qemu_path() {
        Ok(qemu) => judge_confinement(confinement.how, confinement.look(&qemu)),
        Err(_) => Finding::limited("not tried: there is no QEMU"),
    }
}

fn judge_confinement(how: Confine, found: Result<u32, Unconfined>) -> Finding {
    let why = match found {
        Ok(release) => {
            return Finding::good(format!("QEMU opens no file of its user (Landlock ABI {release})"));
        }
        Err(why) => why,
    };
    let remedy = match why {
        Unconfined::Off => "confine_qemu = 'auto' in the configuration confines it",
        Unconfined::Kernel(_) => "Linux 5.13 or newer with 'landlock' in 'lsm=' confines it",
        Unconfined::Program(_) => {
            "name the directories that it needs in 'qemu_dirs' of the configuration; confine_qemu = 'require' confines scripts too"
        }
    };
    let told = format!("QEMU can open files of its user: {why}");
    let state = if how == Confine::Require { Finding::bad } else { Finding::limited };
    state(told).remedy(remedy)
}

/// That of the site's configuration; without a QEMU there is nothing to say of it.
pub(super) fn processor(config: &Config) -> Finding {
    let model = &config.cpu_model;
    match config.qemu_path().map(|_| runner::try_processor(config)) {
        Ok(Err(error)) => Finding::bad(format!("{error:#}")).remedy("correct 'cpu_model' in the configuration"),
        Ok(Ok(())) if model.is_default() => Finding::good("what the node has"),
        Ok(Ok(())) => Finding::good(format!("cpu_model = '{model}'")),
        Err(_) => Finding::limited("not tried: there is no QEMU"),
    }
}

pub(super) fn kit(config: &Config) -> Finding {
    match Kit::load(&config.kit) {
        Ok(kit) => Finding::good(format!("{}: kernel {}", config.kit.display(), kit.kernel_release())),
        Err(error) => Finding::bad(chain(&error)).remedy("'spank-vm kit build' makes one"),
    }
}

pub(super) fn images(config: &Config) -> Finding {
    let config = config.clone();
    patience::in_time(move || look_at_images(&config))
        .unwrap_or_else(|why| Finding::stalled(format!("the directories of images: {why}")))
}

fn look_at_images(config: &Config) -> Finding {
    let catalogue = config.catalogue();
    let images = match catalogue.list() {
        Ok(images) => images,
        Err(error) if patience::is_the_servers(&error) => return Finding::limited(error.to_string()),
        Err(error) => return Finding::bad(error.to_string()),
    };
    let usable = images.into_iter().map(|image| image.and_then(|image| usable(&image).map(|()| image.name)));
    let (good, bad): (Vec<_>, Vec<_>) = usable.partition(Result::is_ok);
    let usable: Vec<String> = good.into_iter().flatten().map(|name| name.to_string()).collect();
    let dirs = catalogue.dirs().iter().filter(|dir| dir.path.is_dir());
    let dirs: Vec<String> = dirs.map(|dir| format!("{} ({})", dir.path.display(), dir.owner.as_str())).collect();
    let names = format!("{} in {}", usable.join(" "), dirs.join(", "));
    match bad.into_iter().find_map(Result::err) {
        Some(error) => Finding::limited(format!("{names}; {error}")),
        None if usable.is_empty() => Finding::bad("no images: 'spank-vm image import' makes one"),
        None => Finding::good(names),
    }
}

fn usable(image: &Image) -> Result<(), ImageError> {
    image.check_disk(&image.open_disk()?).map(drop)
}

/// Room for private disks, below which jobs soon have none.
const LITTLE_ROOM: u64 = 1 << 30;

pub(super) fn scratch(config: &Config) -> Finding {
    let dir: &Path = &config.scratch_dir;
    let remedy = "'scratch_dir' in the configuration must be a directory of this node that every user can write to";
    let kit = match Kit::load(&config.kit) {
        Ok(kit) => kit,
        Err(error) => return Finding::bad(format!("not tried without a boot kit: {}", chain(&error))).remedy(remedy),
    };
    match runner::try_scratch(&kit, config) {
        Ok(_) => {}
        // It is full, which users bring about.
        Err(error) if error.fault() == Fault::User => {
            return Finding::limited(format!("{error:#}")).remedy("make room there");
        }
        Err(error) => return Finding::bad(format!("{error:#}")).remedy(remedy),
    }
    match Space::of(dir, dir) {
        Ok(space) if space.free < LITTLE_ROOM => {
            Finding::limited(format!("{}: {} MiB free", dir.display(), space.free >> 20)).remedy("make room there")
        }
        Ok(space) => Finding::good(format!("{}: {} MiB free", dir.display(), space.free >> 20)),
        Err(error) => Finding::limited(format!("{}: {error}", dir.display())),
    }
}

/// What helps a site that demands KVM where there is none.
const INSTEAD_OF_KVM: &str = "mend that, or set accel = 'auto' in the configuration: guests are emulated then";

/// Whether the site demands KVM where there is none: no guest is tried.
pub(super) fn demanded_kvm(config: &Config) -> Finding {
    match runner::lacks_demanded_kvm(config) {
        Some(why) => Finding::bad(why).remedy(INSTEAD_OF_KVM),
        None => Finding::good("nothing that the site demands is missing"),
    }
}

pub(super) fn kvm(config: &Config, image: Option<&ImageName>) -> Finding {
    if config.accel == AccelChoice::Tcg {
        return Finding::limited("accel = 'tcg': guests are emulated, 10 to 50 times slower than with KVM")
            .remedy("set accel = 'auto' in the configuration where the node has KVM");
    }
    let demanded = demanded_kvm(config);
    if demanded.state == State::Missing {
        return demanded;
    }
    let name = match image.cloned().map(Ok).or_else(|| first_image(config)) {
        Some(Ok(name)) => name,
        Some(Err(error)) => return Finding::limited(format!("not tried: {error}")),
        None => return Finding::limited("not tried: there is no image to boot"),
    };
    match runner::try_kvm(config, &name) {
        Ok(KvmTest::Runs(took)) => {
            let booted = format!("image '{name}' booted in {:.2} s", took.as_secs_f64());
            match runner::limits_of_users(config.accel) {
                None => Finding::good(booted),
                Some(limits) => Finding::limited(format!("{booted}, but {limits}")),
            }
        }
        Ok(KvmTest::Broken) => without_kvm(
            config.accel,
            &format!("/dev/kvm does not run guests: image '{name}' did not come up with KVM, and did without"),
        ),
        Ok(KvmTest::Unusable(why)) => without_kvm(config.accel, &why),
        Ok(KvmTest::Unknown) => {
            Finding::limited(format!("nothing is known of it: image '{name}' comes up neither with KVM nor without"))
        }
        Err(error) => Finding::limited(format!("not tried: {error:#}")),
    }
}

/// What a node is worth whose guests cannot have KVM.
fn without_kvm(accel: AccelChoice, why: &str) -> Finding {
    match accel {
        AccelChoice::Kvm => Finding::bad(format!("accel = 'kvm', but {why}")).remedy(INSTEAD_OF_KVM),
        AccelChoice::Auto | AccelChoice::Tcg => Finding::limited(format!("guests are emulated: {why}")),
    }
}

/// How small VMs start.
pub(super) fn start(config: &Config) -> Finding {
    match runner::ways_here(config) {
        Ok(ways) => judge_ways(&ways, config.microvm_memory_mib),
        Err(error) => Finding::limited(format!("not tried: {error:#}")),
    }
}

fn judge_ways(ways: &[WayHere], most_mib: u64) -> Finding {
    let Some(used) = ways.iter().position(|way| way.not_used.is_none()) else {
        return Finding::limited("nothing is known");
    };
    let others: Vec<String> = ways[..used]
        .iter()
        .filter_map(|way| way.not_used.as_ref().map(|why| format!("not by {}, because {why}", way.name)))
        .collect();
    let mut found = ways[used].name.clone();
    if let (Some(last), true) = (ways.last(), used + 1 < ways.len()) {
        found = format!("VMs of up to {most_mib} MiB by {found}, others by {}", last.name);
    }
    let found = [vec![found], others].concat().join("; ");
    match ways[..used].iter().any(|way| way.has_failed) {
        true => Finding::limited(found).remedy("the journal says how it failed; when that is mended, remove the file"),
        false => Finding::good(found),
    }
}

fn first_image(config: &Config) -> Option<Result<ImageName, ImageError>> {
    match config.catalogue().names() {
        Ok(names) => names.into_iter().next().map(Ok),
        Err(error) => Some(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(names: &[&str]) -> String {
        names.iter().map(|name| format!("name \"{name}\", bus PCI\n")).collect()
    }

    #[test]
    fn the_way_of_small_vms_is_named_and_why_it_is_no_faster_one() {
        let way = |name: &str, not_used: Option<&str>, has_failed| WayHere {
            name: name.to_owned(),
            not_used: not_used.map(str::to_owned),
            has_failed,
        };
        let best = judge_ways(&[way("small", None, false), way("q35", None, false)], 512);
        assert_eq!((best.state, best.found.as_str()), (State::Ok, "VMs of up to 512 MiB by small, others by q35"));
        let missing = judge_ways(&[way("small", Some("it is not there"), false), way("q35", None, false)], 512);
        assert_eq!((missing.state, missing.found.as_str()), (State::Ok, "q35; not by small, because it is not there"));
        let failed = judge_ways(&[way("small", Some("it failed"), true), way("q35", None, false)], 512);
        assert!(failed.state == State::Limited && failed.remedy.is_some(), "{failed:?}");
    }

    #[test]
    fn a_site_that_demands_kvm_starts_no_vm_without_it_and_others_emulate() {
        let demanded = without_kvm(AccelChoice::Kvm, "it is not there");
        assert_eq!((demanded.state, demanded.found.as_str()), (State::Missing, "accel = 'kvm', but it is not there"));
        let emulated = without_kvm(AccelChoice::Auto, "it is not there");
        assert_eq!((emulated.state, emulated.found.as_str()), (State::Limited, "guests are emulated: it is not there"));
    }

    #[test]
    fn a_qemu_that_must_be_confined_and_is_not_starts_no_vm() {
        let kernel = || Err(Unconfined::Kernel(std::io::Error::from_raw_os_error(38)));
        assert_eq!(judge_confinement(Confine::Require, Ok(6)).state, State::Ok);
        let old = judge_confinement(Confine::Auto, kernel());
        assert!(old.state == State::Limited && old.found.contains("Linux has it since 5.13"), "{old:?}");
        assert_eq!(judge_confinement(Confine::Require, kernel()).state, State::Missing);
        assert_eq!(judge_confinement(Confine::Off, Err(Unconfined::Off)).state, State::Limited);
    }

    #[test]
    fn what_a_qemu_lacks_decides_whether_and_how_vms_start() {
        let full = ["virtio-blk-pci", "virtio-serial-pci", "virtserialport", "virtio-mem-pci"];
        assert_eq!(judge_qemu("v", &devices(&full), true).state, State::Ok);
        assert!(judge_qemu("v", &devices(&full), false).found.contains("each user's own templates"));
        let limited = judge_qemu("v", &devices(&full[..3]), true);
        assert!(limited.state == State::Limited && limited.found.contains("not cloned"), "{limited:?}");
        let bad = judge_qemu("v", &devices(&full[1..]), true);
        assert!(bad.state == State::Missing && bad.found == "v lacks virtio-blk-pci", "{bad:?}");
    }
}
