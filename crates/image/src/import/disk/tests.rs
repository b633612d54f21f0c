//! Disks that QEMU must never open, and disks that it may open.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use super::*;

fn qemu_img(dir: &Path, arguments: &[&str]) {
    let status = Command::new("qemu-img").arg(arguments[0]).arg("-q").args(&arguments[1..]).current_dir(dir).status();
    assert!(status.unwrap().success(), "{arguments:?}");
}

fn recognise(path: &Path) -> anyhow::Result<Option<Disk>> {
    let part = Part::of_file(File::open(path).unwrap()).unwrap();
    let start = part.start(0x8800).unwrap();
    Disk::recognise(part, &start, "it")
}

#[track_caller]
fn refused(path: &Path, words: &[&str]) {
    let error = format!("{:#}", recognise(path).unwrap_err());
    assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{words:?}: {error}");
}

#[test]
fn every_format_is_recognised_whole_and_a_cut_one_is_not_whole() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut raw = vec![7; 3 << 20];
    raw[510..512].copy_from_slice(b"\x55\xaa");
    fs::write(dir.join("raw"), &raw).unwrap();
    for (format, options, expected) in [
        ("qcow2", "cluster_size=65536", DiskFormat::Qcow2),
        ("qcow2", "compat=0.10", DiskFormat::Qcow2),
        ("vdi", "static=off", DiskFormat::Vdi),
        ("vmdk", "subformat=monolithicSparse", DiskFormat::Vmdk),
        ("vmdk", "subformat=streamOptimized", DiskFormat::Vmdk),
    ] {
        qemu_img(dir, &["convert", "-f", "raw", "-O", format, "-o", options, "raw", "disk"]);
        let disk = recognise(&dir.join("disk")).unwrap().unwrap();
        assert_eq!(disk.format, expected, "{options}");
        disk.must_be_whole().unwrap_or_else(|error| panic!("{options}: {error:#}"));
        let bytes = fs::read(dir.join("disk")).unwrap();
        fs::write(dir.join("cut"), &bytes[..bytes.len() / 2]).unwrap();
        if let Ok(Some(cut)) = recognise(&dir.join("cut")) {
            assert!(cut.must_be_whole().is_err(), "{options}");
        }
    }
    assert_eq!(recognise(&dir.join("raw")).unwrap().unwrap().format, DiskFormat::Raw);
}

#[test]
fn a_disk_that_names_another_file_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let disk = dir.join("disk");
    qemu_img(dir, &["create", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", "-u", "disk", "1M"]);
    refused(&disk, &["'/etc/shadow'", "qemu-img convert"]);
    qemu_img(dir, &["create", "-f", "qcow2", "-o", "data_file=other.raw", "disk", "1M"]);
    refused(&disk, &["its data is in another file"]);
    qemu_img(dir, &["create", "-f", "vmdk", "-o", "subformat=monolithicFlat", "disk", "1M"]);
    refused(&disk, &["only describes a disk"]);
    qemu_img(dir, &["create", "-f", "vmdk", "base.vmdk", "1M"]);
    qemu_img(dir, &["create", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "disk"]);
    refused(&disk, &["base.vmdk", "snapshots"]);
    let secret =
        ["--object", "secret,id=s,data=abc", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"];
    qemu_img(dir, &[&["create"], &secret[..], &["-f", "qcow2", "disk", "1M"]].concat());
    refused(&disk, &["encrypted"]);
}

/// QEMU reads the description of a vmdk where it wants, and finds a word of it anywhere in a line.
#[test]
fn a_vmdk_cannot_lead_to_another_file_by_a_description_that_is_only_read_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let disk = dir.join("disk");
    qemu_img(dir, &["create", "-f", "vmdk", "disk", "1M"]);
    let whole = fs::read(&disk).unwrap();

    // A disk of no sectors is all described: its data is in the files that the description names.
    fs::write(dir.join("secret"), vec![7; 1 << 20]).unwrap();
    let description = format!(
        "# Disk DescriptorFile\n#createType=\"monolithicFlat\"\nversion=1\nCID=1\nparentCID=ffffffff\n\
         createType=\"monolithicSparse\"\nRW 2048 FLAT \"{}\" 0\n",
        dir.join("secret").display()
    );
    let mut described = whole.clone();
    described[12..20].fill(0);
    described[512..512 + 20 * 512].fill(0);
    described[512..512 + description.len()].copy_from_slice(description.as_bytes());
    fs::write(&disk, &described).unwrap();
    refused(&disk, &["in other files"]);

    // The header leads to a harmless description, and QEMU reads another one.
    let mut hinted = whole.clone();
    hinted.resize(whole.len().next_multiple_of(512), 0);
    let at = hinted.len();
    hinted.extend_from_slice(&whole[512..512 + 20 * 512]);
    hinted[28..36].copy_from_slice(&(at as u64 / 512).to_le_bytes());
    let hint = b"# parentFileNameHint=\"/nonexistent/parent\"\n";
    hinted[512..512 + hint.len()].copy_from_slice(hint);
    fs::write(&disk, &hinted).unwrap();
    refused(&disk, &["/nonexistent/parent", "snapshots"]);
}

#[test]
fn a_disk_that_names_another_file_after_it_was_looked_at_does_not_lead_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    qemu_img(dir, &["create", "-f", "qcow2", "disk", "1M"]);
    let disk = recognise(&dir.join("disk")).unwrap().unwrap();
    qemu_img(dir, &["create", "-f", "qcow2", "-b", "/nonexistent", "-F", "raw", "-u", "other", "1M"]);
    // In place: whoever looked has the file open.
    fs::write(dir.join("disk"), fs::read(dir.join("other")).unwrap()).unwrap();
    disk.must_be_whole().unwrap();
}

