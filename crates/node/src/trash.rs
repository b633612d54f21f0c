//! Removing a user's files as root: no link is followed, and no tree is too deep or too large.
//!
//! A user may have made a directory of any depth, may change it while it is removed, and may hold
//! descriptors of it. So a directory is first moved into a directory of root, which removes its name in
//! one step. There each directory is given to root, its files are removed, and its subdirectories are
//! moved up beside it: the work is a list, not a recursion. It ends at a deadline, and the next sweep
//! continues.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::dir::{self, open};
use crate::layout;

/// Root's directory for what is being removed.
#[derive(Debug)]
pub struct Trash {
    dir: PathBuf,
    next: u64,
}

impl Trash {
    /// Opens the one below `parent`, a directory that nobody but root can write to.
    ///
    /// # Errors
    /// When it can be neither found nor made.
    pub fn below(parent: &Path) -> io::Result<Self> {
        let dir = parent.join(layout::TRASH);
        match make(&dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self { dir, next: 0 }),
        }
    }

    /// Moves the directory `path` into the trash; anything else of that name is removed at once. A
    /// symbolic link is not followed.
    ///
    /// # Errors
    /// When it is not there, or lies on another file system.
    pub fn take(&mut self, path: &Path) -> io::Result<()> {
        if !fs::symlink_metadata(path)?.is_dir() {
            return fs::remove_file(path);
        }
        loop {
            let place = self.free_place()?;
            match fs::rename(path, &place) {
                // Another sweep used that name, or removed the whole trash: try another name.
                Err(error) if is_not_empty(&error) => {}
                Err(error) if error.kind() == ErrorKind::NotFound && path.symlink_metadata().is_ok() => {}
                Err(error) => {
                    let _ = fs::remove_dir(&place);
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Removes what is in the trash, also from earlier sweeps, until `deadline`; then the trash directory itself.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub fn empty(&mut self, deadline: Instant) -> io::Result<()> {
        let mut first_error = None;
        // Moving subdirectories up makes new entries, so the list is read again until nothing changes.
        loop {
            let mut changed = false;
            let entries = match fs::read_dir(&self.dir) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                entries => entries?,
            };
            for entry in entries {
                if Instant::now() >= deadline {
                    return Err(ErrorKind::TimedOut.into());
                }
                match self.reduce(&entry?.path(), deadline) {
                    Ok(()) => changed = true,
                    // Another sweep works on it too.
                    Err(error) if error.kind() == ErrorKind::NotFound || is_not_empty(&error) => changed = true,
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
            if !changed {
                break;
            }
        }
        match first_error {
            Some(error) => Err(error),
            None => {
                // Another sweep may have put something in meanwhile, or have removed it already.
                let _ = fs::remove_dir(&self.dir);
                Ok(())
            }
        }
    }

    /// Removes one entry. The subdirectories of a directory are moved up, everything else in it is removed.
    fn reduce(&mut self, path: &Path, deadline: Instant) -> io::Result<()> {
        if !fs::symlink_metadata(path)?.is_dir() {
            return fs::remove_file(path);
        }
        if fs::remove_dir(path).is_ok() {
            return Ok(());
        }
        let opened = open(path)?;
        // After this, a process that still holds a descriptor of it can make nothing new in it.
        if opened.metadata()?.uid() != dir::own_uid()? {
            fchown(&opened, Some(0), Some(0))?;
        }
        opened.set_permissions(Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(inside(&opened))? {
            if Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            let entry = entry?;
            let path = inside(&opened).join(entry.file_name());
            if entry.file_type()?.is_dir() { self.take(&path)? } else { fs::remove_file(&path)? }
        }
        fs::remove_dir(path)
    }

    /// An empty directory that rename replaces, so that two sweeps at the same time never take the same name.
    fn free_place(&mut self) -> io::Result<PathBuf> {
        loop {
            let place = self.dir.join(self.next.to_string());
            self.next += 1;
            match make(&place) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // Another sweep had finished and removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    make(&self.dir).or_else(exists)?;
                }
                other => return other.map(|()| place),
            }
        }
    }
}

/// Makes a directory for root only. Its mode is not changed afterwards, because another sweep may
/// remove it at once; a umask can only remove permissions that root does not need.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Whether a directory was not empty, in the words of any file system: XFS says EEXIST.
fn is_not_empty(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists)
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// A path through the descriptor: it always means this directory, even if its name changes.
pub(crate) fn inside(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn nothing_is_followed_and_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        let precious = root.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "x").unwrap();
        let doomed = root.path().join("doomed");
        fs::create_dir_all(doomed.join("a/b/c")).unwrap();
        fs::write(doomed.join("a/file"), "x").unwrap();
        symlink(&precious, doomed.join("a/b/link")).unwrap();
        symlink("/", doomed.join("root")).unwrap();
        let mut trash = Trash::below(root.path()).unwrap();
        trash.take(&doomed).unwrap();
        assert!(!doomed.exists(), "gone from its name at once");
        trash.empty(soon()).unwrap();
        assert!(precious.join("file").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_tree_deeper_than_any_stack_or_path_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let mut deepest = root.path().join("doomed");
        fs::create_dir(&deepest).unwrap();
        // Built bottom up, as a user would, because no path can be long enough for it.
        for level in 0..1000 {
            let outer = root.path().join(format!("level{level}"));
            fs::create_dir(&outer).unwrap();
            fs::rename(&deepest, outer.join("d")).unwrap();
            deepest = outer;
        }
        let mut trash = Trash::below(root.path()).unwrap();
        trash.take(&deepest).unwrap();
        trash.empty(soon()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_deadline_left_is_removed_by_the_next_sweep() {
        let root = tempfile::tempdir().unwrap();
        let doomed = root.path().join("doomed");
        fs::create_dir_all(doomed.join("a")).unwrap();
        let mut trash = Trash::below(root.path()).unwrap();
        trash.take(&doomed).unwrap();
        assert_eq!(trash.empty(Instant::now()).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(root.path().join(layout::TRASH).exists());
        Trash::below(root.path()).unwrap().empty(soon()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_sweeps_at_once_do_not_disturb_each_other() {
        let root = tempfile::tempdir().unwrap();
        let sweep = |name: &'static str| {
            let root = root.path().to_owned();
            std::thread::spawn(move || {
                for number in 0..50 {
                    let doomed = root.join(format!("{name}{number}"));
                    fs::create_dir_all(doomed.join("a/b")).unwrap();
                    let mut trash = Trash::below(&root).unwrap();
                    trash.take(&doomed).unwrap();
                    trash.empty(soon()).unwrap();
                }
            })
        };
        for thread in [sweep("x"), sweep("y")] {
            thread.join().unwrap();
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
