//! The boot kit: the guest kernel and initramfs with which every kit-booted image starts.
//!
//! A kit is a directory that is built once and only read afterwards:
//!
//! | file | what |
//! | --- | --- |
//! | `kit.toml` | what is in it, see [`Manifest`] |
//! | `vmlinux` | the kernel, uncompressed, with a PVH entry: a guest need not unpack it at each start |
//! | `initramfs.cpio` | the agent as `/init`, and the modules it loads |
//! | `scratch.ext4` | an empty, sparse file system: what a VM's private disk is a copy of |
//!
//! The kernel is a stock one of a distribution, unpacked and not installed: what a guest needs must
//! not depend on what the host's own kernel was built with.

mod assemble;
mod bzimage;
mod cpio;
mod elf;
mod manifest;
mod modules;
mod package;
mod replace;
mod tool;
mod trim;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::digest;

pub use assemble::{BuildOptions, DEFAULT_SCRATCH_BYTES, build};
pub use manifest::Manifest;
pub use package::KernelSource;

use manifest::FORMAT;

/// File names within a kit.
pub(crate) const MANIFEST: &str = "kit.toml";
const VMLINUX: &str = "vmlinux";
const INITRAMFS: &str = "initramfs.cpio";
const SCRATCH: &str = "scratch.ext4";

/// A boot kit that was checked: this program can use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kit {
    dir: PathBuf,
    manifest: Manifest,
    digest: String,
}

impl Kit {
    /// Opens the kit in `dir`. Only checks that its files exist and does not read them: see [`Kit::verify`].
    ///
    /// # Errors
    /// A sentence that says what is missing and how to make it.
    pub fn load(dir: &Path) -> Result<Self, KitError> {
        let path = dir.join(MANIFEST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KitError::Missing { dir: dir.to_owned(), file: MANIFEST });
            }
            Err(source) => return Err(KitError::Unreadable { path, source }),
        };
        let kit = Self::parse(dir, &text)?;
        for file in [VMLINUX, INITRAMFS, SCRATCH] {
            let path = dir.join(file);
            match File::open(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(KitError::Missing { dir: dir.to_owned(), file });
                }
                Err(source) => return Err(KitError::Unreadable { path, source }),
            }
        }
        Ok(kit)
    }

    fn parse(dir: &Path, text: &str) -> Result<Self, KitError> {
        let path = || dir.join(MANIFEST);
        let manifest: Manifest = toml::from_str(text)
            .map_err(|error| KitError::Malformed { path: path(), why: crate::mistake::in_toml(&error, text) })?;
        if manifest.format != FORMAT {
            return Err(KitError::OtherFormat { dir: dir.to_owned(), found: manifest.format });
        }
        if manifest.protocol != proto::VERSION {
            return Err(KitError::OtherProtocol { dir: dir.to_owned(), found: manifest.protocol });
        }
        Ok(Self { dir: dir.to_owned(), digest: digest::of_bytes(text.as_bytes()), manifest })
    }

    /// The directory it lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The kernel to start: uncompressed, entered by PVH (QEMU's `-kernel` takes it as it is).
    pub fn kernel(&self) -> PathBuf {
        self.dir.join(VMLINUX)
    }

    /// The initramfs that belongs to the kernel.
    pub fn initramfs(&self) -> PathBuf {
        self.dir.join(INITRAMFS)
    }

    /// The file system that each VM gets a copy of. Sparse: copy its data extents only.
    pub fn scratch(&self) -> PathBuf {
        self.dir.join(SCRATCH)
    }

    /// Release of the kernel, e.g. `6.1.0-56-amd64`.
    pub fn kernel_release(&self) -> &str {
        &self.manifest.kernel_release
    }

    /// Digest of the whole content: two kits with the same digest are the same kit.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads every file and compares it with the digest taken when the kit was built.
    ///
    /// # Errors
    /// The first file that differs or cannot be read.
    pub fn verify(&self) -> Result<(), KitError> {
        for (file, expected) in &self.manifest.sha256 {
            let path = self.dir.join(file);
            let found = digest::of_file(&path).map_err(|source| KitError::Unreadable { path: path.clone(), source })?;
            if found != *expected {
                return Err(KitError::Changed { path });
            }
        }
        Ok(())
    }
}

