use super::*;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A file of `bytes` zeros with these pieces.
fn made(bytes: usize, pieces: &[(usize, &[u8])]) -> Probe {
    let mut head = vec![0; bytes.min(HEAD)];
    for (at, piece) in pieces {
        head[*at..at + piece.len()].copy_from_slice(piece);
    }
    Probe::of_head(&head, bytes as u64)
}

#[test]
fn formats_are_known_by_their_first_bytes() {
    let entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
    let mark: (usize, &[u8]) = (510, &[0x55, 0xaa]);
    for (pieces, content) in [
        (vec![(0, &b"\x1f\x8b\x08"[..])], Content::Compressed(Compression::Gzip)),
        (vec![(0, b"\xfd7zXZ\0")], Content::Compressed(Compression::Xz)),
        (vec![(0, b"\x28\xb5\x2f\xfd")], Content::Compressed(Compression::Zstd)),
        (vec![(0, b"BZh9")], Content::Compressed(Compression::Bzip2)),
        (vec![(257, b"ustar\0")], Content::Tar),
        (vec![(0, b"#!/usr/bin/env run-singularity\n"), (32, b"SIF_MAGIC\0")], Content::Sif),
        (vec![(0, b"LUKS\xba\xbe\0\x02")], Content::Luks),
        (vec![(512, b"LABELONE")], Content::LvmVolume),
        (vec![(4086, b"SWAPSPACE2")], Content::Swap),
        (vec![(0x40, b"\x7f\x10\xda\xbe")], Content::Vdi),
        (vec![(0, b"KDMV\x01\0\0\0\x03\0\0\0")], Content::Vmdk(Vmdk::Sparse)),
        (vec![(0, b"KDMV\x03\0\0\0\x01\0\x03\0")], Content::Vmdk(Vmdk::Stream)),
        (vec![(0, b"# Disk DescriptorFile\n")], Content::Vmdk(Vmdk::Descriptor)),
        (vec![(446, &entry), mark], Content::Partitioned(Partitions::Mbr)),
        (vec![(446, &entry), mark, (512, b"EFI PART")], Content::Partitioned(Partitions::Gpt)),
        (vec![(3, b"NTFS    "), mark], Content::Ntfs),
        (vec![(82, b"FAT32   "), mark], Content::Fat),
        (vec![mark], Content::Unknown),
        (vec![(0x8001, b"CD001")], Content::Iso9660),
        (vec![], Content::Unknown),
    ] {
        assert_eq!(made(HEAD, &pieces).content, content);
    }
    assert_eq!(made(0, &[]).content, Content::Empty);
}

#[test]
fn no_beginning_however_short_or_odd_is_read_beyond_its_end() {
    let mut state = 1_u64;
    for length in (0..2000).step_by(11).chain([4096, 33000, HEAD]) {
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let noise: Vec<u8> = noise.take(length).collect();
        let _ = Probe::of_head(&noise, length as u64).missing_bytes();
        for magic in [&b"QFI\xfb"[..], b"hsqs", b"XFSB", b"KDMV"] {
            let mut head = noise.clone();
            head.splice(0..magic.len().min(length), magic.iter().copied());
            let _ = Probe::of_head(&head, length as u64).missing_bytes();
        }
    }
}

#[test]
fn file_systems_say_how_long_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let disk = dir.path().join("disk");
    let makers = [
        ("mksquashfs EMPTY DISK -quiet -no-progress", Content::Squashfs),
        ("mkfs.erofs DISK EMPTY", Content::Erofs),
        ("mkfs.ext4 -q -F DISK", Content::Ext { version: 4, needs_recovery: false }),
        ("mkfs.ext3 -q -F DISK", Content::Ext { version: 3, needs_recovery: false }),
        ("mkfs.ext2 -q -F DISK", Content::Ext { version: 2, needs_recovery: false }),
    ];
    for (words, content) in makers {
        let _ = std::fs::remove_file(&disk);
        if words.starts_with("mkfs.ext") {
            File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        }
        let path = |word: &str| match word {
            "DISK" => disk.display().to_string(),
            "EMPTY" => empty.display().to_string(),
            other => other.to_owned(),
        };
        let words: Vec<String> = words.split(' ').map(path).collect();
        run(&words[0], &words[1..]);
        let whole = probe(&disk);
        assert_eq!((whole.content, whole.missing_bytes()), (content, None), "{words:?}");
        let least = whole.least_bytes.unwrap();
        assert!(least > 100, "{words:?}: {whole:?}");
        File::options().write(true).open(&disk).unwrap().set_len(least - 1).unwrap();
        assert_eq!(probe(&disk).missing_bytes(), Some(1), "{words:?}");
    }
}

#[test]
fn a_qcow2_disk_that_leads_to_other_files_is_known_before_qemu_opens_it() {
    let dir = tempfile::tempdir().unwrap();
    let create = |options: &[&str], name: &str| {
        let path = dir.path().join(name).display().to_string();
        let words: Vec<String> =
            ["create", "-q", "-f", "qcow2"].iter().chain(options).map(ToString::to_string).collect();
        run("qemu-img", &[words, vec![path.clone(), "10M".to_owned()]].concat());
        match probe(Path::new(&path)).content {
            Content::Qcow2(header) => header,
            other => panic!("{other:?}"),
        }
    };
    let plain = create(&[], "plain");
    assert_eq!((plain.version, plain.virtual_bytes), (3, 10 << 20));
    assert!(!plain.has_backing_file && !plain.has_data_file && !plain.is_encrypted && !plain.is_corrupt);
    assert_eq!(create(&["-o", "compat=0.10"], "old").version, 2);
    let base = dir.path().join("plain").display().to_string();
    assert!(create(&["-F", "qcow2", "-b", &base], "layer").has_backing_file);
    let data = format!("data_file={}", dir.path().join("data").display());
    assert!(create(&["-o", &data], "split").has_data_file);
    let secret =
        ["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"];
    assert!(create(&secret, "closed").is_encrypted);
}

fn probe(path: &Path) -> Probe {
    Probe::of(&File::open(path).unwrap()).unwrap()
}

fn run(program: &str, arguments: &[String]) {
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).output().unwrap();
    std::io::stderr().write_all(&child.stderr).unwrap();
    assert!(child.status.success(), "{program} {arguments:?}");
}
