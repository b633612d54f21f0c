//! Checks that a node is as before. Beside the checks of every suite: space of files without a name, locks and
//! drafts of templates, control groups, mounts, shared memory and descriptors of daemons.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::cluster::uid;
use testkit::{Cluster, system};

/// Deadline for a node to be as before.
const SETTLE: Duration = Duration::from_secs(45);

/// How many more descriptors a daemon may have than at the beginning: it keeps some connections for a moment.
const FEW: usize = 4;

/// The state of the node when nothing runs.
#[derive(Debug)]
pub struct Baseline {
    descriptors: Vec<(String, usize)>,
    shared_memory: BTreeSet<String>,
}

/// Private disks have no names, so they get a file system of their own, where the space they use is visible.
pub fn bound_scratch(cluster: &Cluster) {
    let dir = cluster.dir.join("scratch");
    system(&["mount", "-t", "tmpfs", "-o", "size=4g,mode=1777", "tmpfs", &dir.display().to_string()]);
}

/// Unmounts it again.
pub fn unbound_scratch(cluster: &Cluster) {
    // Lazy unmount: leftovers of a failed test that are still in use must not stop the cleanup.
    let _ = Command::new("umount").arg("-l").arg(cluster.dir.join("scratch")).status();
}

/// Bytes in use on the private disks' file system, with names or without.
pub fn scratch_in_use(cluster: &Cluster) -> u64 {
    let stat = nix::sys::statvfs::statvfs(&cluster.dir.join("scratch")).unwrap();
    (stat.blocks() - stat.blocks_free()) * stat.fragment_size()
}

impl Baseline {
    /// The state now.
    pub fn of(cluster: &Cluster) -> Self {
        cluster.nothing_is_left().expect("nothing has run yet");
        Self { descriptors: descriptors(cluster), shared_memory: shared_memory(cluster) }
    }

    /// Waits until the node is as it was.
    pub fn is_restored(&self, cluster: &Cluster) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let left = cluster.nothing_is_left().and_then(|()| match self.left(cluster) {
                left if left.is_empty() => Ok(()),
                left => Err(left.join("; ")),
            });
            match left {
                Err(left) if Instant::now() > deadline => return Err(left),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn left(&self, cluster: &Cluster) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(cluster.sweep_check().map(|found| found.replace('\n', "; ")));
        match scratch_in_use(cluster) {
            0 => {}
            bytes => left.push(format!("{bytes} bytes in nameless files")),
        }
        left.extend(of_templates(cluster).into_iter().map(|path| path.display().to_string()));
        left.extend(shared_memory(cluster).difference(&self.shared_memory).map(|name| format!("/dev/shm/{name}")));
        for (daemon, now) in descriptors(cluster) {
            let before = self.descriptors.iter().find(|(name, _)| *name == daemon).map_or(0, |(_, count)| *count);
            if now > before + FEW {
                left.push(format!("{daemon} has {now} descriptors instead of {before}"));
            }
        }
        left
    }
}

/// All other files beside templates: drafts, locks, notes about failures.
pub fn of_templates(cluster: &Cluster) -> Vec<PathBuf> {
    let hidden = within(cluster.dir.join("templates")).filter(|path| is_hidden(path));
    on_shelves(cluster).filter(|path| !is_template(path)).chain(hidden).collect()
}

/// The templates themselves.
pub fn templates(cluster: &Cluster) -> Vec<PathBuf> {
    on_shelves(cluster).filter(|path| is_template(path)).collect()
}

fn on_shelves(cluster: &Cluster) -> impl Iterator<Item = PathBuf> {
    let templates = cluster.dir.join("templates");
    within(templates.join("users")).chain([templates.join("site")]).flat_map(within)
}

fn within(dir: PathBuf) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_template(path: &Path) -> bool {
    path.join("template.toml").exists() && !is_hidden(path)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Open descriptors of each daemon.
fn descriptors(cluster: &Cluster) -> Vec<(String, usize)> {
    let records = fs::read_dir(cluster.dir.join("slurm/run")).unwrap().flatten().map(|entry| entry.path());
    let daemons = records.filter(|path| path.extension().is_some_and(|end| end == "pid"));
    let count = |path: PathBuf| {
        let name = path.file_stem()?.to_string_lossy().into_owned();
        let pid = fs::read_to_string(path).ok()?.split(' ').next()?.to_owned();
        Some((name, fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()))
    };
    daemons.filter_map(count).collect()
}

/// What the users of VMs have there. What others on this machine do is their own.
fn shared_memory(cluster: &Cluster) -> BTreeSet<String> {
    let user = uid(&cluster.user);
    let is_theirs = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|meta| meta.uid() == user);
    let entries = fs::read_dir("/dev/shm").into_iter().flatten().flatten().filter(is_theirs);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