#[test]
fn marks_in_headers_and_foreign_formats_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let disk = dir.join("disk");
    qemu_img(dir, &["create", "-f", "qcow2", "disk", "1M"]);
    let mut bytes = fs::read(&disk).unwrap();
    bytes[79] |= 2;
    fs::write(&disk, &bytes).unwrap();
    refused(&disk, &["marked as damaged"]);
    fs::write(&disk, &bytes[..20]).unwrap();
    refused(&disk, &["cut off in its header"]);
    qemu_img(dir, &["create", "-f", "vdi", "disk", "1M"]);
    let mut bytes = fs::read(&disk).unwrap();
    bytes[0x4c] = 4;
    fs::write(&disk, &bytes).unwrap();
    refused(&disk, &["a snapshot"]);
    for (start, word) in [(&b"vhdxfile"[..], "Hyper-V"), (b"conectix", "vhd"), (b"LUKS\xba\xbe", "encrypted (LUKS)")] {
        fs::write(&disk, start).unwrap();
        refused(&disk, &[word]);
    }
}

#[test]
fn the_disk_of_an_appliance_is_found_and_several_are_not_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("raw"), [&[1; 510][..], b"\x55\xaa", &[2; 100_000]].concat()).unwrap();
    qemu_img(dir, &["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "raw", "a.vmdk"]);
    fs::copy(dir.join("a.vmdk"), dir.join("b.vmdk")).unwrap();
    for file in ["m.ovf", "m.mf"] {
        fs::write(dir.join(file), "text").unwrap();
    }
    let ova = |files: &[&str]| {
        let status = Command::new("tar").arg("-cf").arg("m.ova").args(files).current_dir(dir).status();
        assert!(status.unwrap().success());
        in_appliance(&Part::of_file(File::open(dir.join("m.ova")).unwrap()).unwrap(), "m.ova")
    };
    let disk = ova(&["m.ovf", "m.mf", "a.vmdk"]).unwrap().unwrap();
    assert_eq!(disk.format, DiskFormat::Vmdk);
    let (_, part) = disk.open().unwrap();
    assert_eq!(part.unwrap().1, dir.join("a.vmdk").metadata().unwrap().len());
    disk.must_be_whole().unwrap();
    let error = ova(&["m.ovf", "a.vmdk", "b.vmdk"]).unwrap_err().to_string();
    assert!(error.contains("2 disks (a.vmdk, b.vmdk)"), "{error}");
    let disk = ova(&["a.vmdk", "m.mf", "m.ovf"]).unwrap().expect("the description may come last");
    assert_eq!(disk.open().unwrap().1.unwrap().1, dir.join("a.vmdk").metadata().unwrap().len());
    assert!(ova(&["a.vmdk"]).unwrap().is_none(), "an archive without a description");
}
