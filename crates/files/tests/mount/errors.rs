//! Each way in which a system call on names can fail, on the share and on the host: the same error numbers, and the same
//! tree afterwards. Categories and cases are those of the usual conformance suites for file systems.

use std::fs::{self, Permissions};
use std::io::Result;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{mkfifo, truncate};

use super::Test;
use super::pair::{Pair, errno};

pub const TESTS: &[Test] = &[
    ("chmod", || one(|path| fs::set_permissions(path, Permissions::from_mode(0o750)))),
    ("chown", || one(|path| chown(path, None, None))),
    ("lchown", || one(|path| lchown(path, Some(0), Some(0)))),
    ("truncate", || one(|path| Ok(truncate(path, 2)?))),
    ("truncate_too_far", || one(|path| Ok(truncate(path, i64::MAX)?))),
    ("truncate_below_nothing", || one(|path| Ok(truncate(path, -1)?))),
    ("utimensat", || one(|path| set_times(path, UtimensatFlags::FollowSymlink))),
    ("utimensat_of_a_link", || one(|path| set_times(path, UtimensatFlags::NoFollowSymlink))),
    ("unlink", || one(|path| fs::remove_file(path))),
    ("rmdir", || one(|path| fs::remove_dir(path))),
    ("mkdir", || one(|path| fs::create_dir(path))),
    ("mkfifo", || one(|path| Ok(mkfifo(path, Mode::from_bits_truncate(0o600))?))),
    ("symlink", || one(|path| symlink("target", path))),
    ("readlink", || one(|path| fs::read_link(path).map(drop))),
    ("readdir", || one(|path| fs::read_dir(path).map(drop))),
    ("open_to_read", || open(libc::O_RDONLY | libc::O_NONBLOCK)),
    ("open_to_write", || open(libc::O_WRONLY | libc::O_NONBLOCK)),
    ("open_to_truncate", || open(libc::O_RDWR | libc::O_TRUNC | libc::O_NONBLOCK)),
    ("open_to_make", || open(libc::O_RDWR | libc::O_CREAT | libc::O_NONBLOCK)),
    ("open_to_make_a_new_one", || open(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)),
    ("open_no_link", || open(libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK)),
    ("open_a_directory", || open(libc::O_RDONLY | libc::O_DIRECTORY)),
    ("link", || two(|from, to| fs::hard_link(from, to))),
    ("rename", || two(|from, to| fs::rename(from, to))),
];

/// Names in a tree made by [`plant`], and what is wrong with them.
fn names() -> Vec<String> {
    let names = [
        "file",
        "empty",
        "full",
        "full/inside",
        "link",
        "dangling",
        "loop",
        "fifo",
        "missing",
        "",
        ".",
        "..",
        "full/.",
        "full/..",
        "empty/",
        "file/",
        "missing/",
        "link/",
        "file/below",
        "missing/below",
        "loop/below",
        "dangling/below",
        "full/new",
        "linked/inside",
        "linked",
        "linked/",
    ];
    let mut names: Vec<String> = names.map(str::to_owned).to_vec();
    names.push("x".repeat(255));
    names.push("x".repeat(256));
    names.push(format!("{}missing", "./".repeat(2100)));
    names
}

fn plant(dir: &Path) {
    fs::create_dir_all(dir.join("full")).unwrap();
    fs::create_dir(dir.join("empty")).unwrap();
    for file in ["file", "full/inside"] {
        fs::write(dir.join(file), b"content").unwrap();
    }
    let links = [("link", "file"), ("dangling", "nowhere"), ("loop", "loop2"), ("loop2", "loop"), ("linked", "full")];
    links.iter().for_each(|(link, target)| symlink(target, dir.join(link)).unwrap());
    mkfifo(&dir.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
}

/// Every name below `dir` with its type, mode, number of links and length.
fn tree(dir: &Path) -> Vec<(PathBuf, u32, u64, u64)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap()) {
            let meta = entry.metadata().unwrap();
            let len = if meta.is_dir() || meta.file_type().is_fifo() { 0 } else { meta.len() };
            found.push((entry.path().strip_prefix(dir).unwrap().to_owned(), meta.mode(), meta.nlink(), len));
            left.extend(meta.is_dir().then(|| entry.path()));
        }
    }
    found.sort();
    found
}

/// Does the same with each name, each time in a new tree.
fn one(what: impl Fn(&Path) -> Result<()>) {
    let pair = Pair::new();
    for (number, name) in names().iter().enumerate() {
        pair.both(|dir| {
            let dir = dir.join(number.to_string());
            plant(&dir);
            (name, errno(what(&in_dir(&dir, name))), tree(&dir))
        });
    }
}

fn open(flags: i32) {
    let flags = OFlag::from_bits_truncate(flags);
    one(|path| Ok(nix::fcntl::open(path, flags, Mode::from_bits_truncate(0o644)).map(drop)?));
}

/// `name` below `dir` as it is written: `Path::join` would tidy it up, and an empty name stays empty.
fn in_dir(dir: &Path, name: &str) -> PathBuf {
    if name.is_empty() { PathBuf::new() } else { PathBuf::from(format!("{}/{name}", dir.display())) }
}

/// Does the same with each pair of names.
fn two(what: impl Fn(&Path, &Path) -> Result<()>) {
    let pair = Pair::new();
    let names = ["file", "empty", "full", "full/inside", "link", "dangling", "loop", "fifo", "missing", "", "full/.."];
    let more = ["empty/", "file/", "file/below", "missing/below", "full/new", "linked/inside"].map(str::to_owned);
    let names: Vec<String> = names.map(str::to_owned).into_iter().chain(more).chain(["x".repeat(256)]).collect();
    for (number, from) in names.iter().enumerate() {
        pair.both(|dir| {
            let results = names.iter().enumerate().map(|(other, to)| {
                let dir = dir.join(format!("{number}-{other}"));
                plant(&dir);
                let error = errno(what(&in_dir(&dir, from), &in_dir(&dir, to)));
                let after = tree(&dir);
                fs::remove_dir_all(&dir).unwrap();
                (from, to, error, after)
            });
            results.collect::<Vec<_>>()
        });
    }
}

fn set_times(path: &Path, flags: UtimensatFlags) -> Result<()> {
    let time = TimeSpec::new(1_000_000_000, 123_456_789);
    Ok(utimensat(AT_FDCWD, path, &time, &time, flags)?)
}
