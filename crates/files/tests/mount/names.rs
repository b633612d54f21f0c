//! Names and directories.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::Test;
use super::mounted::Options;
use super::pair::{Pair, errno, number};
use super::times::{saw, undisturbed};

pub const TESTS: &[Test] = &[
    ("names_are_bytes_of_up_to_255", names_are_bytes_of_up_to_255),
    ("renaming_keeps_replaces_and_exchanges", renaming_keeps_replaces_and_exchanges),
    ("a_hundred_thousand_entries_are_all_listed_once", a_hundred_thousand_entries_are_all_listed_once),
    ("a_directory_is_listed_while_it_changes", a_directory_is_listed_while_it_changes),
    ("a_tree_deeper_than_a_path_can_be_long_is_walked", a_tree_deeper_than_a_path_can_be_long_is_walked),
    ("a_directory_that_was_removed_is_empty", a_directory_that_was_removed_is_empty),
    ("more_files_than_descriptors_are_used", more_files_than_descriptors_are_used),
    ("who_looks_for_many_names_in_vain_asks_seldom", who_looks_in_vain_asks_seldom),
    ("who_looked_for_many_names_in_vain_misses_none", who_looked_in_vain_misses_none),
    ("names_that_many_threads_make_are_there_at_once", names_that_many_threads_make_are_there_at_once),
];

fn names_are_bytes_of_up_to_255() {
    let pair = Pair::new();
    pair.both(|dir| {
        let names =
            [vec![b'x'; 255], b"\xff\xfe not \x80 UTF-8\n".to_vec(), "ä €".into(), b"-rf".to_vec(), b"...".to_vec()];
        for name in &names {
            fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
        }
        let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(found.len(), names.len());
        let same = found.iter().all(|name| fs::read(dir.join(name)).unwrap() == name.as_bytes());
        (found, same, errno(fs::write(dir.join("y".repeat(256)), b"")))
    });
}

const NAMES: usize = 200;

/// Looks for names of which one is there.
fn look(pair: &Pair) {
    for name in 0..NAMES {
        assert_eq!(errno(fs::metadata(pair.guest().join(format!("none{name}")))), libc::ENOENT);
    }
    assert_eq!(errno(fs::metadata(pair.guest().join("there"))), 0);
}

fn who_looks_in_vain_asks_seldom() {
    undisturbed(|| {
        let pair = Pair::new();
        fs::write(pair.host.join("there"), b"").unwrap();
        let reads_of_server = || {
            let io = fs::read_to_string(format!("/proc/{}/io", pair.mounted.server_pid())).unwrap();
            io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap().parse::<usize>().unwrap()
        };
        let before = reads_of_server();
        look(&pair);
        let asked = reads_of_server() - before;
        saw(asked < NAMES / 2, || format!("{asked} reads for {NAMES} names"))
    });
}

fn who_looked_in_vain_misses_none() {
    let pair = Pair::new();
    fs::write(pair.host.join("there"), b"").unwrap();
    let guest = |name: &str| pair.guest().join(name);
    look(&pair);
    // What is made here is there at once, however it is made.
    fs::write(guest("none1"), b"").unwrap();
    fs::create_dir(guest("none2")).unwrap();
    fs::hard_link(guest("there"), guest("none3")).unwrap();
    std::os::unix::fs::symlink("there", guest("none4")).unwrap();
    fs::rename(guest("there"), guest("none5")).unwrap();
    fs::write(guest(&"n".repeat(200)), b"").unwrap();
    for name in 1..=5 {
        assert_eq!(errno(fs::symlink_metadata(guest(&format!("none{name}")))), 0, "none{name}");
    }
    assert_eq!(errno(fs::metadata(guest(&"n".repeat(200)))), 0);
    fs::rename(guest("none5"), guest("there")).unwrap();
    (1..=4).for_each(|name| {
        let path = guest(&format!("none{name}"));
        fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
    });
    look(&pair);
    // What others make is there soon, or at once for who makes it too.
    fs::write(pair.host.join("none7"), b"host").unwrap();
    assert_eq!(errno(fs::File::create_new(guest("none7"))), libc::EEXIST);
    fs::write(pair.host.join("none8"), b"host").unwrap();
    let begun = Instant::now();
    while errno(fs::metadata(guest("none8"))) != 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is never seen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn names_that_many_threads_make_are_there_at_once() {
    let pair = Pair::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pair = &pair;
            scope.spawn(move || {
                for file in 0..100 {
                    let path = pair.guest().join(format!("{thread}-{file}"));
                    assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
                    fs::write(&path, b"").unwrap();
                    assert_eq!(errno(fs::metadata(&path)), 0, "{}", path.display());
                }
            });
        }
    });
    let all = (0..4).flat_map(|thread| (0..100).map(move |file| format!("{thread}-{file}")));
    assert!(all.into_iter().all(|name| pair.guest().join(name).exists()));
}

