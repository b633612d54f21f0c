//! `kit.toml`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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
    /// [`crate::proto::VERSION`] of the agent.
    pub protocol: u16,
    /// File system types that an image's root may have.
    pub filesystems: Vec<String>,
    /// What could not be put in, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Digest of each file but the scratch disk, which is gigabytes of nothing.
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
            protocol: crate::proto::VERSION,
            filesystems: vec!["squashfs".to_owned(), "ext4".to_owned()],
            notes: vec![],
            sha256: BTreeMap::new(),
        }
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file's content.
pub(super) fn digest_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&sha.finalize())),
            n => sha.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_survives_its_own_file() {
        let text = Manifest::example().to_toml().unwrap();
        assert_eq!(toml::from_str::<Manifest>(&text).unwrap(), Manifest::example());
    }

    #[test]
    fn a_digest_is_what_sha256sum_prints() {
        assert!(digest(b"abc").starts_with("ba7816bf8f01cfea") && digest(b"abc").len() == 64);
    }
}
