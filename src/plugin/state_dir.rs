//! The private directory of a task: `STATE_DIR/<job>.<step>.<task>`.
//!
//! Made by root in slurmstepd for the job's user, so the work is done as if that user were hostile:
//! the parent belongs to root and nobody else can write to it, hence no name in it can change under
//! our hands; inside the user's directory nothing is followed.

#![forbid(unsafe_code)]

use super::trash::Trash;
use crate::process::{Process, RECORD};
use crate::spank::Step;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest that slurmstepd waits for a directory to be emptied; the rest is left to a later sweep.
const REMOVAL: Duration = Duration::from_secs(5);

/// The directory of one task.
pub fn path(parent: &Path, job: u32, step: Step, task: u32) -> PathBuf {
    parent.join(format!("{job}.{step}.{task}"))
}

/// Makes the directory, mode 0700, for `owner` (user and group), and its parent if need be; the calling
/// process is recorded as the one that uses it. A leftover of the same name, of a requeued job for
/// instance, is removed first.
///
/// # Errors
/// When a file operation fails, or others than root could tamper with the parent.
pub fn create(path: &Path, owner: (u32, u32)) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    secure_parent(parent)?;
    // The record first: there never is a directory in use without one.
    let process = Process::this()?.to_string();
    let make_both = || symlink(&process, record(path)).and_then(|()| make(path, 0o700));
    if let Err(error) = make_both() {
        if error.kind() != io::ErrorKind::AlreadyExists {
            let _ = fs::remove_file(record(path));
            return Err(error);
        }
        remove(path)?;
        make_both()?;
    }
    let dir = open(path)?;
    // The mode first: it was subject to the umask, and a directory that is given away stays so.
    dir.set_permissions(Permissions::from_mode(0o700))?;
    fchown(&dir, Some(owner.0), Some(owner.1))
}

/// The record of the process that uses the directory.
fn record(path: &Path) -> PathBuf {
    path.with_file_name(format!("{}{RECORD}", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Whether the process that uses the directory still runs.
pub(super) fn is_in_use(path: &Path) -> bool {
    let text = fs::read_link(record(path)).ok();
    text.and_then(|text| text.to_str()?.parse::<Process>().ok()).is_some_and(|process| process.is_alive())
}

/// Removes the directory, all in it and its record; that there is none is fine.
///
/// # Errors
/// When something cannot be removed. The rest is gone nevertheless where possible.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_until(path, Instant::now() + REMOVAL)
}

/// The same with a deadline; it is gone from its name in any case.
pub(super) fn remove_until(path: &Path, deadline: Instant) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(_) => Trash::below(path.parent().ok_or(io::ErrorKind::InvalidInput)?).and_then(|mut trash| {
            trash.take(path)?;
            trash.empty(deadline)
        }),
        Err(error) => Err(error),
    };
    let recorded = fs::remove_file(record(path));
    [removed, recorded].into_iter().try_for_each(unless_gone)
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Makes `parent` if need be, and refuses one that others than root could tamper with.
pub(super) fn secure_parent(parent: &Path) -> io::Result<()> {
    match make(parent, 0o755) {
        Ok(()) => open(parent)?.set_permissions(Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    is_secure(parent)
}

/// Refuses a directory that others than root could tamper with.
pub(super) fn is_secure(dir: &Path) -> io::Result<()> {
    let meta = open(dir)?.metadata()?;
    let own = fs::metadata("/proc/self")?.uid();
    if (meta.uid() != 0 && meta.uid() != own) || meta.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} must belong to root and be writable for nobody else", dir.display()),
        ));
    }
    Ok(())
}

/// Makes a directory; the mode is subject to the umask.
pub(super) fn make(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)
}

/// Opens a directory itself, not what a symbolic link of that name points to.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    fn me() -> (u32, u32) {
        let meta = fs::metadata("/proc/self").unwrap();
        (meta.uid(), meta.gid())
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn steps_have_readable_names() {
        let name = |step| path(Path::new("/run/x"), 7, step, 3).display().to_string();
        assert_eq!(name(Step::Srun(0)), "/run/x/7.0.3");
        assert_eq!(name(Step::Batch), "/run/x/7.batch.3");
        assert_eq!(name(Step::Interactive), "/run/x/7.interactive.3");
    }

    #[test]
    fn the_directory_is_the_user_s_alone_and_its_parent_is_made_too() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state").join("7.0.0");
        let owner = if me().0 == 0 { (65534, 65534) } else { me() };
        create(&dir, owner).unwrap();
        let meta = fs::metadata(&dir).unwrap();
        assert_eq!((meta.uid(), meta.gid(), mode(&dir)), (owner.0, owner.1, 0o700));
        assert_eq!(mode(&root.path().join("state")), 0o755);
    }

    #[test]
    fn a_directory_is_in_use_while_the_process_that_made_it_lives() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("7.0.0");
        assert!(!is_in_use(&dir));
        create(&dir, me()).unwrap();
        assert!(is_in_use(&dir));
        let dead = Process::this().unwrap().to_string().replacen('-', "0-", 1);
        fs::remove_file(record(&dir)).unwrap();
        symlink(dead, record(&dir)).unwrap();
        assert!(!is_in_use(&dir));
        remove(&dir).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_leftover_is_replaced_by_an_empty_directory() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("7.0.0");
        fs::create_dir_all(dir.join("a/b")).unwrap();
        create(&dir, me()).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_the_directory_s_place_is_removed_and_its_target_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("precious");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "x").unwrap();
        let dir = root.path().join("7.0.0");
        symlink(&target, &dir).unwrap();
        create(&dir, me()).unwrap();
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
        let error = create(&parent.join("7.0.0"), me()).unwrap_err().to_string();
        assert!(error.contains("must belong to root"), "{error}");
        fs::set_permissions(&parent, Permissions::from_mode(0o755)).unwrap();
        if me().0 == 0 {
            chown(&parent, Some(65534), None).unwrap();
            create(&parent.join("7.0.0"), me()).unwrap_err();
        }
    }

    #[test]
    fn a_parent_that_is_a_link_is_refused() {
        let root = tempfile::tempdir().unwrap();
        symlink("/tmp", root.path().join("state")).unwrap();
        create(&root.path().join("state/7.0.0"), me()).unwrap_err();
    }
}
