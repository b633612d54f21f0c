//! Times, modes, owners, extended attributes and ACLs.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use proto::files::fuse::{ROOT, op};
use proto::files::{Absent, Ahead, PROBED, kind, listed_nodes};

use super::Test;
use super::pair::{Pair, errno, number};
use super::processes::with_umask;
use super::raw::{Raw, string};

pub const TESTS: &[Test] = &[
    ("times_are_kept_to_the_nanosecond", times_are_kept_to_the_nanosecond),
    ("modes_and_owners_are_changed", modes_and_owners_are_changed),
    ("extended_attributes_pass", extended_attributes_pass),
    (
        "what_is_absent_in_the_next_directory_comes_with_its_opening",
        what_is_absent_in_the_next_directory_comes_with_its_opening,
    ),
    ("the_umask_holds_and_a_default_acl_in_its_place", the_umask_holds_and_a_default_acl_in_its_place),
    ("the_time_of_birth_is_known_where_the_kernel_asks", the_time_of_birth_is_known_where_the_kernel_asks),
    ("flags_of_a_file_are_read_and_set", flags_of_a_file_are_read_and_set),
    ("numbers_of_files_are_the_host_s", numbers_of_files_are_the_host_s),
];

fn times_are_kept_to_the_nanosecond() {
    let pair = Pair::new();
    pair.both(|dir| {
        let file = File::create(dir.join("f")).unwrap();
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, nanos);
        file.set_times(fs::FileTimes::new().set_accessed(at(1)).set_modified(at(999_999_999))).unwrap();
        let stat = file.metadata().unwrap();
        symlink("nowhere", dir.join("link")).unwrap();
        let past = nix::sys::time::TimeSpec::new(-5, 7);
        let flags = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &dir.join("link"), &past, &past, flags).unwrap();
        let link = fs::symlink_metadata(dir.join("link")).unwrap();
        let (seconds, parts) = ((stat.atime(), stat.mtime()), (stat.atime_nsec(), stat.mtime_nsec()));
        (seconds, parts, link.mtime(), link.mtime_nsec())
    });
    let stat = fs::metadata(pair.host.join("f")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_234_567_890, 999_999_999));
    // A new file's time is now.
    fs::write(pair.guest().join("new"), b"x").unwrap();
    assert_eq!(
        fs::metadata(pair.guest().join("new")).unwrap().mtime_nsec(),
        fs::metadata(pair.host.join("new")).unwrap().mtime_nsec()
    );
}

