//! What a guest boots from: the site's boot kit, or the image's own boot files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Timeouts;
use crate::config::{Config, MachineChoice};
use crate::error::{Blame, Context, Fault, RunError, ensure};
use crate::limits;
use crate::signals::passed_on;
use image::kit::Kit;
use image::{BootMode, DiskBus, DiskFormat, Image, runs_here};
use qemu::{BootSource, Confinement, FullBoot, Host, KitFiles, MachineType, QemuError, overlay, scratch};

/// What guests of `image` boot from on this node.
///
/// # Errors
/// When the kit, or a file that the entry names, is missing or not what it should be.
pub(crate) fn of(image: &Image, config: &Config) -> Result<BootSource, RunError> {
    match image.entry.boot {
        BootMode::Kit => kit(config),
        BootMode::Full => full_boot(image).map(BootSource::Image),
    }
}

/// Whether guests of this node run the image's programs.
///
/// # Errors
/// When they are for another processor.
pub(crate) fn fits_processor(image: &Image) -> Result<(), RunError> {
    let (name, arch) = (&image.name, &image.entry.arch);
    ensure!(runs_here(arch), Fault::Image, "image '{name}' is for {arch}, this node is {}", std::env::consts::ARCH);
    Ok(())
}

/// The site's boot kit.
///
/// # Errors
/// When it is missing or not suitable.
pub(crate) fn kit(config: &Config) -> Result<BootSource, RunError> {
    let kit = Kit::load(&config.kit).blame_node()?;
    let (kernel, initramfs) = (kit.kernel(), kit.initramfs());
    Ok(BootSource::Kit(KitFiles { kernel, initramfs, scratch: kit.scratch(), digest: kit.digest().to_owned() }))
}

/// Makes a VM's private disk for the guest's writes, without a name in `dir`. `image` is the image's open disk.
///
/// # Errors
/// When `dir` cannot be written or is full.
pub(crate) fn private_disk(source: &BootSource, image: &File, dir: &Path) -> Result<File, RunError> {
    let made = match source {
        BootSource::Kit(kit) => match File::open(&kit.scratch).context("the kit's scratch disk") {
            Ok(original) => return scratch::create(&original, dir).map_err(blame_disk),
            Err(error) => Err(error),
        },
        BootSource::Image(full) => {
            let bytes = match full.format {
                DiskFormat::Qcow2 => overlay::virtual_size(image).blame(Fault::Image),
                _ => image.metadata().map(|meta| meta.len()).blame(Fault::Image),
            };
            return overlay::create(bytes.context("the image's disk")?, dir).map_err(blame_disk);
        }
    };
    made.blame_node()
}

/// Whose fault it is that a private disk cannot be made: a full file system, a used up quota and a limit are not the
/// node's, because users bring that about.
pub(crate) fn blame_disk(error: QemuError) -> RunError {
    let text = error.reason().map_or_else(|| error.to_string(), |reason| format!("{error}: {reason}"));
    match limits::blame(&text) {
        Some(blamed) => blamed,
        None if lacks_room(&error) => RunError::user(text),
        None => RunError::node(text),
    }
}

/// Whether a file system is full or a quota is used up.
pub(crate) fn lacks_room(error: &QemuError) -> bool {
    matches!(error.reason().and_then(io::Error::raw_os_error), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Bytes that a VM's private disk may come to hold; 0 where that is not known before.
pub(crate) fn disk_bytes(source: &BootSource) -> u64 {
    match source {
        BootSource::Kit(kit) => kit.scratch.metadata().map_or(0, |meta| meta.len()),
        BootSource::Image(_) => 0,
    }
}

/// The suitable machine among those the site allows.
pub(crate) fn machine(source: &BootSource, choice: MachineChoice) -> MachineType {
    match (source, choice) {
        (BootSource::Image(FullBoot { disk_bus: DiskBus::Ide, .. }), _) => MachineType::Pc,
        (BootSource::Kit(_), MachineChoice::Microvm) => MachineType::Microvm,
        // Firmware and other systems' kernels do not support a machine without PCI.
        (BootSource::Image(_), MachineChoice::Microvm) | (_, MachineChoice::Auto | MachineChoice::Q35) => {
            MachineType::Q35
        }
    }
}

/// How long the guest may take until its agent answers. On shared processors it gets `turns` times the time of one VM.
pub(crate) fn timeouts(source: &BootSource, config: &Config, turns: u32) -> Timeouts {
    let (boot, trial) = match source {
        BootSource::Kit(_) => (config.boot_timeout_s, config.kvm_timeout_s),
        // Boot menus and services take longer than any trial may.
        BootSource::Image(_) => (config.full_boot_timeout_s, config.full_boot_timeout_s),
    };
    // A trial of many VMs is over with the first answer, but on shared processors all of them need about the same
    // time for it.
    Timeouts { boot: Duration::from_secs(boot) * turns, trial: Duration::from_secs(trial.min(boot)) * turns }
}

/// Advice for when it does not answer, as the end of a sentence.
pub(crate) fn advice(source: &BootSource) -> &'static str {
    match source {
        BootSource::Kit(_) => "",
        BootSource::Image(_) => {
            "; if it came up, its agent is missing or of another release ('spank-vm image install-agent' mends that); \
             'console=ttyS0' on its kernel's command line lets it say more"
        }
    }
}

fn full_boot(image: &Image) -> Result<FullBoot, RunError> {
    let entry = image.entry.full_boot();
    let beside = |file: &PathBuf| -> Result<PathBuf, RunError> {
        let path = image.entry_path.parent().unwrap_or(Path::new("/")).join(file);
        let opened = File::open(&path).blame(Fault::Image);
        opened.with_context(|| format!("image '{}': {} cannot be used", image.name, path.display()))?;
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

/// What a QEMU process must know about this process and this site.
pub(crate) fn host(confinement: Confinement<'_>) -> Host<'_> {
    let (blocked, ran_out_of_memory) = (passed_on(), limits::ran_out_of_memory);
    Host { blocked, ran_out_of_memory, file_server: None, small_pages: false, confinement }
}
