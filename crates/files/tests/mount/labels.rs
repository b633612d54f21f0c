//! Labels that the host's security modules give to files, and what `ls -l` asks for.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use proto::files::fuse::op;
use xattr::FileExt;

use super::Test;
use super::mounted::Mounted;
use super::pair::{Pair, errno};
use super::times::{saw, undisturbed};

pub const TESTS: &[Test] = &[
    ("ls_l_asks_the_guest_once_for_each_file_and_the_host_hardly", ls_l_asks_once_for_each_file),
    ("who_lists_the_attributes_of_each_file_asks_the_host_hardly", listing_each_asks_the_host_hardly),
    ("labels_of_the_host_are_not_there_and_nobody_asks_for_them", labels_of_the_host_are_not_there),
    ("what_is_listed_is_what_the_host_lists", what_is_listed_is_what_the_host_lists),
];

/// The questions about extended attributes since there were `from` questions: how many, and how many of them to the host.
fn about_attributes(mounted: &Mounted, from: usize) -> (usize, usize) {
    let ops = [op::GETXATTR, op::LISTXATTR, op::SETXATTR, op::REMOVEXATTR];
    let asked = mounted.asked();
    let about = asked[from..].iter().filter(|(op, _)| ops.contains(op));
    (about.clone().count(), about.filter(|(_, of_host)| *of_host).count())
}

/// With 100 files on the host.
fn with_files() -> Pair {
    let pair = Pair::new();
    (0..100).for_each(|file| fs::write(pair.host.join(file.to_string()), "").unwrap());
    pair
}

/// It looks for a label and an ACL of the directory and of each file, and for a default ACL of the directory.
fn ls_l_asks_once_for_each_file() {
    undisturbed(|| {
        let pair = with_files();
        let output = Command::new("ls").arg("-l").arg(pair.guest()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 101, "{output:?}");
        let (all, of_host) = about_attributes(&pair.mounted, 0);
        assert!(all <= 103, "{all} questions");
        saw(of_host <= 4, || format!("{of_host} questions to the host"))
    });
}

/// As `ls -l` does from coreutils 9.6 on.
fn listing_each_asks_the_host_hardly() {
    undisturbed(|| {
        let pair = with_files();
        for file in fs::read_dir(pair.guest()).unwrap() {
            assert!(names(&file.unwrap().path()).is_empty());
        }
        let (all, of_host) = about_attributes(&pair.mounted, 0);
        assert!(all >= 100, "{all} questions");
        saw(of_host <= 3, || format!("{of_host} questions to the host"))
    });
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = xattr::list(path).unwrap().map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn labels_of_the_host_are_not_there() {
    let pair = Pair::new();
    fs::write(pair.host.join("f"), "").unwrap();
    xattr::set(pair.host.join("f"), "user.a", b"1").unwrap();
    let labels = ["security.selinux", "security.SMACK64", "security.SMACK64EXEC", "security.apparmor"];
    // A host's kernel or file system may refuse it; then it lists none either.
    let is_set = labels.map(|label| xattr::set(pair.host.join("f"), label, b"label").is_ok());
    let file = File::open(pair.guest().join("f")).unwrap();
    let asked = pair.mounted.asked().len();
    for label in labels {
        let errors =
            [errno(file.get_xattr(label)), errno(file.set_xattr(label, b"other")), errno(file.remove_xattr(label))];
        assert_eq!(errors, [libc::EOPNOTSUPP; 3], "{label}");
    }
    assert_eq!(about_attributes(&pair.mounted, asked), (12, 0));
    assert_eq!(names(&pair.guest().join("f")), ["user.a"], "set on the host: {is_set:?}");
    for (label, is_set) in labels.into_iter().zip(is_set) {
        let value = xattr::get(pair.host.join("f"), label).unwrap_or_default();
        assert!(!is_set || value.as_deref() == Some(b"label"), "{label} was changed: {value:?}");
    }
    // Capabilities are no label.
    assert_eq!(xattr::get(pair.guest().join("f"), "security.capability").unwrap(), None);
}

fn what_is_listed_is_what_the_host_lists() {
    let pair = Pair::new();
    pair.both(|dir| {
        let path = dir.join("f");
        fs::write(&path, "").unwrap();
        // Also twice in a second: an attribute that was set meanwhile is there.
        let none = (names(&path), names(&path));
        xattr::set(&path, "user.a", b"1").unwrap();
        let one = (names(&path), names(&path));
        (0..100).for_each(|i| xattr::set(&path, format!("user.{i:0>20}"), b"").unwrap());
        let many = names(&path);
        xattr::remove(&path, "user.a").unwrap();
        (none, one, many, names(&path))
    });
}
