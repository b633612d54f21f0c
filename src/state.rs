//! What runs on this node: one directory per task under the root-owned state directory.
//!
//! The plugin makes the directory (0700, the user's) before the task starts and removes it with
//! whatever is in it when the task is over. The runner only writes a status file into it, for
//! `spank-vm ps`; nothing that matters depends on it. Beside each directory is a record of the task's process
//! ([`crate::process`]): what a killed slurmstepd left is known by it, and swept when the job has left the node.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::process::{Process, RECORD};

const STATUS_FILE: &str = "status.toml";

/// Largest status file that is read: its owner may have written anything.
const STATUS_MAX: u64 = 64 * 1024;

/// What a runner says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Name of the image.
    pub image: String,
    /// Process id of the runner.
    pub runner_pid: u32,
    /// Process ids of its QEMUs.
    pub qemu_pids: Vec<u32>,
    /// Guest memory per VM in MiB.
    pub memory_mib: u64,
    /// Processors per VM.
    pub cpus: u32,
}

/// One running task as found on the node.
#[derive(Debug)]
pub struct Entry {
    /// `JOB.STEP.TASK`.
    pub name: String,
    /// The user's id.
    pub uid: u32,
    /// What the runner says, if it could be read.
    pub status: Option<Status>,
    /// The task's process has ended: this is left over, until the job's epilog or the next start of slurmd.
    pub is_stale: bool,
}

/// Writes `status` into the task's directory, replacing an earlier one as a whole.
///
/// # Errors
/// When the directory is gone or full.
pub fn write_status(dir: &Path, status: &Status) -> io::Result<()> {
    let text = toml::to_string(status).map_err(io::Error::other)?;
    let staged = dir.join(".status");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(staged, dir.join(STATUS_FILE))
}

/// Lists the tasks under `state_dir`. A directory that does not exist holds none.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(state_dir: &Path) -> io::Result<Vec<Entry>> {
    let listing = match std::fs::read_dir(state_dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for item in listing {
        let item = item?;
        // One that just ended is none.
        let Ok(meta) = item.metadata() else { continue };
        let name = item.file_name().to_string_lossy().into_owned();
        if meta.is_dir() && !name.starts_with('.') {
            let is_stale = has_ended(&state_dir.join(format!("{name}{RECORD}")));
            entries.push(Entry { name, uid: meta.uid(), status: read_status(&item.path()), is_stale });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Whether the process of that record is known to have ended.
fn has_ended(record: &Path) -> bool {
    let text = std::fs::read_link(record).ok();
    text.and_then(|text| text.to_str()?.parse::<Process>().ok()).is_some_and(|process| !process.is_alive())
}

fn read_status(dir: &Path) -> Option<Status> {
    // O_NOFOLLOW and O_NONBLOCK: the directory is the user's, the reader may be root.
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(dir.join(STATUS_FILE))
        .ok()?;
    let mut text = String::new();
    file.take(STATUS_MAX).read_to_string(&mut text).ok()?;
    toml::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runner_writes_is_listed_and_nonsense_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let status = Status { image: "tiny".into(), runner_pid: 7, qemu_pids: vec![8, 9], memory_mib: 256, cpus: 1 };
        let [task, odd] = ["12.0.0", "13.0.0"].map(|name| dir.path().join(name));
        std::fs::create_dir(&task).unwrap();
        write_status(&task, &status).unwrap();
        std::fs::create_dir(&odd).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", odd.join(STATUS_FILE)).unwrap();
        let entries = list(dir.path()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].name.as_str(), entries[0].status.as_ref()), ("12.0.0", Some(&status)));
        assert!(entries[1].status.is_none());
        assert!(!entries[0].is_stale && !entries[1].is_stale, "without a record nothing is known");
        let this = Process::this().unwrap().to_string();
        for (name, process) in [("12.0.0", this.clone()), ("13.0.0", this.replacen('-', "0-", 1))] {
            std::os::unix::fs::symlink(process, dir.path().join(format!("{name}{RECORD}"))).unwrap();
        }
        let stale: Vec<_> = list(dir.path()).unwrap().iter().map(|entry| entry.is_stale).collect();
        assert_eq!(stale, [false, true]);
        assert!(list(Path::new("/nonexistent")).unwrap().is_empty());
    }
}
