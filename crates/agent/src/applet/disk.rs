//! Finds and mounts the root of an installed system on a disk.
//!
//! The kernel reads partition tables (GPT and MBR). The content of partitions is recognised by its first
//! bytes, so that no file system driver gets data that it was not made for.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::super::devices::disk_with_serial;
use super::super::error::AgentError;
use super::super::modules::Modules;
use super::super::rootfs::FsType;
use super::contents::{Contents, needs_recovery, start_of};
use super::failure::{Failure, warn};
use super::fstab::{self, Source};
use super::partitions::{Names, Table};
use super::subvolumes;

/// Where the root is mounted, in the initramfs.
const MOUNT_POINT: &str = "/disk";

/// Where installers put the root in a btrfs if it is not the default subvolume (Debian and SUSE, Fedora). Snapshots of
/// it beside it are not meant.
const SUBVOLUMES: [&str; 3] = ["@", "@rootfs", "root"];

/// The mount option that shows all of a btrfs.
const WHOLE_BTRFS: &str = "subvolid=5";

/// How a disk is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Access {
    /// Nothing on it changes; journals are not replayed.
    ReadOnly,
    /// As the installed system would mount it.
    ReadWrite,
}

/// Which of several systems on a disk is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Choice {
    /// Number of the partition.
    pub partition: Option<u32>,
    /// Name of a btrfs subvolume.
    pub subvolume: Option<String>,
}

/// The mounted root of an installed system, with those of its other partitions that its fstab names.
#[derive(Debug)]
pub(in super::super) struct Root {
    /// Mount points, outer ones first.
    mounts: Vec<PathBuf>,
}

/// A partition, or the whole disk where it has none.
#[derive(Debug)]
struct Place {
    device: PathBuf,
    /// `None`: the whole disk.
    number: Option<u32>,
    contents: Contents,
    start: Vec<u8>,
    names: Names,
}

impl Root {
    /// Mounts the root on the disk with this serial number: the chosen one, or the only one that there is.
    ///
    /// # Errors
    /// There is no root, there are several, or it cannot be mounted: one line that says what is on the disk.
    pub fn find(serial: &str, choice: &Choice, access: Access) -> Result<Self, Failure> {
        let disk = disk_with_serial(serial).ok_or_else(|| format!("the VM has no disk '{serial}'"))?;
        let places = places(&disk).map_err(|error| format!("cannot read the disk: {error}"))?;
        let mut drivers = Modules::open().map_err(|error| error.to_string())?;
        let chosen: Vec<&Place> = match choice.partition {
            Some(wanted) => places.iter().filter(|place| place.number == Some(wanted)).collect(),
            None => places.iter().collect(),
        };
        if chosen.is_empty() {
            return Err(format!(
                "the disk has no partition {}; it has {}",
                choice.partition.unwrap_or(0),
                inventory(&places)
            ));
        }
        let (mut roots, mut failures) = (Vec::new(), String::new());
        for place in chosen {
            let Contents::FileSystem(kind) = place.contents else { continue };
            match place.root_options(kind, choice, &mut drivers) {
                Ok(Some(options)) => roots.push((place, kind, options)),
                Ok(None) => {}
                Err(error) => _ = write!(failures, "; {}: {error}", place.name()),
            }
        }
        let [(place, kind, options)] = &roots[..] else {
            return Err(match roots.is_empty() {
                true => format!(
                    "no root file system on the disk: it has {}{failures}{}",
                    inventory(&places),
                    advice(&places)
                ),
                false => {
                    let names: Vec<String> = roots.iter().map(|(place, ..)| place.name()).collect();
                    format!("several installed systems on the disk ({}): --partition N chooses one", names.join(", "))
                }
            });
        };
        if access == Access::ReadOnly && needs_recovery(*kind, &place.start) {
            warn("the file system was not cleanly unmounted; what is only in its journal is missing");
        }
        place.mount(*kind, options, access, Path::new(MOUNT_POINT)).map_err(|error| error.to_string())?;
        let mut root = Self { mounts: vec![MOUNT_POINT.into()] };
        root.mount_other_partitions(&places, access, &mut drivers);
        Ok(root)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        Path::new(MOUNT_POINT)
    }

