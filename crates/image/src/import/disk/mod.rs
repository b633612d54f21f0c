//! Virtual disks: what they are, and whether they are all in one file.
//!
//! QEMU is never asked what a file is, and never given one whose header names another file: a header could name
//! any file that this user may read.

mod header;
mod qcow2;
mod sif;
mod vdi;
mod vmdk;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, bail};
use serde_json::json;

use super::layer::{Part, START};
use super::progress::Progress;
use crate::format::DiskFormat;
use archive::{Kind, Reader, shown};

/// A disk that QEMU may open.
#[derive(Debug)]
pub struct Disk {
    /// What it is.
    pub format: DiskFormat,
    /// Where it is.
    part: Part,
}

/// Kinds of disks that are known by their first bytes but cannot be imported, and what to do then.
const REFUSED: [(&[u8], &str); 5] = [
    (b"vhdxfile", "is a Hyper-V disk (vhdx): convert it with 'qemu-img convert -f vhdx -O qcow2'"),
    (b"conectix", "is a disk of Virtual PC (vhd): convert it with 'qemu-img convert -f vpc -O qcow2'"),
    (b"COWD", "is a disk of VMware ESX that is not in one file: export it as ova"),
    (b"LUKS\xba\xbe", "is encrypted (LUKS): import a tar of the running system instead"),
    (b"PK\x03\x04", "is a zip archive: unpack it first"),
];

/// How the names of an appliance's files end that are no disks, and of those that are.
const APPLIANCE: [&[u8]; 6] = [b".ovf", b".mf", b".cert", b".iso", b".nvram", b".strings"];
const DISKS: [&[u8]; 6] = [b".vmdk", b".vdi", b".vhd", b".img", b".qcow2", b".raw"];

impl Disk {
    /// Recognises a disk by its first bytes and looks into its header; `None` if it is none.
    ///
    /// # Errors
    /// It is a disk that cannot be imported; the text says why and what can be done.
    pub fn recognise(part: Part, start: &[u8], name: &str) -> anyhow::Result<Option<Self>> {
        if let Some((_, why)) = REFUSED.iter().find(|(magic, _)| start.starts_with(magic)) {
            bail!("{name} {why}");
        }
        let disk = |format| Ok(Some(Self { format, part: part.clone() }));
        let context = || name.to_owned();
        if sif::is_sif(start) {
            let part = sif::root(&part, start).with_context(context)?;
            return Ok(Some(Self { format: DiskFormat::Raw, part }));
        }
        if start.starts_with(qcow2::MAGIC) {
            qcow2::check(start).with_context(context)?;
            return disk(DiskFormat::Qcow2);
        }
        if vdi::is_vdi(start) {
            vdi::check(start, part.len).with_context(context)?;
            return disk(DiskFormat::Vdi);
        }
        if start.starts_with(vmdk::DESCRIPTOR) {
            bail!(
                "{name} only describes a disk whose data is in other files: import the ova, or 'qemu-img convert' it to one qcow2"
            );
        }
        if start.starts_with(vmdk::MAGIC) {
            vmdk::check(&part, start).with_context(context)?;
            return disk(DiskFormat::Vmdk);
        }
        if is_raw(start) { disk(DiskFormat::Raw) } else { Ok(None) }
    }

    /// Recognises the disk in this file.
    ///
    /// # Errors
    /// The file cannot be read, or is no disk that can be imported.
    pub fn of_path(path: &Path) -> anyhow::Result<Self> {
        let context = || path.display().to_string();
        let part = File::open(path).and_then(Part::of_file).with_context(context)?;
        let start = part.start(START).with_context(context)?;
        let disk = Self::recognise(part, &start, &context())?;
        disk.with_context(|| format!("{} is no virtual disk", path.display()))
    }

    /// The file; and if only a part of it is the disk, the offset and length of that part.
    ///
    /// # Errors
    /// When there are no more file descriptors.
    pub fn open(&self) -> std::io::Result<(File, Option<(u64, u64)>)> {
        let file = self.part.file().try_clone()?;
        let whole = self.part.offset == 0 && file.metadata()?.len() == self.part.len;
        Ok((file, (!whole).then_some((self.part.offset, self.part.len))))
    }

