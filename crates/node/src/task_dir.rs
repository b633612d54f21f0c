//! What the node knows about a task: `STATE_DIR/<job>.<step>.<task>/status.toml`.
//!
//! Written by root in slurmstepd, before the task's process becomes the user's. All of it belongs to root
//! and nobody else can write to it. So no name can change while we work, its content can be trusted, and a
//! user cannot fill the file system, which by default is the node's /run.

use std::fmt::Display;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dir::{make_one, make_root};
use crate::status::{STATUS_FILE, Status};

/// A directory without a complete file is still being made, unless it is older than this.
const MAKING: Duration = Duration::from_secs(60);

/// The directory of one task; the step by its number or its name in Slurm.
pub fn path(parent: &Path, job: u32, step: impl Display, task: u32) -> PathBuf {
    parent.join(format!("{job}.{step}.{task}"))
}

/// Makes the directory with `status` in it, and its parent if necessary. A leftover of the same name,
/// for instance of a requeued job, is removed first.
///
/// # Errors
/// When a file operation fails, or somebody other than root could change the parent.
pub fn create(path: &Path, status: &str) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_root(parent).map_err(io::Error::other)?;
    if let Err(error) = make_one(path, 0o755) {
        if error.kind() != io::ErrorKind::AlreadyExists {
            return Err(error);
        }
        remove(path)?;
        make_one(path, 0o755)?;
    }
    let new = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path.join(STATUS_FILE));
    let mut file = new?;
    // The mode above is subject to the umask, which in slurmstepd is anything.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(status.as_bytes())
}

/// Whether the process of the task still runs. After a killed slurmstepd there is a directory without a process.
pub(crate) fn is_in_use(path: &Path) -> bool {
    let text = fs::read_to_string(path.join(STATUS_FILE)).unwrap_or_default();
    match text.parse::<Status>() {
        Ok(status) => status.runner.is_alive(),
        Err(()) => {
            let made = fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok();
            made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age < MAKING)
        }
    }
}

/// Removes the directory and everything in it. It is no error if there is none.
///
/// # Errors
/// When something cannot be removed. The rest is still removed where possible.
pub fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            // Descends by openat with O_NOFOLLOW: a symbolic link is removed, never followed.
            fs::remove_dir_all(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::open;
    use crate::process::Process;
    use std::os::unix::fs::{MetadataExt, chown, symlink};

    fn me() -> u32 {
        fs::metadata("/proc/self").unwrap().uid()
    }

    fn owner(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().uid()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn steps_have_readable_names() {
        assert_eq!(path(Path::new("/run/x"), 7, 0, 3), Path::new("/run/x/7.0.3"));
        assert_eq!(path(Path::new("/run/x"), 7, "batch", 3), Path::new("/run/x/7.batch.3"));
    }

    #[test]
    fn directory_and_file_belong_to_root_and_the_parent_is_made_too() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state").join("7.0.0");
        create(&dir, "vms = 1\n").unwrap();
        let file = dir.join(STATUS_FILE);
        assert_eq!((owner(&dir), mode(&dir), mode(&root.path().join("state"))), (me(), 0o755, 0o755));
        assert_eq!((owner(&file), mode(&file)), (me(), 0o644));
        assert_eq!(fs::read_to_string(file).unwrap(), "vms = 1\n");
    }

    #[test]
    fn a_directory_is_in_use_while_its_process_lives_or_while_it_is_being_made() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("7.0.0");
        let status = Status { image: "tiny".into(), vms: 1, uid: 1, runner: Process::this().unwrap() }.to_string();
        create(&dir, &status).unwrap();
        assert!(is_in_use(&dir));
        create(&dir, &status.replacen('-', "0-", 1)).unwrap();
        assert!(!is_in_use(&dir));
        create(&dir, "vms = 1\n").unwrap();
        assert!(is_in_use(&dir));
        let an_hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        open(&dir).unwrap().set_modified(an_hour_ago).unwrap();
        assert!(!is_in_use(&dir));
    }

    #[test]
    fn a_leftover_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("7.0.0");
        fs::create_dir_all(dir.join("a/b")).unwrap();
        create(&dir, "").unwrap();
        create(&dir, "").unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_the_directory_s_place_is_removed_and_its_target_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("precious");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        let dir = root.path().join("7.0.0");
        symlink(&target, &dir).unwrap();
        create(&dir, "").unwrap();
        assert!(fs::symlink_metadata(&dir).unwrap().is_dir());
        assert!(target.join("file").exists());
    }

    #[test]
    fn removal_never_follows_a_link_and_does_not_mind_that_nothing_is_there() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("precious");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        let dir = root.path().join("7.0.0");
        fs::create_dir(&dir).unwrap();
        symlink(&target, dir.join("link")).unwrap();
        symlink("/", dir.join("root")).unwrap();
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        assert!(!dir.exists() && target.join("file").exists());
    }

    #[test]
    fn a_parent_that_others_can_write_to_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join("state");
        fs::create_dir(&parent).unwrap();
        fs::set_permissions(&parent, Permissions::from_mode(0o777)).unwrap();
        let error = create(&parent.join("7.0.0"), "").unwrap_err().to_string();
        assert!(error.contains("must belong to root"), "{error}");
        fs::set_permissions(&parent, Permissions::from_mode(0o755)).unwrap();
        if me() == 0 {
            chown(&parent, Some(65534), None).unwrap();
            create(&parent.join("7.0.0"), "").unwrap_err();
        }
    }

    #[test]
    fn a_parent_that_is_a_link_is_refused() {
        let root = tempfile::tempdir().unwrap();
        symlink("/tmp", root.path().join("state")).unwrap();
        create(&root.path().join("state/7.0.0"), "").unwrap_err();
    }
}
