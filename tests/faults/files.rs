//! Files that VMs depend on are damaged, full, or gone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use testkit::undo::afterwards;
use testkit::{Cluster, Ran, system};

use crate::step::{Shown, Step, UNTIL_TOLD, node};
use crate::{Fault, Saw};

const fn files(name: &'static str, tries: u32, run: fn(&Cluster) -> Saw) -> Fault {
    Fault { area: "files", name, tries, run }
}

pub const FAULTS: &[Fault] = &[
    files("a template's memory is half written", 1, half_written),
    files("a template's device state is garbage", 1, garbage_state),
    files("a template belongs to somebody else", 1, foreign_template),
    files("all templates are removed while a VM runs", 1, templates_gone),
    files("no template can be kept: the disk is full", 1, template_disk_full),
    files("the state directory is full", 1, state_full),
    files("the state directory is read-only", 1, state_read_only),
    files("the state directory is removed while a VM runs", 1, state_gone),
    files("the scratch directory has no room at all", 1, scratch_full),
    files("the scratch directory is gone", 1, scratch_gone),
    files("the image is replaced while a VM runs", 1, image_replaced),
    files("the image is removed while a VM runs", 1, image_removed),
];

fn fine(cluster: &Cluster) -> Ran {
    cluster.srun(&["-w", &node(cluster), "--vm-image=tiny", "echo", "fine"])
}

/// A step that the node cannot run, for the reason given.
fn fails(cluster: &Cluster, since: Instant, words: &[&str]) -> Saw {
    let ended = fine(cluster);
    assert_eq!(ended.stdout, "", "{ended:?}");
    ended.saw(since, 75, &[&["cannot run VMs: "], words].concat())
}

/// The template that a VM of one processor on this cluster clones.
fn template(cluster: &Cluster) -> PathBuf {
    assert_eq!(fine(cluster).ok(), "fine\n");
    let shelf = fs::read_dir(cluster.dir.join("templates/users")).unwrap().next().unwrap().unwrap().path();
    let used = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    fs::read_dir(shelf).unwrap().map(|entry| entry.unwrap().path()).max_by_key(used).expect("a template")
}

fn half_written(cluster: &Cluster) -> Saw {
    let ram = template(cluster).join("ram");
    let file = fs::OpenOptions::new().write(true).open(&ram).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let since = Instant::now();
    fine(cluster).saw(since, 0, &["fine"])
}

fn garbage_state(cluster: &Cluster) -> Saw {
    let state = template(cluster).join("state");
    let length = fs::metadata(&state).unwrap().len();
    fs::write(&state, vec![0x5a; length as usize]).unwrap();
    let since = Instant::now();
    fine(cluster).saw(since, 0, &["fine"])
}

fn foreign_template(cluster: &Cluster) -> Saw {
    let ram = template(cluster).join("ram");
    chown(&ram, Some(65534), None).unwrap();
    let since = Instant::now();
    let saw = fine(cluster).saw(since, 0, &["fine"]);
    assert_ne!(fs::metadata(&ram).unwrap().uid(), 65534, "a new one was made");
    saw
}

fn templates_gone(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], &format!("{UNTIL_TOLD} cat /etc/os-release > /dev/null; echo fine"));
    let since = Instant::now();
    fs::remove_dir_all(cluster.dir.join("templates")).unwrap();
    step.tell();
    step.end().saw(since, 0, &["fine"])
}

/// Runs `work` while a small file system is mounted over `dir`.
fn under(dir: &Path, options: &str, work: impl FnOnce() -> Saw) -> Saw {
    let dir = dir.display().to_string();
    system(&["mount", "-t", "tmpfs", "-o", options, "tmpfs", &dir]);
    let _mounted = afterwards(|| drop(system(&["umount", "-l", &dir])));
    work()
}

fn template_disk_full(cluster: &Cluster) -> Saw {
    let shelf = template(cluster).parent().unwrap().to_owned();
    let owner = fs::metadata(&shelf).unwrap();
    let options = format!("size=1m,mode=700,uid={},gid={}", owner.uid(), owner.gid());
    under(&shelf, &options, || {
        let since = Instant::now();
        fine(cluster).saw(since, 0, &["fine"])
    })
}

fn state_full(cluster: &Cluster) -> Saw {
    let state = cluster.dir.join("state");
    under(&state, "nr_inodes=1,mode=755", || {
        let since = Instant::now();
        fails(cluster, since, &["vm: ", "No space left on device"])
    })
}

fn state_read_only(cluster: &Cluster) -> Saw {
    let state = cluster.dir.join("state");
    under(&state, "ro,mode=755", || {
        let since = Instant::now();
        fails(cluster, since, &["vm: ", "Read-only file system"])
    })
}

fn state_gone(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], &format!("{UNTIL_TOLD} echo fine"));
    let since = Instant::now();
    fs::remove_dir_all(cluster.dir.join("state")).unwrap();
    step.tell();
    step.end().saw(since, 0, &["fine"])
}

fn scratch_full(cluster: &Cluster) -> Saw {
    let scratch = cluster.dir.join("scratch");
    under(&scratch, "size=16k,mode=1777", || {
        let since = Instant::now();
        // Users can bring that about, so it is not the node's fault.
        fine(cluster).saw(since, 125, &["no private disk can be made in ", "No space left on device"])
    })
}

fn scratch_gone(cluster: &Cluster) -> Saw {
    let mut found = None;
    cluster.with_config("scratch_dir = '/nonexistent/scratch'\n", || {
        let words = ["no private disk can be made in /nonexistent/scratch", "'scratch_dir'"];
        found = Some(fails(cluster, Instant::now(), &words));
    });
    found.unwrap()
}

/// The disk of the image 'tiny', and a copy to put in its place.
fn disk(cluster: &Cluster) -> (PathBuf, PathBuf) {
    let entry: toml::Table = fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap().parse().unwrap();
    let disk = cluster.dir.join("images").join(entry["disk"].as_str().unwrap());
    let copy = disk.with_extension("copy");
    fs::copy(&disk, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    (disk, copy)
}

/// Reads parts of the disk that nothing has read before.
const READS_ITS_DISK: &str = "echo 3 > /proc/sys/vm/drop_caches; cat /bin/busybox | wc -c > /dev/null && echo fine";

fn image_replaced(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &["--vm-root"], &format!("{UNTIL_TOLD} {READS_ITS_DISK}"));
    let (disk, copy) = disk(cluster);
    let since = Instant::now();
    fs::rename(copy, disk).unwrap();
    step.tell();
    let saw = step.end().saw(since, 0, &["fine"]);
    assert_eq!(fine(cluster).ok(), "fine\n", "the next VM has the new image");
    saw
}

fn image_removed(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &["--vm-root"], &format!("{UNTIL_TOLD} {READS_ITS_DISK}"));
    let (disk, copy) = disk(cluster);
    fs::remove_file(&disk).unwrap();
    // All other rows need it.
    let _disk = afterwards(|| fs::rename(&copy, &disk).unwrap());
    let since = Instant::now();
    step.tell();
    let running = step.end();
    let next = fine(cluster);
    let running = running.saw(since, 0, &["fine"]);
    let code = next.code;
    assert_ne!(code, 0, "{next:?}");
    let next = next.saw(since, code, &["'tiny'", "No such file or directory"]);
    Saw { since, text: format!("{}; the next job: {}", running.text, next.text) }
}
