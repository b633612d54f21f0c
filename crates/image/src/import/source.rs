//! Finds out what a file is by its content: names may lie.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::disk::{self, Disk};
use super::layer::{Compression, Layer, Part, START};
use super::progress::Progress;
use archive::Reader;

/// Something that an image can be made of.
#[derive(Debug)]
pub enum Source {
    /// A tar archive of anything, compressed or not.
    Tar(Layer),
    /// A directory with a root file system.
    Directory(PathBuf),
    /// A directory with a container image.
    OciLayout(PathBuf),
    /// A virtual disk.
    Disk(Disk),
}

impl Source {
    /// Looks at a file or directory.
    ///
    /// # Errors
    /// It cannot be read or cannot be imported; the text says what it is.
    pub fn recognise(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let kind = path.metadata().with_context(|| shown.to_string())?.file_type();
        if kind.is_dir() {
            let is_layout = path.join("oci-layout").is_file() && path.join("index.json").is_file();
            return Ok(if is_layout { Self::OciLayout(path.to_owned()) } else { Self::Directory(path.to_owned()) });
        }
        ensure!(kind.is_file(), "{shown} is neither a file nor a directory");
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        Self::recognise_file(file.with_context(|| shown.to_string())?, &shown.to_string())
    }

    /// Looks at a file that is called `name` in errors.
    ///
    /// # Errors
    /// As [`Source::recognise`].
    pub fn recognise_file(file: File, name: &str) -> anyhow::Result<Self> {
        let part = Part::of_file(file)?;
        let start = part.start(START)?;
        ensure!(!start.is_empty(), "{name} is empty");
        let layer = Layer::new(part.clone(), name.to_owned(), None)?;
        if Compression::detect(&start) != Compression::None {
            let mut inner = Vec::new();
            layer.open(&Progress::none())?.take(START as u64).read_to_end(&mut inner)?;
            ensure!(!inner.is_empty(), "{name} is damaged: nothing comes out of it");
            ensure!(is_tar(&inner), "{name} is compressed and holds no tar archive: unpack it first");
            return Ok(Self::Tar(layer));
        }
        if is_tar(&start) {
            return Ok(match disk::in_appliance(&part, name)? {
                Some(disk) => Self::Disk(disk),
                None => Self::Tar(layer),
            });
        }
        match Disk::recognise(part, &start, name)? {
            Some(disk) => Ok(Self::Disk(disk)),
            None => bail!(
                "{name} is nothing that can be imported: neither a tar archive (also gz, xz, zst, bz2), a directory, an OCI \
                 or 'docker save' archive, a sif, nor a disk (raw, qcow2, vdi, vmdk, ova)"
            ),
        }
    }
}

/// Whether the first block is a header of tar.
fn is_tar(start: &[u8]) -> bool {
    start.len() >= 512
        && start[..512].iter().any(|&byte| byte != 0)
        && !matches!(Reader::new(start).next_entry(), Err(error) if error.to_string().contains("check sum"))
}
