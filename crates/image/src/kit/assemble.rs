//! Building a kit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::cpio::Archive;
use super::manifest::{FORMAT, Manifest};
use super::modules::{self, Selection};
use super::package::{self, KernelSource};
use super::replace::Draft;
use super::{INITRAMFS, Kit, MANIFEST, SCRATCH, VMLINUX, bzimage, tool, trim};
use crate::digest;

/// Size of a VM's private disk unless somebody asks for another. It is sparse.
pub const DEFAULT_SCRATCH_BYTES: u64 = 8 << 30;

/// What a kit is made of.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The kernel.
    pub kernel: KernelSource,
    /// The agent: a static executable.
    pub agent: PathBuf,
    /// Directory of the kit. An earlier kit there is replaced in one step.
    pub output: PathBuf,
    /// Where downloaded packages are kept.
    pub cache: PathBuf,
    /// Size of the VMs' private disks in bytes.
    pub scratch_bytes: u64,
    /// Modules that every guest loads beside those that it needs.
    pub modules: Vec<String>,
}

/// Builds a kit and opens it.
///
/// # Errors
/// A tool or the package is missing, the kernel lacks what a guest needs, or the output cannot be written.
pub fn build(options: &BuildOptions) -> anyhow::Result<Kit> {
    let agent = read_agent(&options.agent)?;
    let draft = Draft::begin(&options.output)?;
    let dir = draft.dir();
    let tree = dir.join("package");
    let kernel = package::unpack(&options.kernel, &options.cache, &tree)?;
    let selection = modules::select(&kernel.modules, &kernel.package, &options.modules)?;
    let image = fs::read(&kernel.image).with_context(|| format!("cannot read {}", kernel.image.display()))?;

    write(&dir.join(VMLINUX), &trim::trim(bzimage::extract_vmlinux(&image)?))?;
    write(&dir.join(INITRAMFS), &initramfs(&agent, &selection))?;
    make_scratch(&dir.join(SCRATCH), options.scratch_bytes)?;
    fs::remove_dir_all(&tree).context("cannot remove the unpacked package")?;

    let manifest = Manifest {
        format: FORMAT,
        arch: "x86_64".to_owned(),
        kernel_release: kernel.release,
        kernel_package: kernel.package,
        protocol: proto::VERSION,
        filesystems: selection.filesystems,
        modules: selection.extra,
        notes: selection.notes,
        sha256: digests(dir)?,
    };
    write(&dir.join(MANIFEST), manifest.to_toml()?.as_bytes())?;
    draft.put_in_place()?;
    Ok(Kit::load(&options.output)?)
}

/// The agent, checked for a common mistake: an agent that needs the host's libraries never starts.
fn read_agent(path: &Path) -> anyhow::Result<Vec<u8>> {
    let agent =
        fs::read(path).with_context(|| format!("cannot read the agent {} (--agent names another)", path.display()))?;
    ensure!(agent.starts_with(b"\x7fELF"), "the agent {} is no executable", path.display());
    ensure!(
        !has_interpreter(&agent),
        "the agent {} is not static: build it with RUSTFLAGS='-C target-feature=+crt-static' and an explicit --target",
        path.display()
    );
    Ok(agent)
}

/// Whether a 64-bit ELF file names a dynamic loader (PT_INTERP).
fn has_interpreter(elf: &[u8]) -> bool {
    let u64_at = |at: usize| elf.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
    let u16_at = |at: usize| elf.get(at..at + 2).map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    let (Some(start), Some(len), Some(count)) = (u64_at(0x20), u16_at(0x36), u16_at(0x38)) else { return false };
    (0..count)
        .any(|index| elf.get(start as usize + index * len..).is_some_and(|header| header.starts_with(&[3, 0, 0, 0])))
}

/// The archive the kernel starts the agent from.
fn initramfs(agent: &[u8], selection: &Selection) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("dev");
    // The kernel opens the console for its init before anything is mounted, and the agent's runtime
    // needs open descriptors 0, 1 and 2 even in a VM without a console.
    archive.device("dev/console", 0o600, (5, 1));
    archive.device("dev/null", 0o666, (1, 3));
    archive.file("init", 0o755, agent);
    archive.directory("modules");
    archive.file("modules/load", 0o644, selection.load_list().as_bytes());
    for module in &selection.modules {
        archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.content);
    }
    archive.finish()
}

/// An empty file system whose written part is as small as it gets: each VM copies it.
///
/// No journal, no checksums, no reserved blocks: the disk dies with its VM. Inode tables are left
/// unwritten (a new sparse file is zero anyway), and large flexible groups keep the rest together.
fn make_scratch(path: &Path, bytes: u64) -> anyhow::Result<()> {
    File::create(path)
        .and_then(|file| file.set_len(bytes))
        .with_context(|| format!("cannot create {}", path.display()))?;
    tool::run(
        tool::of_administrator("mkfs.ext4")
            .args(["-q", "-F", "-b", "4096", "-I", "256", "-i", "32768", "-m", "0", "-G", "1024", "-L", "scratch"])
            .args(["-O", "^has_journal,^metadata_csum,^resize_inode,uninit_bg,flex_bg,sparse_super2,dir_index,extent"])
            .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0,num_backup_sb=0,packed_meta_blocks=1"])
            .arg(path),
    )
    .map(drop)
}

fn digests(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    [VMLINUX, INITRAMFS].into_iter().map(|file| Ok((file.to_owned(), digest::of_file(&dir.join(file))?))).collect()
}

fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    // It must be on the disk before the rename makes it visible.
    let written = File::create(path).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_scratch_disk_holds_next_to_nothing_whatever_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scratch");
        make_scratch(&path, DEFAULT_SCRATCH_BYTES).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), DEFAULT_SCRATCH_BYTES);
        assert!(meta.blocks() * 512 < 1 << 20, "{} KiB", meta.blocks() / 2);
    }

    #[test]
    fn an_agent_that_is_not_static_is_refused() {
        let error = read_agent(Path::new("/bin/sh")).unwrap_err().to_string();
        assert!(error.contains("is not static"), "{error}");
        let error = read_agent(Path::new("/etc/passwd")).unwrap_err().to_string();
        assert!(error.contains("no executable"), "{error}");
    }
}