    /// Where its file systems are mounted, outer ones first.
    pub fn places(&self) -> &[PathBuf] {
        &self.mounts
    }

    /// Writes everything to the disk.
    ///
    /// # Errors
    /// What could not be unmounted.
    pub fn unmount(mut self) -> Result<(), Failure> {
        while let Some(place) = self.mounts.pop() {
            umount2(&place, MntFlags::empty()).map_err(|errno| format!("cannot unmount the disk: {}", errno.desc()))?;
        }
        nix::unistd::sync();
        Ok(())
    }

    /// Mounts what fstab adds, if it is on this disk.
    fn mount_other_partitions(&mut self, places: &[Place], access: Access, drivers: &mut Modules) {
        let text = fs::read_to_string(self.path().join("etc/fstab")).unwrap_or_default();
        for line in fstab::parse(&text) {
            let place = places.iter().find(|place| place.is(&Source::parse(&line.source)));
            let Some((place, Contents::FileSystem(kind))) = place.map(|place| (place, &place.contents)) else {
                warn(&format!("its fstab mounts {} at /{}, which is not on this disk", line.source, line.directory));
                continue;
            };
            let target = self.path().join(&line.directory);
            // A link could lead anywhere; fstab means a directory.
            if !fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_dir()) {
                continue;
            }
            let mounted = load(drivers, *kind)
                .and_then(|()| place.mount(*kind, line.subvolume.as_deref().unwrap_or_default(), access, &target));
            match mounted {
                Ok(()) => self.mounts.push(target),
                Err(error) => warn(&format!("/{} is missing: {error}", line.directory)),
            }
        }
    }
}

impl Place {
    fn name(&self) -> String {
        self.number.map_or("the whole disk".to_owned(), |number| format!("partition {number}"))
    }

    fn is(&self, source: &Source) -> bool {
        let equal = |own: Option<&str>, other: &str| own.is_some_and(|own| own.eq_ignore_ascii_case(other));
        let Contents::FileSystem(kind) = self.contents else { return false };
        match source {
            Source::Uuid(uuid) => equal(kind.uuid(&self.start).as_deref(), uuid),
            Source::Label(label) => kind.label(&self.start).as_deref() == Some(label),
            Source::PartUuid(uuid) => equal(self.names.uuid.as_deref(), uuid),
            Source::PartLabel(label) => self.names.label.as_deref() == Some(label),
            Source::Number(number) => self.number == Some(*number),
            Source::Unknown => false,
        }
    }

    /// The mount options with which an installed system appears, if any. This look never writes, even if the disk
    /// is written later: other partitions do not concern us.
    fn root_options(&self, kind: FsType, choice: &Choice, drivers: &mut Modules) -> Result<Option<String>, AgentError> {
        load(drivers, kind)?;
        if let Some(name) = &choice.subvolume {
            return match kind {
                FsType::Btrfs => self.chosen_subvolume(name).map(Some),
                _ => Ok(None),
            };
        }
        if self.look(kind, "", is_installed_system)? {
            return Ok(Some(String::new()));
        }
        if kind != FsType::Btrfs {
            return Ok(None);
        }
        let all = self.look(kind, WHOLE_BTRFS, systems_below)?;
        if let Some(usual) = SUBVOLUMES.iter().find(|usual| all.iter().any(|name| name == *usual)) {
            return Ok(Some(format!("subvol={usual}")));
        }
        match &all[..] {
            [] => Ok(None),
            [only] => Ok(Some(format!("subvol={only}"))),
            several => Err(AgentError::Unfit(format!(
                "several installed systems in its subvolumes ({}): --subvolume NAME chooses one",
                several.join(", ")
            ))),
        }
    }

    fn chosen_subvolume(&self, name: &str) -> Result<String, AgentError> {
        let name = name.trim_matches('/');
        let all = self.look(FsType::Btrfs, WHOLE_BTRFS, systems_below)?;
        if all.iter().any(|other| other == name) {
            return Ok(format!("subvol={name}"));
        }
        let there = if all.is_empty() { "no subvolume does".to_owned() } else { format!("{} do", all.join(", ")) };
        Err(AgentError::Unfit(format!("no subvolume '{name}' that holds an installed system; {there}")))
    }

