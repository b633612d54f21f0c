//! What runs on this node: one directory per task under the root-owned state directory.
//!
//! The plugin makes it as root before the task starts and removes it when the task is over. No user can write to
//! it, so it can be trusted. A leftover of a killed slurmstepd is recognised because its process is gone, and is
//! removed when the job has left the node.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;
use std::time::SystemTime;

use crate::process::Process;

/// Its name in a task's directory.
pub(crate) const STATUS_FILE: &str = "status.toml";

/// Largest status file that is read.
const STATUS_MAX: u64 = 64 * 1024;

/// What the plugin noted about a task. Its text is TOML, one key on each line, so that other tools can read it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Name of the image.
    pub image: String,
    /// VMs asked for.
    pub vms: u32,
    /// The user's id.
    pub uid: u32,
    /// The process of the runner.
    pub runner: Process,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, vms, uid, runner } = self;
        // Without these characters the text needs no escapes. It is for people; nothing is looked up by it.
        let image: String = image.chars().filter(|c| !c.is_control() && !['"', '\\'].contains(c)).collect();
        write!(f, "image = \"{image}\"\nvms = {vms}\nuid = {uid}\nrunner = \"{runner}\"\n")
    }
}

impl FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (mut image, mut vms, mut uid, mut runner) = (None, None, None, None);
        for line in text.lines() {
            let (key, value) = line.split_once(" = ").ok_or(())?;
            let quoted = || value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).ok_or(());
            match key {
                "image" => image = Some(quoted()?.to_owned()),
                "vms" => vms = Some(value.parse().map_err(drop)?),
                "uid" => uid = Some(value.parse().map_err(drop)?),
                "runner" => runner = Some(quoted()?.parse()?),
                // From a newer plugin: tasks may run during an upgrade.
                _ => {}
            }
        }
        Ok(Self { image: image.ok_or(())?, vms: vms.ok_or(())?, uid: uid.ok_or(())?, runner: runner.ok_or(())? })
    }
}

/// One running task as found on the node.
#[derive(Debug)]
pub struct Entry {
    /// `JOB.STEP.TASK`.
    pub name: String,
    /// The noted status; none if the plugin did not make the directory.
    pub status: Option<Status>,
    /// When the plugin made it: the task's begin.
    pub since: Option<SystemTime>,
}

/// The processes of a task's VMs as they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Running {
    /// How many there are.
    pub vms: usize,
    /// Memory in MiB that they use together.
    pub resident_mib: u64,
}

