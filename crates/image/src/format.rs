//! What a disk file is.

use serde::{Deserialize, Serialize};

use super::probe::{Content, Qcow2};

/// What a disk file is. QEMU is always told and never guesses: a guest could write a header that makes it guess wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// A squashfs file system.
    Squashfs,
    /// An erofs file system.
    Erofs,
    /// Plain bytes: one file system, or a disk with partitions if it boots by itself or is imported.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// VirtualBox's format: can be imported, but no VM runs from it and no entry can name it.
    #[serde(skip)]
    Vdi,
    /// VMware's format, in one file: can be imported, but no VM runs from it and no entry can name it.
    #[serde(skip)]
    Vmdk,
}

impl DiskFormat {
    /// The format of a disk with this content that a VM starts from as it is.
    pub fn of(content: &Content) -> Option<Self> {
        Some(match content {
            Content::Squashfs => Self::Squashfs,
            Content::Erofs => Self::Erofs,
            Content::Ext { .. } | Content::Xfs | Content::Btrfs { .. } => Self::Raw,
            Content::Qcow2(Qcow2 { version: 2.., .. }) => Self::Qcow2,
            _ => return None,
        })
    }

    /// QEMU's name of the block driver that reads it.
    pub fn block_driver(self) -> &'static str {
        match self {
            Self::Squashfs | Self::Erofs | Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vdi => "vdi",
            Self::Vmdk => "vmdk",
        }
    }

    /// The file system that the agent should mount; `auto` if the format does not say.
    pub fn root_fs(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Raw | Self::Qcow2 | Self::Vdi | Self::Vmdk => "auto",
        }
    }

    /// Whether it is one file system and nothing else: no disk with a boot loader.
    pub fn is_file_system(self) -> bool {
        matches!(self, Self::Squashfs | Self::Erofs)
    }

    /// Whether VMs can run from it, so that an entry may name it.
    pub fn is_bootable(self) -> bool {
        !matches!(self, Self::Vdi | Self::Vmdk)
    }

    /// Whether its header may name another file that the disk is based on.
    pub fn may_have_a_backing_file(self) -> bool {
        matches!(self, Self::Qcow2 | Self::Vmdk)
    }

    /// The word in an entry.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Raw | Self::Qcow2 | Self::Vdi | Self::Vmdk => self.block_driver(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageEntry;

    #[test]
    fn an_entry_names_only_what_vms_run_from() {
        let entry = |format: &str| toml::from_str::<ImageEntry>(&format!("disk = 'x'\nformat = '{format}'\n"));
        for format in [DiskFormat::Squashfs, DiskFormat::Erofs, DiskFormat::Raw, DiskFormat::Qcow2] {
            assert_eq!(entry(format.name()).unwrap().format, format);
        }
        for format in [DiskFormat::Vdi, DiskFormat::Vmdk] {
            let error = entry(format.name()).unwrap_err().to_string();
            assert!(error.contains("expected one of `squashfs`, `erofs`, `raw`, `qcow2`\n"), "{error}");
        }
    }
}