fn renaming_keeps_replaces_and_exchanges() {
    let pair = Pair::new();
    pair.both(|dir| {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let rename = |flags| number(renameat2(AT_FDCWD, &a, AT_FDCWD, &b, flags));
        let read = || (fs::read(&a).ok(), fs::read(&b).ok());
        fs::write(&a, b"a").unwrap();
        fs::write(&b, b"b").unwrap();
        let kept = (rename(RenameFlags::RENAME_NOREPLACE), read());
        let exchanged = (rename(RenameFlags::RENAME_EXCHANGE), read());
        let open = fs::File::open(&b).unwrap();
        let replaced = (rename(RenameFlags::empty()), read());
        let of_open = open.metadata().unwrap().nlink();
        fs::create_dir_all(dir.join("d/e")).unwrap();
        fs::write(dir.join("d/e/f"), b"deep").unwrap();
        fs::rename(dir.join("d"), dir.join("moved")).unwrap();
        let moved = (fs::read(dir.join("moved/e/f")).unwrap(), errno(fs::read(dir.join("d/e/f"))));
        (kept, exchanged, replaced, of_open, moved)
    });
}

fn a_hundred_thousand_entries_are_all_listed_once() {
    const COUNT: usize = 100_000;
    let pair = Pair::new();
    for number in 0..COUNT {
        fs::File::create(pair.host.join(format!("entry-{number:06}"))).unwrap();
    }
    let listed: Vec<OsString> = fs::read_dir(pair.guest()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listed.len(), COUNT);
    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), COUNT);
    // With attributes, as `ls -l` does it.
    let sizes = fs::read_dir(pair.guest()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert_eq!(sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size)), (COUNT, 0));
    let some = fs::read_dir(pair.guest()).unwrap().take(1000).map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    some.iter().for_each(|path| fs::remove_file(path).unwrap());
    assert_eq!(fs::read_dir(&pair.host).unwrap().count(), COUNT - 1000);
}

fn a_directory_is_listed_while_it_changes() {
    let pair = Pair::new();
    (0..2000).for_each(|number| fs::write(pair.host.join(format!("old-{number}")), b"").unwrap());
    let mut listing = fs::read_dir(pair.guest()).unwrap();
    let mut seen = BTreeSet::from([listing.next().unwrap().unwrap().file_name()]);
    (0..2000).for_each(|number| fs::write(pair.host.join(format!("new-{number}")), b"").unwrap());
    for entry in listing {
        assert!(seen.insert(entry.unwrap().file_name()), "an entry came twice");
    }
    let old = seen.iter().filter(|name| name.as_bytes().starts_with(b"old-")).count();
    assert_eq!(old, 2000, "what was there all the time is listed");
    assert_eq!(fs::read_dir(pair.guest()).unwrap().count(), 4000);
}

fn a_tree_deeper_than_a_path_can_be_long_is_walked() {
    use nix::fcntl::{OFlag, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let pair = Pair::new();
    pair.both(|dir| {
        let name = "directory-with-a-long-name-that-makes-the-path-long";
        let open = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let mut at = nix::fcntl::open(dir, open, Mode::empty()).unwrap();
        for _ in 0..300 {
            mkdirat(&at, name, Mode::from_bits_retain(0o755)).unwrap();
            at = openat(&at, name, open, Mode::empty()).unwrap();
        }
        let stat = nix::sys::stat::fstat(&at).unwrap();
        drop(at);
        (stat.st_nlink, errno(fs::remove_dir_all(dir.join(name))))
    });
}

fn a_directory_that_was_removed_is_empty() {
    let pair = Pair::new();
    pair.both(|dir| {
        fs::create_dir(dir.join("d")).unwrap();
        let open = fs::File::open(dir.join("d")).unwrap();
        fs::remove_dir(dir.join("d")).unwrap();
        let made = nix::sys::stat::mkdirat(&open, "below", nix::sys::stat::Mode::from_bits_retain(0o755));
        (open.metadata().unwrap().nlink(), number(made))
    });
}

fn more_files_than_descriptors_are_used() {
    let pair = Pair::with(Options { slots: true, descriptors: Some(256), ..Options::default() });
    for outer in 0..40 {
        let dir = pair.guest().join(format!("d{outer}"));
        fs::create_dir(&dir).unwrap();
        (0..20).for_each(|inner| fs::write(dir.join(format!("f{inner}")), format!("{outer} {inner}")).unwrap());
    }
    fs::rename(pair.guest().join("d7"), pair.guest().join("moved")).unwrap();
    // The oldest have lost their descriptors, and are found again.
    for (outer, name) in (0..40).map(|outer| (outer, if outer == 7 { "moved".to_owned() } else { format!("d{outer}") }))
    {
        for inner in 0..20 {
            let path = pair.guest().join(&name).join(format!("f{inner}"));
            assert_eq!(fs::read_to_string(path).unwrap(), format!("{outer} {inner}"));
        }
    }
    let descriptors = fs::read_dir(format!("/proc/{}/fd", pair.mounted.server_pid())).unwrap().count();
    assert!(descriptors < 256, "{descriptors}");
}
