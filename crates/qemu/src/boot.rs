//! What a guest boots from: the site's boot kit, or the image's own boot files.

use std::path::{Path, PathBuf};

use image::{DiskBus, DiskFormat};

use crate::shape::{Shape, VmSize};

/// What a guest of an image boots from.
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
    /// Identifies this kit.
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
    /// Whether the guest's kernel accepts more memory while it runs.
    pub memory_hotplug: bool,
}

impl BootSource {
    /// Files besides the image's disk that determine the guest.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Kit(kit) => vec![&kit.kernel, &kit.initramfs, &kit.scratch],
            Self::Image(full) => full.kernel.iter().chain(&full.initrd).map(PathBuf::as_path).collect(),
        }
    }

    /// The hardware of a template for VMs of this size, if one can serve them; on a machine that takes memory while it runs, or
    /// on another.
    pub fn shape(&self, plugs_memory: bool, size: VmSize) -> Option<Shape> {
        match self {
            Self::Kit(_) if plugs_memory => Shape::of(size),
            Self::Kit(_) => Shape::without_plug(size),
            Self::Image(full) => Shape::of_full_boot(size, full.memory_hotplug),
        }
    }
}
