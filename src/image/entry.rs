//! One catalogue entry: the TOML file that describes an image.

use std::path::PathBuf;

use super::links::Links;
use serde::{Deserialize, Serialize};

use super::allow::Allow;

/// What the disk file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// A squashfs file system.
    Squashfs,
    /// An erofs file system.
    Erofs,
    /// A raw disk that holds one file system, without partitions.
    Raw,
    /// The same in QEMU's own format.
    Qcow2,
}

impl DiskFormat {
    /// QEMU's name of the block driver that reads it.
    pub fn block_driver(self) -> &'static str {
        match self {
            Self::Squashfs | Self::Erofs | Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// The file system the agent should mount, `auto` where the format does not say.
    pub fn root_fs(self) -> &'static str {
        match self {
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Raw | Self::Qcow2 => "auto",
        }
    }
}

/// How a guest of the image comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// The site's kernel and agent from the boot kit, the image's files.
    #[default]
    Kit,
}

/// The content of `NAME.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEntry {
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// The disk file; relative to the entry's directory.
    pub disk: PathBuf,
    /// What the disk file is.
    pub format: DiskFormat,
    /// How a guest comes up.
    #[serde(default)]
    pub boot: BootMode,
    /// More words for the guest kernel's command line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub append: String,
    /// Processor architecture of the image's programs.
    #[serde(default = "default_arch")]
    pub arch: String,
    /// SHA-256 of the disk file in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Files of the guest that are links to a share.
    #[serde(default, skip_serializing_if = "Links::is_empty")]
    pub links: Links,
    /// Who may use it, and where.
    #[serde(default, skip_serializing_if = "Allow::is_empty")]
    pub allow: Allow,
}

impl ImageEntry {
    /// The entry of a disk of which nothing else is said: kit boot, this node's architecture.
    pub fn new(disk: PathBuf, format: DiskFormat) -> Self {
        Self {
            description: String::new(),
            disk,
            format,
            boot: BootMode::default(),
            append: String::new(),
            arch: default_arch(),
            sha256: None,
            links: Links::default(),
            allow: Allow::default(),
        }
    }
}

fn default_arch() -> String {
    std::env::consts::ARCH.to_owned()
}
