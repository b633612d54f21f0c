//! Nodes of real directories: which names are one file, and which descriptors stay open.

use std::fs::File;
use std::path::Path;

use super::*;
use crate::sys::{fstatat, open};

fn nodes(dir: &Path, cached_max: usize) -> Nodes {
    let path = CString::new(dir.as_os_str().as_encoded_bytes()).unwrap();
    Nodes::new(open(&path, libc::O_PATH).unwrap(), Arc::new(Bounds::new(cached_max))).unwrap()
}

/// Looks a name up in the root, with a descriptor.
fn look(nodes: &Nodes, name: &CStr) -> Arc<Node> {
    let root = nodes.fd(nodes.root()).unwrap();
    let stat = fstatat(root.as_fd(), name).unwrap();
    let fd = openat(root.as_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, 0).unwrap();
    nodes.found(&stat, Some(fd), (ROOT, name)).unwrap()
}

#[test]
fn a_file_with_two_names_is_one_node_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("a")).unwrap();
    std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    let nodes = nodes(dir.path(), 100);
    let (a, b) = (look(&nodes, c"a"), look(&nodes, c"b"));
    assert_eq!((a.id, nodes.len()), (b.id, 2));
    nodes.forget(a.id, 1);
    assert!(nodes.get(a.id).is_ok());
    nodes.forget(a.id, 1);
    assert_eq!(nodes.get(a.id).unwrap_err(), Errno(libc::ESTALE));
    assert_ne!(look(&nodes, c"a").id, a.id, "a number is never used again");
    nodes.forget(ROOT, 100);
    assert!(nodes.get(ROOT).is_ok());
}

#[test]
fn few_descriptors_serve_many_nodes_and_only_the_same_file_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = nodes(dir.path(), 4);
    let names: Vec<CString> = (0..50).map(|number| CString::new(format!("f{number}")).unwrap()).collect();
    let all: Vec<_> = names
        .iter()
        .map(|name| {
            File::create(dir.path().join(name.to_str().unwrap())).unwrap();
            look(&nodes, name)
        })
        .collect();
    let with_fd = || all.iter().filter(|node| nodes.has_fd(node)).count();
    assert!(with_fd() <= 5, "{}", with_fd());
    let first = &all[0];
    assert!(!nodes.has_fd(first));
    let stat = fstat(nodes.fd(first).unwrap().as_fd()).unwrap();
    assert_eq!(key(&stat), first.key);
    // Renamed with our knowledge, it is found; replaced behind our back, it is not.
    std::fs::rename(dir.path().join("f1"), dir.path().join("moved")).unwrap();
    assert_eq!(nodes.fd(&all[1]).unwrap_err(), Errno(libc::ESTALE));
    nodes.moved(&all[1], (ROOT, c"moved"));
    assert!(nodes.fd(&all[1]).is_ok());
    File::create(dir.path().join("other")).unwrap();
    std::fs::rename(dir.path().join("other"), dir.path().join("f2")).unwrap();
    assert_eq!(nodes.fd(&all[2]).unwrap_err(), Errno(libc::ESTALE));
    std::fs::remove_file(dir.path().join("f3")).unwrap();
    std::os::unix::fs::symlink("f4", dir.path().join("f3")).unwrap();
    assert_eq!(nodes.fd(&all[3]).unwrap_err(), Errno(libc::ESTALE));
}

#[test]
fn a_node_that_is_open_keeps_its_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = nodes(dir.path(), 4);
    File::create(dir.path().join("open")).unwrap();
    let open = look(&nodes, c"open");
    open.opens.fetch_add(1, Ordering::Relaxed);
    std::fs::remove_file(dir.path().join("open")).unwrap();
    for number in 0..100 {
        let name = CString::new(format!("f{number}")).unwrap();
        File::create(dir.path().join(name.to_str().unwrap())).unwrap();
        look(&nodes, &name);
    }
    assert!(nodes.has_fd(&open) && nodes.fd(&open).is_ok());
}

#[test]
fn a_descriptor_that_nobody_uses_is_closed_unless_only_it_leads_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = nodes(dir.path(), 10);
    let look_at = |name: &CStr| {
        File::create(dir.path().join(name.to_str().unwrap())).unwrap();
        look(&nodes, name)
    };
    let (idle, removed, open) = (look_at(c"idle"), look_at(c"removed"), look_at(c"open"));
    nodes.pin(&removed);
    std::fs::remove_file(dir.path().join("removed")).unwrap();
    open.opens.fetch_add(1, Ordering::Relaxed);
    let have = || [&idle, &removed, &open].map(|node| nodes.has_fd(node));
    nodes.sweep();
    assert_eq!(have(), [true; 3], "they were used since the last sweep");
    nodes.sweep();
    assert_eq!(have(), [false, true, true]);
    assert!(nodes.fd(&idle).is_ok(), "it is found again");
    open.opens.fetch_sub(1, Ordering::Relaxed);
    (0..2).for_each(|_| nodes.sweep());
    assert_eq!(have(), [false, true, false]);
}

#[test]
fn there_are_no_more_nodes_than_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Arc::new(Bounds { nodes: AtomicUsize::new(0), nodes_max: 3, listed_max: 2, cached_max: 10 });
    let path = CString::new(dir.path().as_os_str().as_encoded_bytes()).unwrap();
    let nodes = Nodes::new(open(&path, libc::O_PATH).unwrap(), Arc::clone(&bounds)).unwrap();
    let root = nodes.fd(nodes.root()).unwrap();
    let stat = |name: &CStr| {
        File::create(dir.path().join(name.to_str().unwrap())).unwrap();
        fstatat(root.as_fd(), name).unwrap()
    };
    nodes.listed(&stat(c"a"), (ROOT, c"a")).unwrap();
    assert_eq!(nodes.listed(&stat(c"b"), (ROOT, c"b")).unwrap_err(), Errno(libc::ENFILE));
    let b = nodes.found(&stat(c"b"), None, (ROOT, c"b")).unwrap();
    assert_eq!(nodes.found(&stat(c"c"), None, (ROOT, c"c")).unwrap_err(), Errno(libc::ENFILE));
    nodes.forget(b.id, 1);
    assert!(nodes.found(&stat(c"c"), None, (ROOT, c"c")).is_ok());
    drop(nodes);
    assert_eq!(bounds.nodes.load(Ordering::Relaxed), 0);
}
