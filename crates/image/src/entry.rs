//! One catalogue entry: the TOML file that describes an image.

use std::path::PathBuf;

use super::format::DiskFormat;
use super::links::Links;
use serde::{Deserialize, Serialize};

use super::allow::Allow;

/// How a guest of the image comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// The site's kernel and agent from the boot kit, the image's files.
    #[default]
    Kit,
    /// The image's own boot loader, kernel and init; the agent is one of its services.
    Full,
}

/// Where a guest with its own kernel finds its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// A paravirtual disk: the fastest, for systems whose initial RAM disk has `virtio_blk`.
    #[default]
    Virtio,
    /// A disk on a SATA controller (AHCI).
    Sata,
    /// A disk on a parallel ATA controller, in an old PC without PCI Express.
    Ide,
}

/// The table `[full]` of an entry: what a full boot needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FullBootEntry {
    /// Where the guest's kernel looks for its disk.
    pub disk_bus: DiskBus,
    /// The image's kernel, to be loaded by QEMU instead of by a boot loader; relative to the entry's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk that goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// The kernel can mount shares (it has FUSE).
    pub shares: bool,
    /// The kernel can get more memory while it runs (virtio-mem), so that one template serves many sizes.
    pub memory_hotplug: bool,
}

impl Default for FullBootEntry {
    fn default() -> Self {
        Self { disk_bus: DiskBus::Virtio, kernel: None, initrd: None, shares: true, memory_hotplug: false }
    }
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
    /// What a full boot needs to know; only with `boot = "full"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<FullBootEntry>,
}

impl ImageEntry {
    /// The entry of a disk about which nothing else is known: kit boot, this node's architecture.
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
            full: None,
        }
    }

    /// What a full boot needs to know, as written or by default.
    pub fn full_boot(&self) -> FullBootEntry {
        self.full.clone().unwrap_or_default()
    }

    /// Whether the keys go together.
    ///
    /// # Errors
    /// The contradiction, for the author of the entry.
    pub fn validate(&self) -> Result<(), String> {
        if let Some(usual) = usual_name(&self.arch) {
            return Err(format!("arch = \"{}\": write \"{usual}\"", self.arch));
        }
        match self.boot {
            BootMode::Kit if self.full.is_some() => {
                return Err("[full] says nothing without boot = \"full\"".to_owned());
            }
            BootMode::Kit => return Ok(()),
            BootMode::Full => {}
        }
        let full = self.full_boot();
        if matches!(self.format, DiskFormat::Squashfs | DiskFormat::Erofs) {
            return Err("boot = \"full\" needs a whole disk (format raw or qcow2), this is a file system".to_owned());
        }
        if full.initrd.is_some() && full.kernel.is_none() {
            return Err("full.initrd needs full.kernel".to_owned());
        }
        if !self.append.is_empty() && full.kernel.is_none() {
            return Err(
                "append: the image's boot loader has the kernel's command line; change it there or give full.kernel"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// What an architecture is called here if it has another name elsewhere, as Debian and container images call it. One
/// spelling everywhere, or an image would run on no node.
fn usual_name(arch: &str) -> Option<&'static str> {
    match arch {
        "" => Some(std::env::consts::ARCH),
        "amd64" | "x86-64" | "x64" => Some("x86_64"),
        "arm64" => Some("aarch64"),
        "x86" | "386" | "i486" | "i586" | "i686" => Some("i386"),
        "ppc64le" | "ppc64el" | "ppc64" => Some("powerpc64"),
        _ => None,
    }
}

fn default_arch() -> String {
    std::env::consts::ARCH.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Result<ImageEntry, String> {
        let entry: ImageEntry = toml::from_str(&format!("disk = 'd'\n{text}")).map_err(|error| error.to_string())?;
        entry.validate().map(|()| entry)
    }

    #[test]
    fn a_full_boot_has_its_own_keys() {
        let plain = entry("format = 'raw'\nboot = 'full'\n").unwrap();
        assert_eq!(plain.full_boot(), FullBootEntry::default());
        let text = "format = 'qcow2'\nboot = 'full'\nappend = 'root=/dev/sda1'\n\
                    [full]\ndisk_bus = 'sata'\nkernel = 'k'\ninitrd = 'i'\nshares = false\n";
        let full = entry(text).unwrap();
        assert_eq!((full.full_boot().disk_bus, full.full_boot().shares), (DiskBus::Sata, false));
        let again: ImageEntry = toml::from_str(&toml::to_string(&full).unwrap()).unwrap();
        assert_eq!(again, full);
    }

    #[test]
    fn an_architecture_has_one_spelling() {
        for (written, usual) in
            [("amd64", "x86_64"), ("arm64", "aarch64"), ("i686", "i386"), ("", std::env::consts::ARCH)]
        {
            let error = entry(&format!("format = 'raw'\narch = '{written}'\n")).unwrap_err();
            assert_eq!(error, format!("arch = \"{written}\": write \"{usual}\""));
        }
        for known in ["x86_64", "i386", "aarch64", "riscv64", "another processor"] {
            entry(&format!("format = 'raw'\narch = '{known}'\n")).unwrap();
        }
    }

    #[test]
    fn keys_that_contradict_each_other_are_told() {
        for (text, word) in [
            ("format = 'squashfs'\nboot = 'full'\n", "whole disk"),
            ("format = 'raw'\n[full]\nshares = false\n", "boot = \"full\""),
            ("format = 'raw'\nboot = 'full'\nappend = 'quiet'\n", "boot loader"),
            ("format = 'raw'\nboot = 'full'\n[full]\ninitrd = 'i'\n", "full.kernel"),
            ("format = 'raw'\nboot = 'full'\n[full]\nfirmware = 'uefi'\n", "firmware"),
        ] {
            let error = entry(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
