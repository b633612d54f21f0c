//! A template's name, made from everything it depends on: another image, kit, QEMU, shape or boot of the node means
//! another template.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::delivery::{Disk, identity};
use image::Image;
use image::digest::hex;
use proto;
use qemu::BootSource;
use qemu::Share;
use qemu::{Abilities, Accel, ImageFds, MachineType, Shape, Start, System, TemplateFds, VmSpec};

/// Version of the directory's layout and of what the agent does before it is saved.
pub const FORMAT: u32 = 2;

/// A template's name: a mark of this boot of the node, and 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

/// The parts of a template.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// The image.
    pub image: &'a Image,
    /// What it boots from.
    pub source: &'a BootSource,
    /// Its disk, open.
    pub disk: &'a Disk,
    /// The QEMU binary.
    pub qemu: &'a Path,
    /// Virtual hardware.
    pub machine: MachineType,
    /// Who executes it.
    pub accel: Accel,
    /// Memory, processors, shares.
    pub shape: Shape,
    /// Messages that describe the user to the guest, so that not every clone needs them; empty for a
    /// template that others use too.
    pub introduction: &'a [u8],
}

impl Recipe<'_> {
    /// The name of this recipe's template on this node until its next reboot.
    ///
    /// # Errors
    /// When a file of the recipe cannot be read.
    pub fn key(&self) -> io::Result<Key> {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(&FORMAT.to_le_bytes());
        add(&proto::VERSION.to_le_bytes());
        add(self.introduction);
        if let BootSource::Kit(kit) = self.source {
            add(kit.digest.as_bytes());
        }
        for file in self.source.files().into_iter().chain([self.qemu]) {
            add(file.as_os_str().as_bytes());
            add(identity(&std::fs::metadata(file)?).as_bytes());
        }
        // The file that QEMU will get, even if another file has its name by now.
        add(self.disk.identity().as_bytes());
        // The whole command line, with placeholders for descriptors and shares.
        let placeholder =
            |number| Share { tag: format!("s{number}"), source: "/".into(), target: "/".into(), read_only: false };
        let shares: Vec<Share> = (0..self.shape.shares).map(placeholder).collect();
        let fds = TemplateFds { ram: 0, state: 0, abilities: Abilities { read_only_templates: true } };
        let spec = VmSpec {
            machine: self.machine,
            accel: self.accel,
            start: Start::Template(self.shape, fds),
            source: self.source,
            system: System::Image(self.image, ImageFds::default()),
            channel: 0,
            console: 0,
            monitor: 0,
            shares: &shares,
        };
        spec.args().iter().for_each(|arg| add(arg.as_bytes()));
        // Files cannot be trusted after a crash of the node, and the next boot may have another kernel or
        // microcode.
        add(node::process::boot()?.as_bytes());
        Ok(Key(node::shelf::of_this_boot(&hex(&hash.finalize()[..16]))?))
    }
}

impl Key {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