fn modes_and_owners_are_changed() {
    let pair = Pair::new();
    pair.both(|dir| {
        fs::write(dir.join("f"), b"").unwrap();
        let set = |mode| fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(mode)).unwrap();
        set(0o4711);
        let with_suid = fs::metadata(dir.join("f")).unwrap().mode();
        let same = errno(std::os::unix::fs::chown(dir.join("f"), Some(0), Some(0)));
        let size = errno(File::options().write(true).open(dir.join("f")).and_then(|file| file.set_len(3)));
        set(0o1640);
        (with_suid, same, size, fs::metadata(dir.join("f")).unwrap().mode(), fs::metadata(dir.join("f")).unwrap().len())
    });
    // The server has no capability: it can give nothing away, even for root.
    assert_eq!(errno(std::os::unix::fs::chown(pair.guest().join("f"), Some(1), None)), libc::EPERM);
    // It writes as a user does, so a program that was written to is not set-user-id any more.
    fs::set_permissions(pair.host.join("f"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::write(pair.guest().join("f"), b"changed").unwrap();
    assert_eq!(fs::metadata(pair.host.join("f")).unwrap().mode() & 0o7777, 0o755);
}

fn extended_attributes_pass() {
    let pair = Pair::new();
    pair.both(|dir| {
        let path = dir.join("f");
        fs::write(&path, b"").unwrap();
        let text = |value: std::io::Result<Option<Vec<u8>>>| value.unwrap().map(|value| value.len());
        let none = text(xattr::get(&path, "user.none"));
        xattr::set(&path, "user.a", b"\0binary\xff").unwrap();
        xattr::set(&path, "user.b", &[7; 2000]).unwrap();
        let mut names: Vec<_> =
            xattr::list(&path).unwrap().filter(|name| name.as_encoded_bytes().starts_with(b"user.")).collect();
        names.sort();
        let values = (xattr::get(&path, "user.a").unwrap(), text(xattr::get(&path, "user.b")));
        xattr::remove(&path, "user.a").unwrap();
        let gone = (text(xattr::get(&path, "user.a")), errno(xattr::remove(&path, "user.a")));
        (none, names, values, gone, errno(xattr::set(&path, "nonsense", b"")))
    });
}

/// An ACL as the kernel stores it: mode of the owner, of user 1000, of the group, mask, others.
fn acl(owner: u16, user: u16, mask: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1, owner, u32::MAX), (2, user, 1000), (4, 5, u32::MAX), (16, mask, u32::MAX), (32, 0, u32::MAX)]
    {
        bytes.extend_from_slice(&[(tag as u16).to_le_bytes(), perm.to_le_bytes()].concat());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// `ls -lR`: who asks for an attribute of all files of one directory does so in the next.
fn what_is_absent_in_the_next_directory_comes_with_its_opening() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        (0..3).for_each(|i| fs::write(dir.path().join(name).join(i.to_string()), "").unwrap());
    }
    let mut raw = Raw::new(&[dir.path()]);
    // The nodes of its files, and of which the guest is told that an attribute is absent.
    let list = |raw: &mut Raw, name: &str| {
        let node = raw.lookup(0, ROOT, name).unwrap();
        raw.post(0, op::OPENDIR, node, &[0; 8]);
        let (mut listed, mut absent) = (Vec::new(), Vec::new());
        loop {
            let (header, payload) = raw.receive().unwrap();
            match header.kind {
                kind::AHEAD => listed.extend(listed_nodes(Ahead::parse(&payload).unwrap().1)),
                kind::ABSENT => {
                    let Absent { name, nodes, .. } = Absent::parse(&payload).unwrap();
                    absent.extend(nodes.into_iter().map(|node| (node, name)));
                }
                _ => return (listed, absent),
            }
        }
    };
    let (listed, absent) = list(&mut raw, "a");
    assert_eq!((listed.len(), absent.len()), (3, 0), "nobody has asked");
    let name = string(std::str::from_utf8(PROBED[2]).unwrap());
    // With the first answer it is told of the others.
    for node in listed.into_iter().take(2) {
        let (error, _) = raw.ask(0, op::GETXATTR, node, &[&[0; 8][..], &name].concat());
        assert!(error == libc::ENODATA || error == libc::EOPNOTSUPP, "{error}");
    }
    let (mut listed, mut absent) = list(&mut raw, "b");
    listed.sort_unstable();
    absent.sort_unstable();
    let expected = listed.iter().map(|node| (*node, 2)).collect::<Vec<_>>();
    assert_eq!((listed.len(), absent), (3, expected));
}

fn the_umask_holds_and_a_default_acl_in_its_place() {
    let pair = Pair::new();
    pair.both(|dir| {
        with_umask(0o077, || {
            let make = |dir: &Path| {
                fs::write(dir.join("file"), b"").unwrap();
                fs::create_dir(dir.join("dir")).unwrap();
                nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::from_bits_retain(0o666)).unwrap();
                ["file", "dir", "fifo"].map(|name| fs::metadata(dir.join(name)).unwrap().mode() & 0o7777)
            };
            let without = make(dir);
            let inside = dir.join("with-acl");
            fs::create_dir(&inside).unwrap();
            xattr::set(&inside, "system.posix_acl_default", &acl(7, 7, 7)).unwrap();
            let with = make(&inside);
            (without, with, xattr::get(inside.join("file"), "system.posix_acl_access").unwrap())
        })
    });
    let mode = fs::metadata(pair.host.join("with-acl/file")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o660, "the mask of the ACL, not the umask");
}

fn the_time_of_birth_is_known_where_the_kernel_asks() {
    let pair = Pair::new();
    fs::write(pair.guest().join("f"), b"").unwrap();
    let host = fs::metadata(pair.host.join("f")).unwrap().created();
    // Linux from 6.6 on asks for it.
    if let (Ok(guest), Ok(host)) = (fs::metadata(pair.guest().join("f")).unwrap().created(), host) {
        assert_eq!(guest, host);
    }
}

fn flags_of_a_file_are_read_and_set() {
    let pair = Pair::new();
    // As lsattr and chattr do it, if they are there.
    pair.both(|dir| {
        fs::write(dir.join("f"), b"").unwrap();
        let run = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program).args(arguments).arg("f").current_dir(dir).output();
            output.map(|output| (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())).ok()
        };
        (run("chattr", &["+d"]), run("lsattr", &[]))
    });
}

fn numbers_of_files_are_the_host_s() {
    let pair = Pair::new();
    fs::create_dir(pair.host.join("d")).unwrap();
    for name in ["d", "."] {
        let of = |dir: &Path| fs::metadata(dir.join(name)).unwrap().ino();
        assert_eq!(of(pair.guest()), of(&pair.host));
    }
    let stat = |dir: &Path| number(nix::sys::statvfs::statvfs(dir).map(drop));
    assert_eq!(pair.both(stat), 0);
}
