use std::fs;
use std::path::Path;
use std::process::Command;

use super::super::{Export, Writer};
use super::*;

fn all(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        reader.content().read_to_end(&mut content)?;
        found.push((entry, content));
    }
    Ok(found)
}

fn entry(path: &[u8], kind: Kind) -> Entry {
    Entry { path: path.to_vec(), kind, mode: 0o4755, uid: 5_000_000, gid: 7, mtime: 1_000, xattrs: Vec::new() }
}

fn written(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        writer.entry(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn gnu_tar(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").arg("-C").arg(dir).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn what_was_written_is_read_again() {
    let long = vec![b'n'; 200];
    let capability = Xattr { name: b"security.capability".to_vec(), value: vec![0, 10, 255] };
    let entries = [
        (entry(b"dir", Kind::Directory), &b""[..]),
        (Entry { xattrs: vec![capability], ..entry(b"file", Kind::File(3)) }, b"abc"),
        (entry(&long, Kind::Symlink([&b"/"[..], &long].concat())), b""),
        (entry(b"again", Kind::HardLink(long.clone())), b""),
        (entry(b"null", Kind::CharDevice(1, 3)), b""),
        (entry(b"disk", Kind::BlockDevice(259, 70_000)), b""),
        (entry(b"pipe", Kind::Fifo), b""),
    ];
    let found = all(&written(&entries)).unwrap();
    let expected: Vec<(Entry, Vec<u8>)> = entries.iter().map(|(entry, data)| (entry.clone(), data.to_vec())).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_archive_that_is_cut_off_is_an_error_wherever_that_happened() {
    let whole = written(&[(entry(b"a", Kind::File(1000)), &[1; 1000]), (entry(b"b", Kind::Directory), b"")]);
    assert!(all(&whole).is_ok());
    for end in [0, 100, 512, 700, 1536, 2048] {
        let error = all(&whole[..end]).unwrap_err().to_string();
        assert_eq!(error, "the archive is cut off: it ends before its end mark", "{end}");
    }
}

#[test]
fn a_damaged_header_and_a_name_without_end_are_errors() {
    let mut bytes = written(&[(entry(b"a", Kind::Directory), b"")]);
    bytes[3] ^= 1;
    assert!(all(&bytes).unwrap_err().to_string().contains("wrong check sum"));
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(8 << 30);
    header.set_cksum();
    assert!(all(header.as_bytes()).unwrap_err().to_string().contains("a name or header of 8589934592 bytes"));
}

#[test]
fn headers_before_an_entry_and_for_all_entries_have_a_limit_together() {
    let extended = |kind: EntryType| {
        let mut records = Vec::new();
        pax::push(&mut records, b"comment", &vec![b'x'; 1_000_000]);
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(records.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&records);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    };
    let one = written(&[(entry(b"a", Kind::Directory), b"")]);
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader] {
        let few = [extended(kind).repeat(3), one.clone()].concat();
        assert_eq!(all(&few).unwrap().len(), 1, "{kind:?}");
        let error = all(&[extended(kind).repeat(20), one.clone()].concat()).unwrap_err().to_string();
        assert!(error.contains("MiB of extended headers"), "{error}");
    }
    // Each global header counts for all entries that follow.
    let entries = [extended(EntryType::XGlobalHeader), one[..BLOCK].to_vec()].concat().repeat(20);
    assert!(all(&entries).unwrap_err().to_string().contains("MiB of extended headers"));
}

#[test]
fn every_dialect_of_gnu_tar_is_understood_with_holes_and_long_names() {
    let dir = tempfile::tempdir().unwrap();
    let long = "long/".repeat(30);
    fs::create_dir_all(dir.path().join(&long)).unwrap();
    fs::write(dir.path().join(&long).join("file"), "content").unwrap();
    let mut expected = vec![0; 300_000];
    for (number, at) in (0..300_000).step_by(40_000).enumerate() {
        expected[at] = number as u8 + 1;
    }
    fs::write(dir.path().join("holes"), "").unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("holes")).unwrap();
    for (at, byte) in expected.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        std::os::unix::fs::FileExt::write_at(&file, &[*byte], at as u64).unwrap();
    }
    file.set_len(300_000).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=1.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=0.0"],
    ] {
        let bytes = gnu_tar(dir.path(), &[&["-cS"], format, &["holes", "long"]].concat());
        assert!(bytes.len() < 200_000, "{format:?} has no holes");
        let found = all(&bytes).unwrap();
        assert_eq!(found[0].0.path, b"holes", "{format:?}");
        assert!(found[0].1 == expected, "{format:?}");
        let last = found.last().unwrap();
        assert_eq!((last.0.path.as_slice(), &last.1[..]), (format!("{long}file").as_bytes(), &b"content"[..]));
        // Content that nobody reads is skipped.
        let mut reader = Reader::new(&bytes[..]);
        let mut count = 0;
        while let Some(_entry) = reader.next_entry().unwrap() {
            count += 1;
        }
        assert_eq!(count, found.len(), "{format:?}");
    }
}