    /// Checks that the disk is whole, as far as its format can show: in a truncated disk the missing end would read
    /// as zeros.
    ///
    /// # Errors
    /// What `qemu-img` found, or that it is not installed.
    pub fn must_be_whole(&self) -> anyhow::Result<()> {
        if self.format == DiskFormat::Raw {
            return Ok(());
        }
        let output = self.qemu_img_check()?;
        match output.status.code() {
            // 3: some space is lost, but no data. 63: this format has nothing to check.
            Some(0 | 3 | 63) => Ok(()),
            code => {
                let code = code.unwrap_or(-1);
                bail!("the disk is damaged or cut off (qemu-img check, code {code}): {}", first_line(&output))
            }
        }
    }

    /// Runs `qemu-img check` on this disk, in its own format and with no other file.
    fn qemu_img_check(&self) -> anyhow::Result<Output> {
        let (file, part) = self.open()?;
        let mut below = json!({ "driver": "file", "filename": "/dev/stdin", "locking": "off" });
        if let Some((offset, size)) = part {
            below = json!({ "driver": "raw", "offset": offset, "size": size, "file": below });
        }
        let mut node = json!({ "driver": self.format.block_driver(), "file": below });
        if self.format.may_have_a_backing_file() {
            // What was looked at may have been changed since.
            node["backing"] = serde_json::Value::Null;
        }
        let mut command = Command::new("qemu-img");
        command.args(["check", "-q"]).arg(format!("json:{node}")).stdin(file);
        command.output().context("qemu-img cannot be started: install qemu-utils")
    }
}

/// The first line of `qemu-img`'s output, without the name that we gave the disk.
fn first_line(output: &Output) -> String {
    let said = [&output.stderr[..], &output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    shown(line.rsplit_once("}': ").map_or(line, |(_, rest)| rest).as_bytes())
}

/// Whether a raw file begins like a disk: with a partition table or a file system.
fn is_raw(start: &[u8]) -> bool {
    let at = |offset: usize, magic: &[u8]| start.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    at(510, b"\x55\xaa") || at(512, b"EFI PART") || at(0, b"XFSB") || at(0, b"hsqs") || at(1024 + 56, b"\x53\xef")
        || at(1024, b"\xe2\xe1\xf5\xe0")
        // btrfs, LVM and swap have only zeros here; the guest will recognise them.
        || at(512, b"LABELONE") || at(4086, b"SWAPSPACE2") || is_btrfs_like(start)
}

/// The first 64 KiB of a btrfs are empty.
fn is_btrfs_like(start: &[u8]) -> bool {
    start.len() >= 0x8000 && start.iter().all(|&byte| byte == 0)
}

/// The disk of a virtual appliance (ova), if the archive is one.
///
/// # Errors
/// It has several disks, or one that cannot be imported.
pub fn in_appliance(archive: &Part, name: &str) -> anyhow::Result<Option<Disk>> {
    let mut reader = Reader::new(archive.reader(&Progress::none()));
    let ends = |path: &[u8], endings: &[&[u8]]| endings.iter().any(|ending| path.ends_with(ending));
    let (mut disks, mut is_described) = (Vec::new(), false);
    let mut next = reader.next_entry();
    // Other archives need not be read any further. The description should come first, but some programs put it last.
    if !matches!(&next, Ok(Some(first)) if ends(&first.path, &APPLIANCE) || ends(&first.path, &DISKS)) {
        return Ok(None);
    }
    while let Some(entry) = next.with_context(|| name.to_owned())? {
        is_described |= entry.path.ends_with(b".ovf");
        if let Kind::File(size) = entry.kind
            && !ends(&entry.path, &APPLIANCE)
        {
            let part = archive.range(reader.position(), size).with_context(|| format!("{name} is cut off"))?;
            disks.push((entry.path, part));
        }
        next = reader.next_entry();
    }
    if !is_described {
        return Ok(None);
    }
    let [(path, part)] = &disks[..] else {
        let names: Vec<String> = disks.iter().map(|(path, _)| shown(path)).collect();
        bail!(
            "{name} has {} disks ({}): unpack it with tar and import the one with the root",
            disks.len(),
            names.join(", ")
        );
    };
    let start = part.start(START)?;
    let inner = format!("'{}' of {name}", shown(path));
    match Disk::recognise(part.clone(), &start, &inner)? {
        Some(disk) => Ok(Some(disk)),
        None => bail!("{inner} is no disk that is known"),
    }
}

#[cfg(test)]
mod tests;
