//! `kit.toml`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the kit directory's layout.
pub(super) const FORMAT: u32 = 1;

/// What a kit says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the directory's layout.
    pub format: u32,
    /// Processor architecture, in the kernel's words.
    pub arch: String,
    /// Release of the kernel.
    pub kernel_release: String,
    /// File name of the package the kernel came from.
    pub kernel_package: String,
    /// [`proto::VERSION`] of the agent.
    pub protocol: u16,
    /// File system types that an image's root may have.
    pub filesystems: Vec<String>,
    /// Modules that every guest loads beside those that it needs.
    #[serde(default)]
    pub modules: Vec<String>,
    /// What could not be put in, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Digest of each file except the scratch disk, which is gigabytes of zeros.
    pub sha256: BTreeMap<String, String>,
}

impl Manifest {
    pub(super) fn to_toml(&self) -> anyhow::Result<String> {
        Ok(format!("# Written by 'spank-vm kit build'. To change a kit, build it anew.\n{}", toml::to_string(self)?))
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            format: FORMAT,
            arch: "x86_64".to_owned(),
            kernel_release: "6.1.0-1-amd64".to_owned(),
            kernel_package: "linux-image-6.1.0-1-amd64_6.1.1-1_amd64.deb".to_owned(),
            protocol: proto::VERSION,
            filesystems: vec!["squashfs".to_owned(), "ext4".to_owned()],
            modules: vec!["fuse".to_owned()],
            notes: vec![],
            sha256: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_its_own_file() {
        let text = Manifest::example().to_toml().unwrap();
        assert_eq!(toml::from_str::<Manifest>(&text).unwrap(), Manifest::example());
    }
}
