//! Making an image from a root file system archive.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail, ensure};

use super::allow::Allow;
use super::catalogue::Image;
use super::entry::{BootMode, DiskFormat, ImageEntry};
use super::links::Links;
use super::staged::Staged;
use crate::digest;
use crate::request::ImageName;

/// What to import and as what.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Name of the new image.
    pub name: ImageName,
    /// Directory that gets the disk and the entry.
    pub dir: PathBuf,
    /// One line for people.
    pub description: String,
    /// More words for the guest kernel's command line.
    pub append: String,
    /// Replace an image of that name.
    pub replace: bool,
    /// Files of the guest that are links to a share.
    pub links: Links,
    /// Processor architecture of its programs.
    pub arch: String,
}

/// What the packer may use beside its program: its own default is a quarter of the machine's memory.
const PACKER_MEMORY: &str = "64M";

/// Packs the tar archive that `archive` yields into a squashfs image and enters it in the catalogue.
///
/// Nothing of the archive is unpacked on the host: `sqfstar` turns it into a file system as it is
/// read, so owners and devices need no privilege and odd paths can do no harm.
///
/// # Errors
/// When the name is taken, `sqfstar` is missing or refuses the archive, or the directory cannot be written.
/// Nothing is left behind then.
pub fn import(archive: &mut dyn Read, options: &ImportOptions) -> anyhow::Result<Image> {
    let ImportOptions { name, dir, .. } = options;
    std::fs::create_dir_all(dir).with_context(|| format!("image directory {}", dir.display()))?;
    let entry_path = dir.join(format!("{name}.toml"));
    if entry_path.exists() && !options.replace {
        bail!("image '{name}' exists in {}: --replace overwrites it", dir.display());
    }

    // A new disk gets a new name: jobs that run from the old one keep it until they end.
    let staged = Staged::create(dir).with_context(|| format!("image directory {}", dir.display()))?;
    pack(archive, &staged.path())?;
    let sha256 = digest::of_file(&staged.path()).context("reading the new disk")?;
    let disk = PathBuf::from(format!("{name}-{}.squashfs", &sha256[..12]));
    let old = options.replace.then(|| disk_of(&entry_path)).flatten().filter(|old| *old != dir.join(&disk));
    staged.publish(&dir.join(&disk), true)?;

    let entry = ImageEntry {
        description: options.description.clone(),
        disk: disk.clone(),
        format: DiskFormat::Squashfs,
        boot: BootMode::Kit,
        append: options.append.clone(),
        arch: options.arch.clone(),
        sha256: Some(sha256),
        links: options.links.clone(),
        allow: Allow::default(),
    };
    let published = Staged::create(dir).map_err(anyhow::Error::from).and_then(|staged| {
        staged.file().write_all(toml::to_string(&entry)?.as_bytes())?;
        staged.publish(&entry_path, options.replace)
    });
    if let Err(error) = published {
        let _ = std::fs::remove_file(dir.join(&disk));
        return Err(error);
    }
    if let Some(old) = old {
        // Who runs from it has it open; who is about to looks the entry up.
        let _ = std::fs::remove_file(old);
    }
    Ok(Image { name: name.clone(), entry, entry_path, disk: dir.join(disk) })
}

/// Whether this machine has what packs images.
///
/// # Errors
/// When not; the text says how to get it.
pub fn packer_exists() -> anyhow::Result<()> {
    let tried = Command::new("sqfstar").arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).status();
    tried.map(drop).context("sqfstar cannot be started: install squashfs-tools")
}

fn pack(archive: &mut dyn Read, disk: &Path) -> anyhow::Result<()> {
    // lz4: under emulation the guest decompresses on a slow processor, and size matters less than start time.
    let mut packer = Command::new("sqfstar")
        // The file is there already, and is this process's alone. The memory is the task's when a VM is saved.
        .args(["-quiet", "-no-progress", "-force", "-mem", PACKER_MEMORY, "-comp", "lz4", "-b", "128K"])
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("sqfstar cannot be started: install squashfs-tools")?;
    let mut input = packer.stdin.take().context("no pipe to sqfstar")?;
    let copied = std::io::copy(archive, &mut input).and_then(|bytes| input.flush().map(|()| bytes));
    drop(input);
    let output = packer.wait_with_output().context("waiting for sqfstar")?;
    ensure!(output.status.success(), "the archive cannot be packed: {}", reason(&output));
    let bytes = copied.context("reading the archive")?;
    ensure!(bytes > 0, "the archive is empty");
    Ok(())
}

/// Why the packer failed, in its words or from how it ended.
fn reason(output: &Output) -> String {
    if output.status.signal() == Some(libc::SIGXFSZ) {
        return "the file grew beyond the limit for files (ulimit -f)".to_owned();
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    // The cause comes before the announcement that it is fatal.
    let line = lines().find(|line| line.contains("because")).or_else(|| lines().next_back());
    line.map_or_else(|| format!("the packer ended with {}", output.status), str::to_owned)
}

/// The disk beside an entry that is about to be replaced; one that lies elsewhere is not ours to remove.
fn disk_of(entry_path: &Path) -> Option<PathBuf> {
    let entry: ImageEntry = toml::from_str(&std::fs::read_to_string(entry_path).ok()?).ok()?;
    let dir = entry_path.parent()?;
    Some(dir.join(entry.disk)).filter(|disk| disk.parent() == Some(dir))
}
