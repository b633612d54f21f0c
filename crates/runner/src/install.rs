//! Installs the agent in an image that boots its own kernel: on a copy of its disk, in a helper VM.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::error::{Blame, Context, Fault, RunError, ensure};
use super::helper;
use crate::config::Config;
use image::digest;
use image::import::disk::Disk;
use image::{BootMode, DiskFormat, FullBootEntry, Image, ImageEntry, Staged, clean_up_on_signals};
use qemu::HelperDisk;
use qemu::scratch::copy_sparse;
use request::ImageName;

/// The disk's name in the helper.
const SERIAL: &str = "target";

/// Longest answer that is read; more is dropped.
const ANSWER_MAX: u64 = 4096;

/// How to install the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstallOptions {
    /// The partition with the root, if there are several.
    pub partition: Option<u32>,
    /// The btrfs subvolume with the root, if there are several.
    pub subvolume: Option<String>,
    /// Accept a kernel that cannot mount shares.
    pub without_shares: bool,
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The kernel that the image boots.
    pub kernel: String,
    /// The init that starts its agent: `systemd` or `sysvinit`.
    pub init: String,
    /// The helper's warnings.
    pub warnings: Vec<String>,
    /// The entry's new text.
    pub entry: ImageEntry,
    /// The disk that has the agent.
    pub disk: PathBuf,
}

/// A new image in the directory `dir`, made from a disk that is in no catalogue yet.
///
/// # Errors
/// When the name is taken, or the file is no disk that VMs can run from.
pub fn image_of_disk(disk: &Path, name: ImageName, dir: &Path, description: String) -> Result<Image, RunError> {
    let entry_path = dir.join(format!("{name}.toml"));
    ensure!(
        !entry_path.exists(),
        Fault::User,
        "image '{name}' exists in {}: 'spank-vm image remove' removes it",
        dir.display()
    );
    let format = Disk::of_path(disk).blame(Fault::Image)?.format;
    ensure!(
        format.is_bootable(),
        Fault::Image,
        "{0} has a format that VMs do not run from: 'qemu-img convert -O qcow2 {0} NEW.qcow2' makes one that they do",
        disk.display()
    );
    let disk = fs::canonicalize(disk).with_context(|| disk.display().to_string())?;
    let entry = ImageEntry { description, ..ImageEntry::new(disk.clone(), format) };
    Ok(Image { name, entry, entry_path, disk })
}

/// Puts the agent into `image`: a changed copy of its disk takes the place of the old one in the entry, which becomes
/// `boot = "full"`. The old disk stays where it is, for the jobs that run from it.
///
/// # Errors
/// When the image is no disk, has no system or kernel that supports the agent, or files cannot be written. Then
/// nothing has changed.
pub fn install_agent(config: &Config, image: &Image, options: InstallOptions) -> Result<Installed, RunError> {
    let entry = &image.entry;
    ensure!(
        !entry.format.is_file_system(),
        Fault::Image,
        "image '{}' is a file system without a boot loader, made for boot = \"kit\": a full boot needs a whole disk",
        image.name
    );
    let dir = image.entry_path.parent().unwrap_or(Path::new("/"));
    let original = image.open_disk()?;
    clean_up_on_signals().blame(Fault::System)?;
    let draft =
        Staged::create(dir).with_context(|| format!("the image directory {} cannot be written", dir.display()))?;
    copy_sparse(&original, draft.file()).with_context(|| format!("copying {}", image.disk.display()))?;

    let has_kernel = entry.full_boot().kernel.is_some();
    let answer = run_helper(config, draft.file(), entry.format, has_kernel, options)
        .with_context(|| format!("image '{}'", image.name))?;

    let sha256 = digest::of_file(&draft.path()).context("the digest of the disk")?;
    let extension = entry.format.block_driver();
    let disk = PathBuf::from(format!("{}-{}.{extension}", image.name, &sha256[..12]));
    let full = FullBootEntry {
        shares: answer.is_true("shares"),
        memory_hotplug: answer.is_true("memory_hotplug"),
        ..entry.full_boot()
    };
    let mut warnings = answer.warnings.clone();
    let mut append = entry.append.clone();
    if !append.is_empty() && !has_kernel {
        warnings
            .push(format!("append = \"{append}\" is left out: the image's boot loader has the kernel's command line"));
        append.clear();
    }
    let changed = ImageEntry {
        disk: disk.clone(),
        sha256: Some(sha256),
        boot: BootMode::Full,
        append,
        full: Some(full),
        ..entry.clone()
    };
    changed.validate().blame(Fault::Image)?;
    let text = Staged::create(dir).context("the entry")?;
    text.file().write_all(toml::to_string(&changed).blame(Fault::System)?.as_bytes()).context("the entry")?;
    draft.publish(&dir.join(&disk), true).blame(Fault::User)?;
    text.publish(&image.entry_path, true).blame(Fault::User)?;
    Ok(Installed {
        kernel: answer.value("kernel").to_owned(),
        init: answer.value("init").to_owned(),
        warnings,
        entry: changed,
        disk: dir.join(disk),
    })
}