    /// Mounts it for a moment.
    fn look<T>(&self, kind: FsType, options: &str, at: impl FnOnce(&Path) -> T) -> Result<T, AgentError> {
        self.mount(kind, options, Access::ReadOnly, Path::new(MOUNT_POINT))?;
        let seen = at(Path::new(MOUNT_POINT));
        let _ = umount2(MOUNT_POINT, MntFlags::empty());
        Ok(seen)
    }

    fn mount(&self, kind: FsType, options: &str, access: Access, target: &Path) -> Result<(), AgentError> {
        let _ = fs::create_dir_all(target);
        let (flags, own) = match access {
            Access::ReadOnly => (MsFlags::MS_RDONLY, kind.read_only_options()),
            Access::ReadWrite => (MsFlags::empty(), None),
        };
        let words: Vec<&str> = own.into_iter().chain([options]).filter(|word| !word.is_empty()).collect();
        let all = words.join(",");
        mount(Some(&self.device), target, Some(kind.name()), flags | MsFlags::MS_NOATIME, Some(all.as_str())).map_err(
            |errno| match errno {
                // The file system's driver knows more, but says it only in the kernel's log.
                Errno::EINVAL | Errno::EUCLEAN => AgentError::Unfit(format!(
                    "its {} is damaged, cut off, or newer than the boot kit's kernel",
                    kind.name()
                )),
                _ => AgentError::Os { doing: format!("mount it as {}", kind.name()), errno },
            },
        )
    }
}

fn load(drivers: &mut Modules, kind: FsType) -> Result<(), AgentError> {
    let group = format!("fs:{}", kind.name());
    if !drivers.has(&group) {
        return Err(AgentError::Unfit(format!("the boot kit has no {} module", kind.name())));
    }
    drivers.load(&[&group])
}

/// Whether a directory is the root of an installed system, and not for example a partition of home directories.
fn is_installed_system(root: &Path) -> bool {
    let has = |name: &str| fs::symlink_metadata(root.join(name)).is_ok();
    has("etc/os-release") || has("usr/lib/os-release") || (has("etc") && (has("bin") || has("usr/bin")))
}

/// The subvolumes that hold an installed system.
fn systems_below(top: &Path) -> Vec<String> {
    subvolumes::below(top).into_iter().filter(|name| is_installed_system(&top.join(name))).collect()
}

/// The disk's partitions, or the disk itself if it has none.
fn places(disk: &Path) -> std::io::Result<Vec<Place>> {
    let name = disk.file_name().unwrap_or_default();
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new("/sys/block").join(name))?.flatten() {
        if let Ok(number) = fs::read_to_string(entry.path().join("partition")) {
            found.push((number.trim().parse().ok(), Path::new("/dev").join(entry.file_name())));
        }
    }
    found.sort();
    if found.is_empty() {
        found.push((None, disk.to_owned()));
    }
    let table = Table::read(disk)?;
    let place = |(number, device): (Option<u32>, PathBuf)| {
        let start = start_of(&device)?;
        let names = number.map(|number| table.names(number)).unwrap_or_default();
        Ok(Place { contents: Contents::detect(&start), number, device, start, names })
    };
    found.into_iter().map(place).collect()
}

/// What is on the disk, in words.
fn inventory(places: &[Place]) -> String {
    let names: Vec<String> =
        places.iter().map(|place| format!("{}: {}", place.name(), place.contents.name())).collect();
    names.join(", ")
}

/// What the user can do about it.
fn advice(places: &[Place]) -> &'static str {
    let any = |part: &str| places.iter().any(|place| place.contents.name().contains(part));
    match () {
        () if any("encrypted") => " (an encrypted disk cannot be read: import a tar of the running system instead)",
        () if any("LVM") || any("RAID") => {
            " (LVM and RAID are not taken apart: import a tar of the running system instead)"
        }
        () => "",
    }
}