#[test]
fn a_tree_is_exported_with_its_links_and_without_its_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("a/skipped")).unwrap();
    fs::write(root.join("a/file"), "x").unwrap();
    fs::hard_link(root.join("a/file"), root.join("b")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("c")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("d")).unwrap();
    let me = nix::unistd::getuid().as_raw();
    let tree = Export {
        exclude: vec![root.join("a/skipped")],
        owner: Some((me, nix::unistd::getgid().as_raw())),
        root,
        ..Export::default()
    };
    let found = all(&tree.write(Vec::new()).unwrap()).unwrap();
    let shown: Vec<_> = found.iter().map(|(e, _)| (e.path.as_slice(), e.kind.clone(), e.uid)).collect();
    let expected: [(&[u8], Kind, u64); 5] = [
        (b".", Kind::Directory, 0),
        (b"a", Kind::Directory, 0),
        (b"a/file", Kind::File(1), 0),
        (b"b", Kind::HardLink(b"a/file".to_vec()), 0),
        (b"c", Kind::Symlink(b"/etc/passwd".to_vec()), 0),
    ];
    assert_eq!(shown, expected);
    let error = Export { root: "/nonexistent".into(), ..Export::default() }.write(Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /nonexistent: "), "{error}");
    // A link of a hollow directory's name stays a link.
    let hollow = Export { hollow: vec![tree.root.join("a"), tree.root.join("c")], ..tree.clone() };
    let found = all(&hollow.write(Vec::new()).unwrap()).unwrap();
    let names: Vec<&[u8]> = found.iter().map(|(entry, _)| entry.path.as_slice()).collect();
    assert_eq!(names, [b".".as_slice(), b"a", b"b", b"c"]);
    assert_eq!(found[3].0.kind, Kind::Symlink(b"/etc/passwd".to_vec()));
    let limited = Export { limit: 0, ..tree.clone() };
    assert!(limited.write(Vec::new()).is_ok());
}

#[test]
fn an_incremental_backup_of_gnu_tar_is_read_and_a_later_volume_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "text").unwrap();
    for format in ["gnu", "posix"] {
        let format = format!("--format={format}");
        // A new list each time: everything is new.
        let list = format!("--listed-incremental={}/{format}", dir.path().display());
        let bytes = gnu_tar(dir.path(), &[&format, &list, "-cf", "-", "d"]);
        let found = all(&bytes).unwrap();
        let kinds: Vec<_> = found.iter().map(|(entry, _)| (entry.path.as_slice(), entry.kind.clone())).collect();
        assert_eq!(kinds, [(&b"d/"[..], Kind::Directory), (b"d/f", Kind::File(4))], "{format}");
        assert_eq!(found[1].1, b"text", "{format}");
    }
    fs::write(dir.path().join("big"), vec![1; 30_000]).unwrap();
    let volumes = ["v1", "v2"].map(|name| dir.path().join(name).display().to_string());
    gnu_tar(dir.path(), &["--format=gnu", "-ML", "20", "-cf", &volumes[0], "-f", &volumes[1], "big"]);
    let error = all(&fs::read(&volumes[1]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("several volumes") && error.contains("'big'"), "{error}");
}
