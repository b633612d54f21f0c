//! What a guest comes up from: the site's boot kit, or all that the image itself brings.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::fault::BlameNode;
use super::plan::VmSize;
use super::qemu::MachineType;
use super::template::Shape;
use super::{overlay, scratch};
use crate::config::{Config, MachineChoice};
use image::kit::Kit;
use image::{BootMode, DiskBus, DiskFormat, Image};

/// What a guest of an image comes up from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootSource {
    /// The boot kit's kernel and agent, over the image's files.
    Kit(KitFiles),
    /// The image's own boot loader or kernel, and its init.
    Image(FullBoot),
}

/// The parts of a boot kit that a VM is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KitFiles {
    /// The kernel (an ELF file with a PVH note, or a bzImage).
    pub kernel: PathBuf,
    /// The initramfs with the agent.
    pub initramfs: PathBuf,
    /// The empty file system that private disks are copies of.
    pub scratch: PathBuf,
    /// Tells this kit from others.
    pub digest: String,
}

/// How an image that brings its own kernel is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullBoot {
    /// Where the guest finds its disk.
    pub disk_bus: DiskBus,
    /// What the image's disk file is.
    pub format: DiskFormat,
    /// A kernel to be loaded instead of the disk's boot loader.
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Whether the guest's kernel takes memory while it runs.
    pub memory_hotplug: bool,
}

impl BootSource {
    /// What guests of `image` come up from on this node.
    ///
    /// # Errors
    /// When the kit, or a file that the entry names, is missing or not what it should be.
    pub fn of(image: &Image, config: &Config) -> anyhow::Result<Self> {
        match image.entry.boot {
            BootMode::Kit => Self::kit(config),
            BootMode::Full => FullBoot::of(image).map(Self::Image).with_context(|| format!("image '{}'", image.name)),
        }
    }

    /// The site's boot kit.
    ///
    /// # Errors
    /// When it is missing or not fit.
    pub fn kit(config: &Config) -> anyhow::Result<Self> {
        let kit = Kit::load(&config.kit).blame_node()?;
        let (kernel, initramfs) = (kit.kernel(), kit.initramfs());
        Ok(Self::Kit(KitFiles { kernel, initramfs, scratch: kit.scratch(), digest: kit.digest().to_owned() }))
    }

    /// Makes a VM's private disk, without a name in `dir`: what the guest writes goes there. `image` is the image's,
    /// open.
    ///
    /// # Errors
    /// When `dir` cannot be written or is full.
    pub fn private_disk(&self, image: &File, dir: &Path) -> anyhow::Result<File> {
        match self {
            Self::Kit(kit) => scratch::create(&File::open(&kit.scratch).context("the kit's scratch disk")?, dir),
            Self::Image(full) => {
                let bytes = match full.format {
                    DiskFormat::Qcow2 => overlay::virtual_size(image).context("the image's disk")?,
                    _ => image.metadata().context("the image's disk")?.len(),
                };
                overlay::create(bytes, dir)
            }
        }
    }

    /// Files beside the image's disk that make the guest what it is.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Kit(kit) => vec![&kit.kernel, &kit.initramfs, &kit.scratch],
            Self::Image(full) => full.kernel.iter().chain(&full.initrd).map(PathBuf::as_path).collect(),
        }
    }

    /// The machine that suits it, of those the site allows.
    pub fn machine(&self, choice: MachineChoice) -> MachineType {
        match (self, choice) {
            (Self::Image(FullBoot { disk_bus: DiskBus::Ide, .. }), _) => MachineType::Pc,
            (Self::Kit(_), MachineChoice::Microvm) => MachineType::Microvm,
            // Firmware and kernels of others know no machine without PCI.
            (Self::Image(_), MachineChoice::Microvm) | (_, MachineChoice::Auto | MachineChoice::Q35) => {
                MachineType::Q35
            }
        }
    }

    /// The hardware of a template for VMs of this size, if one can serve them.
    pub fn shape(&self, size: VmSize, shares: usize) -> Option<Shape> {
        match self {
            Self::Kit(_) => Shape::of(size, shares),
            Self::Image(full) => Shape::of_full_boot(size, shares, full.memory_hotplug),
        }
    }

    /// How long the guest may take until its agent answers.
    pub fn boot_timeout(&self, config: &Config) -> Duration {
        Duration::from_secs(match self {
            Self::Kit(_) => config.boot_timeout_s,
            Self::Image(_) => config.full_boot_timeout_s,
        })
    }

    /// How long it may take under KVM while nobody knows whether KVM runs guests here.
    pub fn kvm_trial(&self, config: &Config) -> Duration {
        match self {
            Self::Kit(_) => Duration::from_secs(config.kvm_timeout_s),
            // Boot menus and services take longer than any trial may.
            Self::Image(_) => self.boot_timeout(config),
        }
    }

    /// What to look for when it does not, as the end of a sentence.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Kit(_) => "",
            Self::Image(_) => {
                "; if it came up, its agent is missing or of another release ('spank-vm image install-agent' mends that); \
                 'console=ttyS0' on its kernel's command line lets it say more"
            }
        }
    }
}

impl FullBoot {
    fn of(image: &Image) -> anyhow::Result<Self> {
        let entry = image.entry.full_boot();
        let beside = |file: &PathBuf| -> anyhow::Result<PathBuf> {
            let path = image.entry_path.parent().unwrap_or(Path::new("/")).join(file);
            File::open(&path).with_context(|| format!("{} cannot be used", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            disk_bus: entry.disk_bus,
            format: image.entry.format,
            kernel: entry.kernel.as_ref().map(beside).transpose()?,
            initrd: entry.initrd.as_ref().map(beside).transpose()?,
            memory_hotplug: entry.memory_hotplug,
        })
    }
}
