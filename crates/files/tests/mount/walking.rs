//! Directories that are opened before the guest opens them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::files::fuse::{OUT_HEADER, ROOT, op};
use proto::files::{Ahead, Opened, What, kind, listed_nodes, opened};

use super::Test;
use super::pair::Pair;
use super::raw::{Raw, string, words};
use super::times::{saw, undisturbed};

pub const TESTS: &[Test] = &[
    ("who_opens_one_of_the_listed_directories_is_told_of_the_next", the_next_directories_are_sent_ahead),
    ("who_changes_something_is_not", who_changes_something_is_not),
    ("a_walk_sees_all_that_the_host_has", a_walk_sees_all_that_the_host_has),
    ("large_directories_beside_each_other_are_listed_whole", large_directories_are_listed_whole),
    ("a_walk_sees_what_changes_meanwhile", a_walk_sees_what_changes_meanwhile),
    ("directories_that_nobody_opens_are_closed", directories_that_nobody_opens_are_closed),
];

/// `a` to `d`, each with so many files.
fn tree(dir: &Path, files: usize) {
    for name in ["a", "b", "c", "d"] {
        fs::create_dir(dir.join(name)).unwrap();
        (0..files).for_each(|file| fs::write(dir.join(name).join(file.to_string()), "").unwrap());
    }
}

/// Opens a directory: what is open already, with the number of entries.
fn open(raw: &mut Raw, node: u64) -> Vec<(Opened, usize)> {
    raw.post(0, op::OPENDIR, node, &[0; 8]);
    let mut found = Vec::new();
    loop {
        let (header, payload) = raw.receive().unwrap();
        match header.kind {
            kind::AHEAD => {
                let (ahead, rest) = Ahead::parse(&payload).unwrap();
                if ahead.what == What::Opened {
                    found.extend(opened(rest).map(|(dir, entries)| (dir, listed_nodes(entries).count())));
                }
            }
            kind::REPLY => {
                assert!(payload.len() > OUT_HEADER);
                return found;
            }
            _ => {}
        }
    }
}

fn the_next_directories_are_sent_ahead() {
    undisturbed(|| {
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path(), 3);
        let mut raw = Raw::new(&[dir.path()]);
        assert_eq!(open(&mut raw, ROOT).len(), 0, "it may be a single one");
        let a = raw.lookup(0, ROOT, "a").unwrap();
        let found = open(&mut raw, a);
        let nodes: BTreeSet<u64> = found.iter().map(|(dir, _)| dir.node).collect();
        let others = BTreeSet::from(["b", "c", "d"].map(|name| raw.lookup(0, ROOT, name).unwrap()));
        saw(nodes == others, || format!("{nodes:?} are open, not {others:?}"))?;
        let whole = found.iter().all(|(dir, files)| dir.is_end && *files == 3);
        saw(whole, || format!("they are not listed to their ends: {found:?}"))?;
        are_usable(&mut raw, &found);
        let again = open(&mut raw, *others.first().unwrap()).len();
        saw(again == 0, || format!("{again} are sent again, which were sent just now"))
    });
}

fn are_usable(raw: &mut Raw, found: &[(Opened, usize)]) {
    for (dir, _) in found {
        // Who begins again asks the host, by the same handle.
        let again = [&words(&[dir.handle, 0]), &1_000_u32.to_le_bytes()[..], &[0; 12]].concat();
        let (error, listed) = raw.ask(0, op::READDIR, dir.node, &again);
        assert!(error == 0 && listed.len() > 5 * 24);
        raw.post(0, op::RELEASEDIR, dir.node, &words(&[dir.handle, 0, 0]));
        assert_eq!(raw.ask(0, op::READDIR, dir.node, &again).0, libc::EBADF);
    }
}

