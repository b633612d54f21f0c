//! A template's name, made from everything it depends on: another image, kit, QEMU, shape or boot of the node means
//! another template.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;

use sha2::{Digest, Sha256};

use super::processor;
use crate::delivery::{Disk, identity};
use image::Image;
use image::digest::hex;
use qemu::BootSource;
use qemu::{Abilities, Accel, CpuModel, Ends, Hardware, ImageFds, Nic, Shape, Start, System};
use qemu::{TemplateFds, VmSpec, Way};

/// Version of the directory's layout and of what the agent does before it is saved.
pub const FORMAT: u32 = 3;

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
    /// The QEMU binary and the machine that it makes.
    pub way: &'a Way,
    /// Who executes it.
    pub accel: Accel,
    /// The processor its clones see.
    pub cpu_model: &'a CpuModel,
    /// Memory and processors.
    pub shape: Shape,
    /// Whether its clones have a network device.
    pub has_nic: bool,
    /// Messages that describe the user to the guest, so that not every clone needs them; empty for a
    /// template that others use too.
    pub introduction: &'a [u8],
}

impl Recipe<'_> {
    /// Machine and processor of its clones.
    pub fn hardware(&self) -> Hardware<'_> {
        Hardware { machine: self.way.machine, accel: self.accel, cpu_model: self.cpu_model }
    }

    /// The name of this recipe's template on this node until its next reboot.
    ///
    /// # Errors
    /// When a file of the recipe cannot be read.
    pub fn key(&self) -> io::Result<Key> {
        // A model with a name is made of the node's processor too, and has less where that has less. Emulated processors are
        // QEMU's, and the same on any node.
        match self.accel {
            Accel::Kvm => self.key_on(&processor::identity()?),
            Accel::Tcg => self.key_on(""),
        }
    }

    /// The same on a node whose processor is told apart by this text.
    fn key_on(&self, processor: &str) -> io::Result<Key> {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(&FORMAT.to_le_bytes());
        add(&proto::VERSION.to_le_bytes());
        add(self.introduction);
        add(processor.as_bytes());
        if let BootSource::Kit(kit) = self.source {
            add(kit.digest.as_bytes());
        }
        for file in self.source.files().into_iter().chain([self.way.qemu.as_path()]) {
            add(file.as_os_str().as_bytes());
            add(identity(&std::fs::metadata(file)?).as_bytes());
        }
        // The file that QEMU will get, even if another file has its name by now.
        add(self.disk.identity().as_bytes());
        // The whole command line, with placeholders for descriptors.
        let ends = Ends { files: Some(0), ..Ends::default() };
        let fds = TemplateFds { ram: 0, state: 0, abilities: Abilities::ALL };
        // Without the counter's speed: it is measured, and so never quite the same. Two templates of one boot of the node do not
        // differ in it.
        let start = Start::Template(self.shape, fds);
        let system = System::Image(self.image, ImageFds::default());
        let spec = VmSpec {
            nic: self.has_nic.then_some(Nic::OF_TEMPLATE),
            ..VmSpec::new(self.hardware(), start, self.source, system, ends)
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

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DiskFormat, ImageEntry};
    use qemu::{KitFiles, MachineType, VmSize};

    /// The keys of one recipe on two nodes whose processors are told apart by these texts.
    fn keys(accel: Accel, cpu_model: &str, processors: [&str; 2]) -> [Key; 2] {
        let any = std::env::current_exe().unwrap();
        let files =
            KitFiles { kernel: any.clone(), initramfs: any.clone(), scratch: any.clone(), digest: String::new() };
        let image = Image {
            name: "debian12".parse().unwrap(),
            entry: ImageEntry::new(any.clone(), DiskFormat::Squashfs),
            entry_path: any.clone(),
            disk: any.clone(),
        };
        let recipe = Recipe {
            image: &image,
            source: &BootSource::Kit(files),
            disk: &Disk::stand_in(std::fs::File::open(&any).unwrap()),
            way: &Way::plain(&any, MachineType::Q35),
            accel,
            cpu_model: &cpu_model.parse().unwrap(),
            shape: Shape::of(VmSize { memory_mib: 512, cpus: 1 }).unwrap(),
            has_nic: false,
            introduction: &[],
        };
        processors.map(|processor| recipe.key_on(processor).unwrap())
    }

    #[test]
    fn a_template_of_one_processor_is_none_for_another() {
        for model in ["host", "EPYC"] {
            let [one, other] = keys(Accel::Kvm, model, ["flags=svm avx2", "flags=svm avx2 avx512f"]);
            assert_ne!(one, other);
            let [one, same] = keys(Accel::Kvm, model, ["flags=svm avx2"; 2]);
            assert_eq!(one, same);
        }
    }

    #[test]
    fn a_template_of_one_model_is_none_for_another() {
        for accel in [Accel::Kvm, Accel::Tcg] {
            assert_ne!(keys(accel, "host", [""; 2]), keys(accel, "EPYC", [""; 2]));
        }
    }
}
