//! Links, and files that are no data.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::stat::{Mode, SFlag, mknod};

use super::Test;
use super::mounted::{Mounted, Options};
use super::pair::{Pair, errno, number};

pub const TESTS: &[Test] = &[
    ("hard_links_are_one_file", hard_links_are_one_file),
    ("links_are_followed_in_the_guest", links_are_followed_in_the_guest),
    ("a_fifo_connects_processes_of_the_guest", a_fifo_connects_processes_of_the_guest),
    ("a_socket_connects_processes_of_the_guest", a_socket_connects_processes_of_the_guest),
    ("a_device_is_not_made", a_device_is_not_made),
    ("a_single_file_is_a_share", a_single_file_is_a_share),
    ("a_read_only_share_refuses_all_that_writes", a_read_only_share_refuses_all_that_writes),
];

fn hard_links_are_one_file() {
    let pair = Pair::new();
    pair.both(|dir| {
        fs::write(dir.join("a"), b"one").unwrap();
        fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
        symlink("a", dir.join("s")).unwrap();
        fs::hard_link(dir.join("s"), dir.join("s2")).unwrap();
        fs::write(dir.join("b"), b"another").unwrap();
        let stat = |name| fs::metadata(dir.join(name)).unwrap();
        let same = (stat("a").ino() == stat("b").ino(), stat("a").nlink(), stat("b").len());
        fs::remove_file(dir.join("a")).unwrap();
        (same, fs::read(dir.join("b")).unwrap(), stat("b").nlink(), fs::read_link(dir.join("s2")).unwrap())
    });
    fs::create_dir(pair.guest().join("d")).unwrap();
    assert_eq!(errno(fs::hard_link(pair.guest().join("d"), pair.guest().join("e"))), libc::EPERM);
}

fn links_are_followed_in_the_guest() {
    let pair = Pair::new();
    fs::create_dir(pair.host.join("d")).unwrap();
    let outside = pair.host.parent().unwrap().join("secret");
    fs::write(&outside, b"of the host").unwrap();
    symlink("../../secret", pair.host.join("d/up")).unwrap();
    symlink("nowhere", pair.host.join("dangling")).unwrap();
    // The guest resolves it in its own tree, where there is no such file.
    assert_eq!(errno(fs::read(pair.guest().join("d/up"))), libc::ENOENT);
    assert_eq!(fs::read_link(pair.guest().join("d/up")).unwrap().to_str(), Some("../../secret"));
    assert_eq!(errno(fs::write(pair.guest().join("dangling"), b"x")), 0);
    assert_eq!(fs::read(pair.host.join("nowhere")).unwrap(), b"x");
    let long = "x".repeat(4000);
    symlink(&long, pair.guest().join("long")).unwrap();
    assert_eq!(fs::read_link(pair.guest().join("long")).unwrap().to_str(), Some(&*long));
}

fn a_fifo_connects_processes_of_the_guest() {
    let pair = Pair::new();
    pair.both(|dir| {
        let path = dir.join("fifo");
        nix::unistd::mkfifo(&path, Mode::from_bits_retain(0o600)).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || fs::write(path, b"through").unwrap()
        });
        let mut text = String::new();
        fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        writer.join().unwrap();
        (text, fs::metadata(&path).unwrap().file_type().is_fifo())
    });
}

fn a_socket_connects_processes_of_the_guest() {
    let pair = Pair::new();
    pair.both(|dir| {
        let path = dir.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        listener.accept().unwrap().0.read_exact(&mut bytes).unwrap();
        (bytes, fs::metadata(&path).unwrap().file_type().is_socket())
    });
    // A socket of the host is seen, but nobody listens in the guest.
    let _listener = UnixListener::bind(pair.host.join("of-host")).unwrap();
    assert_eq!(errno(UnixStream::connect(pair.guest().join("of-host"))), libc::ECONNREFUSED);
}

fn a_device_is_not_made() {
    let pair = Pair::new();
    let made = mknod(&pair.guest().join("null"), SFlag::S_IFCHR, Mode::from_bits_retain(0o666), libc::makedev(1, 3));
    assert_eq!(number(made), libc::EPERM);
    mknod(&pair.host.join("null"), SFlag::S_IFCHR, Mode::from_bits_retain(0o666), libc::makedev(1, 3)).unwrap();
    let stat = fs::metadata(pair.guest().join("null")).unwrap();
    assert_eq!((stat.rdev(), errno(fs::read(pair.guest().join("null")))), (libc::makedev(1, 3), libc::EACCES));
}

fn a_single_file_is_a_share() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("config");
    fs::write(&file, b"one").unwrap();
    let mounted = Mounted::directory(&file);
    assert_eq!(fs::read(&mounted.path).unwrap(), b"one");
    fs::write(&mounted.path, b"two of the guest").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"two of the guest");
    assert_eq!(fs::metadata(&mounted.path).unwrap().len(), 16);
    fs::File::options().append(true).open(&mounted.path).unwrap().write_all(b"!").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"two of the guest!");
}

fn a_read_only_share_refuses_all_that_writes() {
    let pair = Pair::with(Options { read_only: true, slots: true, ..Options::default() });
    fs::write(pair.host.join("f"), b"text").unwrap();
    fs::create_dir(pair.host.join("d")).unwrap();
    let path = |name: &str| pair.guest().join(name);
    assert_eq!(fs::read(path("f")).unwrap(), b"text");
    let append = |name| errno(fs::File::options().append(true).open(path(name)));
    let results = [
        errno(fs::write(path("f"), b"")),
        append("f"),
        errno(fs::write(path("new"), b"")),
        errno(fs::create_dir(path("new"))),
        errno(fs::remove_file(path("f"))),
        errno(fs::remove_dir(path("d"))),
        errno(fs::rename(path("f"), path("g"))),
        errno(fs::hard_link(path("f"), path("g"))),
        errno(symlink("x", path("g"))),
        errno(fs::set_permissions(path("f"), std::os::unix::fs::PermissionsExt::from_mode(0o600))),
        errno(fs::File::open(path("f")).unwrap().set_modified(std::time::SystemTime::now())),
        errno(xattr::set(path("f"), "user.a", b"")),
        errno(xattr::remove(path("f"), "user.a")),
        number(nix::unistd::mkfifo(&path("g"), Mode::from_bits_retain(0o600))),
        number(nix::unistd::access(&path("f"), nix::unistd::AccessFlags::W_OK)),
        number(nix::unistd::truncate(&path("f"), 0)),
    ];
    assert_eq!(results, [libc::EROFS; 16]);
    assert_eq!(fs::read(pair.host.join("f")).unwrap(), b"text");
    assert_eq!(fs::read_dir(&pair.host).unwrap().count(), 2);
}