/// The report of the program in the helper.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Answer {
    pairs: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Answer {
    /// Lines of `key=value`; they are cut to a limit, because an untrusted disk could make them long.
    fn parse(text: &str) -> Self {
        let clean = |value: &str| value.chars().filter(|c| !c.is_control()).take(100).collect::<String>();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self { pairs: pairs.map(|(key, value)| (clean(key), clean(value))).collect(), warnings: Vec::new() }
    }

    fn value(&self, key: &str) -> &str {
        self.pairs.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    fn is_true(&self, key: &str) -> bool {
        self.value(key) == "true"
    }
}

fn run_helper(
    config: &Config,
    disk: &File,
    format: DiskFormat,
    has_kernel: bool,
    options: InstallOptions,
) -> Result<Answer, RunError> {
    let disk = HelperDisk { serial: SERIAL.to_owned(), file: disk.try_clone()?, format, part: None, writable: true };
    let partition = options.partition.unwrap_or(0).to_string();
    let kernel = if has_kernel { "given" } else { "own" };
    let shares = if options.without_shares { "optional" } else { "needed" };
    let mut arguments =
        vec!["disk", "install-agent", SERIAL, "--partition", &partition, "--kernel", kernel, "--shares", shares];
    if let Some(name) = &options.subvolume {
        arguments.extend(["--subvolume", name]);
    }
    let (told, stdout) = std::io::pipe().context("a pipe")?;
    // Read by a thread, because the helper's relay only writes; it ends with the pipe.
    let listener = std::thread::spawn(move || {
        let mut text = String::new();
        let mut told = told;
        let _ = told.by_ref().take(ANSWER_MAX).read_to_string(&mut text);
        let _ = std::io::copy(&mut told, &mut std::io::sink());
        text
    });
    let finished = helper::run(config, vec![disk], &arguments, stdout.as_fd());
    drop(stdout);
    let text = listener.join().unwrap_or_default();
    let warnings = finished?.warnings()?;
    let answer = Answer { warnings, ..Answer::parse(&text) };
    ensure!(!answer.value("kernel").is_empty(), Fault::Guest, "the helper VM gave no answer");
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_believed_as_far_as_it_is_words() {
        let answer = Answer::parse("kernel=6.1.0\x1b[2J\ninit=systemd\nnonsense\nshares=true\nmemory_hotplug=yes\n");
        assert_eq!(answer.value("kernel"), "6.1.0[2J");
        assert!(answer.is_true("shares") && !answer.is_true("memory_hotplug") && !answer.is_true("other"));
    }

    #[test]
    fn a_file_system_image_is_refused_before_anything_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.toml"), "disk = 'x'\nformat = 'squashfs'\n").unwrap();
        let entry = toml::from_str("disk = 'x'\nformat = 'squashfs'\n").unwrap();
        let (entry_path, disk) = (dir.path().join("x.toml"), dir.path().join("x"));
        let image = Image { name: "x".parse().unwrap(), entry, entry_path, disk };
        let error = install_agent(&Config::default(), &image, InstallOptions::default()).unwrap_err().to_string();
        assert!(error.contains("a full boot needs a whole disk"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