/// Why a directory is not a kit that this program can use.
#[derive(Debug)]
pub enum KitError {
    /// A file of the kit is not there.
    Missing {
        /// Where the kit should be.
        dir: PathBuf,
        /// What is not there.
        file: &'static str,
    },
    /// A file of the kit cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// `kit.toml` is not in the form that this program writes.
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        why: String,
    },
    /// The kit was built by a program that uses another layout of kits.
    OtherFormat {
        /// Where the kit is.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The kit's agent speaks another version of the protocol.
    OtherProtocol {
        /// Where the kit is.
        dir: PathBuf,
        /// Its version.
        found: u16,
    },
    /// A file is not the one that the kit was built with.
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for KitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = |dir: &Path| format!("'spank-vm kit build --output {}' makes one", dir.display());
        match self {
            Self::Missing { dir, file } => {
                write!(f, "no boot kit in {} ({file} is missing): {}", dir.display(), remedy(dir))
            }
            // The cause is the error's source; callers print the whole chain.
            Self::Unreadable { path, .. } => write!(f, "cannot read {} of the boot kit", path.display()),
            Self::Malformed { path, why } => write!(f, "{}: {}", path.display(), why.trim_end()),
            Self::OtherFormat { dir, found } => write!(
                f,
                "the boot kit in {} has format {found}, this program uses {FORMAT}: {}",
                dir.display(),
                remedy(dir)
            ),
            Self::OtherProtocol { dir, found } => write!(
                f,
                "the agent of the boot kit in {} speaks protocol {found}, this program {}: {}",
                dir.display(),
                proto::VERSION,
                remedy(dir)
            ),
            Self::Changed { path } => {
                write!(f, "{} is not the file that the boot kit was built with", path.display())
            }
        }
    }
}

impl std::error::Error for KitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(dir: &Path, manifest: &Manifest) {
        fs::write(dir.join(MANIFEST), manifest.to_toml().unwrap()).unwrap();
        for file in [VMLINUX, INITRAMFS, SCRATCH] {
            fs::write(dir.join(file), file).unwrap();
        }
    }

    #[test]
    fn a_kit_is_loaded_and_its_files_are_verified() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::example();
        manifest.sha256.insert(VMLINUX.to_owned(), digest::of_bytes(VMLINUX.as_bytes()));
        written(dir.path(), &manifest);
        let kit = Kit::load(dir.path()).unwrap();
        assert_eq!(kit.manifest(), &manifest);
        kit.verify().unwrap();
        fs::write(dir.path().join(VMLINUX), "other").unwrap();
        assert!(matches!(kit.verify(), Err(KitError::Changed { .. })));
    }

    #[test]
    fn what_is_missing_or_too_old_says_how_to_make_it() {
        let dir = tempfile::tempdir().unwrap();
        let told = || Kit::load(dir.path()).unwrap_err().to_string();
        let (here, remedy) = (dir.path().display(), "'spank-vm kit build --output ");
        assert!(told().starts_with(&format!("no boot kit in {here} (kit.toml is missing): {remedy}{here}' makes one")));
        written(dir.path(), &Manifest { protocol: 999, ..Manifest::example() });
        assert!(told().contains("speaks protocol 999") && told().contains(remedy));
        written(dir.path(), &Manifest { format: 999, ..Manifest::example() });
        assert!(told().contains("has format 999") && told().contains(remedy));
        written(dir.path(), &Manifest::example());
        fs::remove_file(dir.path().join(INITRAMFS)).unwrap();
        assert!(told().contains("(initramfs.cpio is missing)"));
        fs::write(dir.path().join(MANIFEST), "format = 1\ncolour = 'red'\n").unwrap();
        assert!(told().contains("colour"), "{}", told());
    }
}