fn who_changes_something_is_not() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path(), 1);
    let mut raw = Raw::new(&[dir.path()]);
    open(&mut raw, ROOT);
    let a = raw.lookup(0, ROOT, "a").unwrap();
    let (error, _) = raw.ask(0, op::UNLINK, a, &string("0"));
    assert_eq!((error, open(&mut raw, a).len()), (0, 0));
    let b = raw.lookup(0, ROOT, "b").unwrap();
    assert_eq!(open(&mut raw, b).len(), 0, "its directory was listed before");
}

/// All below a directory.
fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>, root: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap).collect::<Vec<_>>() {
        found.insert(entry.path().strip_prefix(root).unwrap().to_owned());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), found, root);
        }
    }
}

fn walked(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    walk(dir, &mut found, dir);
    found
}

/// A tree of 111 directories and some larger ones.
fn large(pair: &Pair) {
    for dir in 0..100 {
        let dir = pair.host.join(format!("{}/{}", dir / 10, dir % 10));
        fs::create_dir_all(&dir).unwrap();
        (0..5).for_each(|file| fs::write(dir.join(file.to_string()), "").unwrap());
    }
    for (name, files) in [("3/large", 900), ("4/empty", 0)] {
        fs::create_dir(pair.host.join(name)).unwrap();
        (0..files).for_each(|file| fs::write(pair.host.join(name).join(format!("{file:0>60}")), "").unwrap());
    }
}

fn a_walk_sees_all_that_the_host_has() {
    let pair = Pair::new();
    large(&pair);
    let expected = walked(&pair.host);
    for _ in 0..3 {
        assert_eq!(walked(pair.guest()), expected);
    }
}

/// Each of them wants the slot of the request.
fn large_directories_are_listed_whole() {
    for files in [30, 60, 200] {
        let pair = Pair::new();
        tree(&pair.host, files);
        assert_eq!(walked(pair.guest()), walked(&pair.host));
    }
}

fn a_walk_sees_what_changes_meanwhile() {
    let pair = Pair::new();
    tree(&pair.host, 2);
    let count = |name: &str| fs::read_dir(pair.guest().join(name)).unwrap().count();
    for round in 0..5 {
        let walks = || (count("."), count("a"), count("b"));
        assert_eq!(walks(), (4, 2, 2 + 2 * round));
        // By this guest: at once. By the host: a moment later.
        fs::write(pair.guest().join(format!("c/guest {round}")), "").unwrap();
        assert_eq!(count("c"), 3 + 2 * round);
        fs::write(pair.guest().join(format!("b/guest {round}")), "").unwrap();
        assert_eq!((count("."), count("a"), count("b"), count("c")), (4, 2, 3 + 2 * round, 3 + 2 * round));
        fs::write(pair.host.join(format!("b/host {round}")), "").unwrap();
        fs::write(pair.host.join(format!("c/host {round}")), "").unwrap();
        std::thread::sleep(Duration::from_millis(220));
        assert_eq!(count("b"), 4 + 2 * round);
        assert_eq!(count("c"), 4 + 2 * round);
    }
}

fn directories_that_nobody_opens_are_closed() {
    let pair = Pair::new();
    large(&pair);
    let open = || fs::read_dir(format!("/proc/{}/fd", pair.mounted.server_pid())).unwrap().count();
    let expected = walked(pair.guest()).len();
    std::thread::sleep(Duration::from_millis(250));
    // With the next requests, those of before are closed.
    let deadline = Instant::now() + Duration::from_secs(5);
    let known = walked(&pair.host).len();
    assert_eq!(expected, known);
    fs::write(pair.guest().join("change"), "").unwrap();
    let after = open();
    for _ in 0..20 {
        assert_eq!(walked(pair.guest()).len(), known + 1);
    }
    while fs::write(pair.guest().join("change"), "").is_ok() && open() > after + 40 {
        assert!(Instant::now() < deadline, "{} descriptors are open, and {after} were", open());
        std::thread::sleep(Duration::from_millis(20));
    }
}