/// Lists the tasks under `state_dir`. If the directory does not exist, there are none.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(state_dir: &Path) -> io::Result<Vec<Entry>> {
    let listing = match fs::read_dir(state_dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for item in listing {
        let item = item?;
        // A task may end meanwhile.
        if item.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = item.file_name().to_string_lossy().into_owned();
            let path = item.path();
            let since = fs::symlink_metadata(path.join(STATUS_FILE)).and_then(|meta| meta.modified()).ok();
            entries.push(Entry { name, status: read_status(&path), since });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn read_status(dir: &Path) -> Option<Status> {
    // Only files of root are trusted, in case the site has made the directory writable for others.
    let mut open = OpenOptions::new();
    open.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file: File = open.open(dir.join(STATUS_FILE)).ok()?;
    let meta = file.metadata().ok()?;
    let parent = fs::symlink_metadata(dir).ok()?;
    if meta.uid() != parent.uid() || meta.mode() & 0o022 != 0 {
        return None;
    }
    let mut text = String::new();
    file.take(STATUS_MAX).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// Name of the process that keeps a VM which several tasks share. It is a child of the task that founded the VM, while that runs.
const KEEPER: &[u8] = b"spank-vm-keeper\n";

/// The children of the task's runner and of the keeper that it has started, if they are the user's processes: all are QEMU, but
/// for those that are this program once more.
pub fn running(status: &Status) -> Running {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let of_user = processes.filter(|process| process.metadata().is_ok_and(|meta| meta.uid() == status.uid));
    let of_user: Vec<_> = of_user.filter_map(|process| Some((parent_of(&process.path())?, process.path()))).collect();
    let children = |parent: u32| of_user.iter().filter(move |(of, _)| *of == parent).map(|(_, process)| process);
    let keepers = children(status.runner.pid).filter(|process| name_of(process) == KEEPER);
    let of_keepers = keepers.filter_map(|keeper| keeper.file_name()?.to_str()?.parse().ok()).flat_map(children);
    let mut running = Running::default();
    for vm in children(status.runner.pid).chain(of_keepers).filter(|process| !name_of(process).starts_with(b"spank-vm"))
    {
        running.vms += 1;
        running.resident_mib += resident_mib(vm).unwrap_or(0);
    }
    running
}

fn name_of(process: &Path) -> Vec<u8> {
    fs::read(process.join("comm")).unwrap_or_default()
}

/// The field after the state in `/proc/PID/stat`; the name before it may hold anything.
fn parent_of(process: &Path) -> Option<u32> {
    let stat = fs::read(process.join("stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn resident_mib(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "image = \"tiny\"\nvms = 2\nuid = 1000\nrunner = \"7-42-boot\"\n";

    #[test]
    fn what_the_plugin_wrote_is_listed_and_nothing_else_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let [task, link, wide] = ["12.0.0", "13.0.0", "14.0.0"].map(|name| dir.path().join(name));
        for dir in [&task, &link, &wide] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(task.join(STATUS_FILE), TEXT).unwrap();
        std::os::unix::fs::symlink(task.join(STATUS_FILE), link.join(STATUS_FILE)).unwrap();
        fs::write(wide.join(STATUS_FILE), TEXT).unwrap();
        fs::set_permissions(wide.join(STATUS_FILE), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let entries = list(dir.path()).unwrap();
        let status = Status { image: "tiny".into(), vms: 2, uid: 1000, runner: "7-42-boot".parse().unwrap() };
        assert_eq!(status.to_string(), TEXT);
        assert_eq!((entries[0].name.as_str(), entries[0].status.as_ref()), ("12.0.0", Some(&status)));
        assert!(entries.len() == 3 && entries[1].status.is_none() && entries[2].status.is_none(), "{entries:?}");
        assert!(list(Path::new("/nonexistent")).unwrap().is_empty());
    }

    #[test]
    fn the_vms_of_a_task_are_the_children_of_its_runner() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let uid = fs::metadata("/proc/self").unwrap().uid();
        let status = Status { image: "x".into(), vms: 1, uid, runner: Process::this().unwrap() };
        let found = running(&status);
        let of_another = running(&Status { uid: uid + 1, ..status });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.vms >= 1, "{found:?}");
        assert_eq!(of_another, Running::default());
    }

    #[test]
    fn a_vm_that_tasks_share_is_counted_for_the_task_that_has_its_keeper() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = dir.path().join("spank-vm-keeper");
        fs::copy("/bin/sh", &keeper).unwrap();
        // The keeper has one child, and its parent another one. Before the keeper has its name it passes for a VM.
        let script = r#"exec 3<&0; "$1" -c 'cat <&3 & echo up; wait' & cat <&3 & wait"#;
        let mut runner = std::process::Command::new("sh");
        let piped = std::process::Stdio::piped;
        let mut runner = runner.args(["-c", script, "sh"]).arg(&keeper).stdin(piped()).stdout(piped()).spawn().unwrap();
        let mut up = [0; 3];
        runner.stdout.take().unwrap().read_exact(&mut up).unwrap();
        let uid = fs::metadata("/proc/self").unwrap().uid();
        let runner_is = format!("{}-1-boot", runner.id()).parse().unwrap();
        let status = Status { image: "x".into(), vms: 1, uid, runner: runner_is };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while running(&status).vms != 2 && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert_eq!(running(&status).vms, 2);
        drop(runner.stdin.take());
        runner.wait().unwrap();
    }
}
