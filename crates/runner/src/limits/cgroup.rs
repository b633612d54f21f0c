//! The control groups of this process, read in the node's layout (v1 or v2).
//!
//! Slurm's trees, from the task up:
//!
//! | layout | path |
//! | --- | --- |
//! | v1 | `/sys/fs/cgroup/memory/slurm[_NODE]/uid_U/job_J/step_S/task_T` |
//! | v2 | `/sys/fs/cgroup/system.slice/[NODE_]slurmstepd.scope/job_J/step_S/user/task_T`; from 26.05 on another word than `job_J` |

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use node::mounts::unescape;

/// Whose memory a control group holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The step's or one of its tasks'.
    Step,
    /// The memory of the whole job on this node.
    Job,
    /// More than one job's.
    Node,
}

/// One control group on the way from this process to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Level {
    /// Its own name.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
    /// What the kernel enforces, in MiB.
    pub limit_mib: Option<u64>,
    /// Memory in use that cannot be freed, in MiB: all but the page cache of files.
    pub used_mib: u64,
}

/// Names of the files that are needed. Both layouts have the same files under different names.
struct Layout {
    limit: &'static str,
    usage: &'static str,
    /// With a line `oom_kill N`: processes of the group that the kernel has killed for lack of memory.
    events: &'static str,
    /// In `memory.stat`: memory of this group and those below that is freed when memory is short.
    reclaimable: [&'static str; 2],
}

static V1: Layout = Layout {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    events: "memory.oom_control",
    reclaimable: ["total_active_file", "total_inactive_file"],
};

static V2: Layout = Layout {
    limit: "memory.max",
    usage: "memory.current",
    events: "memory.events",
    reclaimable: ["active_file", "inactive_file"],
};

/// v1 writes "no limit" as the highest multiple of a page.
const NO_LIMIT: u64 = 1 << 60;

/// The control groups of this process, its own first. Empty if there are none or they cannot be read: then only
/// Slurm's value is known. `root` is `/` except in tests.
pub(super) fn levels(root: &Path) -> Vec<Level> {
    let Some(own) = find(root) else { return Vec::new() };
    let level = |part: &Path| level(own.layout, &own.top.join(part), part);
    own.below.ancestors().filter_map(level).collect()
}

/// Processes of this task that the kernel has killed for lack of memory; 0 where they are not counted for the task
/// alone.
pub(super) fn oom_kills(root: &Path) -> u64 {
    let Some(own) = find(root).filter(|own| owner(&own.below) == Owner::Step) else { return 0 };
    let events = fs::read_to_string(own.top.join(&own.below).join(own.layout.events)).unwrap_or_default();
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Where this process is.
struct Own {
    layout: &'static Layout,
    /// Where the tree is mounted.
    top: PathBuf,
    /// The process's own group, seen from there.
    below: PathBuf,
}

fn find(root: &Path) -> Option<Own> {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    // Another user may have mounted something in a place whose name is no text.
    let mounts = fs::read(root.join("proc/self/mountinfo")).ok()?;
    let mounts = String::from_utf8_lossy(&mounts);
    // A line is `number:controllers:path`. Hybrid systems have v1 controllers and a v2 tree without any.
    let lines = || membership.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let (layout, path, mount) = match v1 {
        Some((_, path)) => (&V1, path, mount(&mounts, "cgroup", Some("memory"))?),
        None => (&V2, lines().find(|(controllers, _)| controllers.is_empty())?.1, mount(&mounts, "cgroup2", None)?),
    };
    // In a container the mount shows a part of the tree.
    let below = Path::new(path).strip_prefix(&mount.root).unwrap_or(Path::new("")).to_owned();
    Some(Own { layout, top: root.join(mount.point.strip_prefix("/").ok()?), below })
}

struct Mount {
    root: PathBuf,
    point: PathBuf,
}

/// The mount of a file system type, with this word among its options (proc_pid_mountinfo(5)).
fn mount(mounts: &str, kind: &str, option: Option<&str>) -> Option<Mount> {
    mounts.lines().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        let is_kind = what.next() == Some(kind);
        let options = what.nth(1)?;
        let has_option = option.is_none_or(|option| options.split(',').any(|word| word == option));
        let mut place = place.split(' ').skip(3).map(unescape);
        (is_kind && has_option).then_some(Mount { root: place.next()?, point: place.next()? })
    })
}

/// `None` for the root of a tree, which has no limit, and for a group that is not readable.
fn level(layout: &Layout, dir: &Path, below: &Path) -> Option<Level> {
    let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    let usage = number(layout.usage)?;
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let reclaimable: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| layout.reclaimable.contains(name))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum();
    Some(Level {
        name: below.file_name()?.to_string_lossy().into_owned(),
        owner: owner(below),
        // v2 says "max".
        limit_mib: number(layout.limit).filter(|&limit| limit < NO_LIMIT).map(|limit| limit >> 20),
        used_mib: usage.saturating_sub(reclaimable) >> 20,
    })
}

fn owner(below: &Path) -> Owner {
    let has = |prefix: &str| below.iter().any(|name| name.as_bytes().starts_with(prefix.as_bytes()));
    match (has("job_") || is_below_scope(below), has("step_")) {
        (true, true) => Owner::Step,
        (true, false) => Owner::Job,
        (false, _) => Owner::Node,
    }
}

/// Whether a job's group of v2 is on the way: the one below slurmstepd's scope, whatever its name is. Slurm 26.05 no
/// longer calls it `job_J`. `system` is Slurm's own group there.
fn is_below_scope(below: &Path) -> bool {
    let mut names = below.iter().skip_while(|name| !name.as_bytes().ends_with(b"slurmstepd.scope"));
    names.nth(1).is_some_and(|name| name != "system")
}

#[cfg(test)]
mod tests;
