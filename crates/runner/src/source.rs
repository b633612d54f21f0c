//! What a guest comes up from: the site's boot kit, or all that the image itself brings.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::fault::BlameNode;
use super::limits;
use super::signals::passed_on;
use crate::config::{Config, MachineChoice};
use image::kit::Kit;
use image::{BootMode, DiskBus, DiskFormat, Image};
use qemu::{BootSource, FullBoot, Host, KitFiles, MachineType, overlay, scratch};

/// What guests of `image` come up from on this node.
///
/// # Errors
/// When the kit, or a file that the entry names, is missing or not what it should be.
pub fn of(image: &Image, config: &Config) -> anyhow::Result<BootSource> {
    match image.entry.boot {
        BootMode::Kit => kit(config),
        BootMode::Full => full_boot(image).map(BootSource::Image).with_context(|| format!("image '{}'", image.name)),
    }
}

/// The site's boot kit.
///
/// # Errors
/// When it is missing or not fit.
pub fn kit(config: &Config) -> anyhow::Result<BootSource> {
    let kit = Kit::load(&config.kit).blame_node()?;
    let (kernel, initramfs) = (kit.kernel(), kit.initramfs());
    Ok(BootSource::Kit(KitFiles { kernel, initramfs, scratch: kit.scratch(), digest: kit.digest().to_owned() }))
}

/// Makes a VM's private disk, without a name in `dir`: what the guest writes goes there. `image` is the image's,
/// open.
///
/// # Errors
/// When `dir` cannot be written or is full.
pub fn private_disk(source: &BootSource, image: &File, dir: &Path) -> anyhow::Result<File> {
    match source {
        BootSource::Kit(kit) => scratch::create(&File::open(&kit.scratch).context("the kit's scratch disk")?, dir),
        BootSource::Image(full) => {
            let bytes = match full.format {
                DiskFormat::Qcow2 => overlay::virtual_size(image).context("the image's disk")?,
                _ => image.metadata().context("the image's disk")?.len(),
            };
            overlay::create(bytes, dir)
        }
    }
}

/// The machine that suits it, of those the site allows.
pub fn machine(source: &BootSource, choice: MachineChoice) -> MachineType {
    match (source, choice) {
        (BootSource::Image(FullBoot { disk_bus: DiskBus::Ide, .. }), _) => MachineType::Pc,
        (BootSource::Kit(_), MachineChoice::Microvm) => MachineType::Microvm,
        // Firmware and kernels of others know no machine without PCI.
        (BootSource::Image(_), MachineChoice::Microvm) | (_, MachineChoice::Auto | MachineChoice::Q35) => {
            MachineType::Q35
        }
    }
}

/// How long the guest may take until its agent answers.
pub fn boot_timeout(source: &BootSource, config: &Config) -> Duration {
    Duration::from_secs(match source {
        BootSource::Kit(_) => config.boot_timeout_s,
        BootSource::Image(_) => config.full_boot_timeout_s,
    })
}

/// How long it may take under KVM while nobody knows whether KVM runs guests here.
pub fn kvm_trial(source: &BootSource, config: &Config) -> Duration {
    match source {
        BootSource::Kit(_) => Duration::from_secs(config.kvm_timeout_s),
        // Boot menus and services take longer than any trial may.
        BootSource::Image(_) => boot_timeout(source, config),
    }
}

/// What to look for when it does not, as the end of a sentence.
pub fn advice(source: &BootSource) -> &'static str {
    match source {
        BootSource::Kit(_) => "",
        BootSource::Image(_) => {
            "; if it came up, its agent is missing or of another release ('spank-vm image install-agent' mends that); \
             'console=ttyS0' on its kernel's command line lets it say more"
        }
    }
}

fn full_boot(image: &Image) -> anyhow::Result<FullBoot> {
    let entry = image.entry.full_boot();
    let beside = |file: &PathBuf| -> anyhow::Result<PathBuf> {
        let path = image.entry_path.parent().unwrap_or(Path::new("/")).join(file);
        File::open(&path).with_context(|| format!("{} cannot be used", path.display()))?;
        Ok(path)
    };
    Ok(FullBoot {
        disk_bus: entry.disk_bus,
        format: image.entry.format,
        kernel: entry.kernel.as_ref().map(beside).transpose()?,
        initrd: entry.initrd.as_ref().map(beside).transpose()?,
        memory_hotplug: entry.memory_hotplug,
    })
}

/// What a QEMU is told of this process.
pub fn host() -> Host {
    Host { blocked: passed_on(), ran_out_of_memory: limits::ran_out_of_memory }
}
