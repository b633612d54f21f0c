//! Files that get their name only when they are complete.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::Context;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::linkat;

use crate::unnamed::says_there_are_none;

/// Temporary names of this process's files, until they are published.
static NAMES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn names() -> MutexGuard<'static, Vec<PathBuf>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, when a signal ends this process, its staged files with a name are removed first. Must be
/// called before any thread is started.
///
/// # Errors
/// When the system refuses.
pub fn clean_up_on_signals() -> anyhow::Result<()> {
    let mut ending = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        ending.add(signal);
    }
    ending.thread_block().context("signals")?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Ok(signal) = ending.wait() else { return };
        // The lock is held until the end, so that no file gets a name any more.
        let names = names();
        for path in names.iter() {
            let _ = std::fs::remove_file(path).or_else(|_| std::fs::remove_dir_all(path));
        }
        std::process::exit(128 + signal as i32);
    })?;
    Ok(())
}

/// A name in `dir` that no other file gets: not of this process, and not of one on another host that has the same number.
fn temporary(dir: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    dir.join(format!(".spank-vm.{pid}.{now:x}.{number}.partial"))
}

/// A file that is being written. When it is dropped, nothing is left over.
///
/// Where the file system can, it has no name until it is published, so that not even a killed process
/// leaves it behind (NFS and some others cannot).
#[derive(Debug)]
pub struct Staged {
    file: File,
    /// Its temporary name, if it needs one.
    name: Option<PathBuf>,
}

impl Staged {
    /// An empty file in `dir`, which must be on the file system of its final place.
    ///
    /// # Errors
    /// When `dir` cannot be written.
    pub fn create(dir: &Path) -> io::Result<Self> {
        match OpenOptions::new().read(true).write(true).mode(0o666).custom_flags(libc::O_TMPFILE).open(dir) {
            Ok(file) => Ok(Self { file, name: None }),
            Err(error) if says_there_are_none(&error) => Self::with_name(dir),
            Err(error) => Err(error),
        }
    }

    /// The same where each file has a name.
    fn with_name(dir: &Path) -> io::Result<Self> {
        let name = temporary(dir);
        let mut names = names();
        // A new file: somebody who can write here too may have put a link there.
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o666).open(&name)?;
        names.push(name.clone());
        Ok(Self { file, name: Some(name) })
    }

    /// What it holds.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A path by which this process and its children can open it, as long as it is staged.
    pub fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => name.clone(),
            None => format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into(),
        }
    }

    /// Gives it the name `to`. With `replace`, it replaces any file of that name.
    ///
    /// # Errors
    /// When the name is taken and `replace` is not wanted, or the system refuses.
    pub fn publish(mut self, to: &Path, replace: bool) -> anyhow::Result<()> {
        let named = |path: &Path| linkat(AT_FDCWD, &self.path(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW);
        if !replace {
            return named(to).with_context(|| to.display().to_string());
        }
        if self.name.is_none() {
            // linkat cannot replace a file; rename can. So it gets a temporary name first.
            let meanwhile = temporary(to.parent().unwrap_or(Path::new("")));
            names().push(meanwhile.clone());
            named(&meanwhile).with_context(|| meanwhile.display().to_string())?;
            self.name = Some(meanwhile);
        }
        let from = self.name.take().unwrap_or_default();
        std::fs::rename(&from, to).with_context(|| to.display().to_string()).inspect_err(|_| {
            let _ = std::fs::remove_file(&from);
        })?;
        names().retain(|other| *other != from);
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = std::fs::remove_file(name);
            names().retain(|other| other != name);
        }
    }
}

/// A directory of that name that is removed with everything in it.
#[derive(Debug)]
pub struct StagedDir(PathBuf);

impl StagedDir {
    /// Makes it; its parent must exist.
    ///
    /// # Errors
    /// When it exists already, or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut names = names();
        std::fs::create_dir(path)?;
        names.push(path.to_owned());
        Ok(Self(path.to_owned()))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        names().retain(|other| *other != self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn staged(dir: &Path, text: &str) -> Staged {
        let staged = Staged::create(dir).unwrap();
        std::fs::write(staged.path(), text).unwrap();
        staged.file().write_all(b"").unwrap();
        staged
    }

    #[test]
    fn a_file_appears_complete_and_takes_another_s_place_only_if_asked() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("image.toml");
        drop(staged(dir.path(), "dropped"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        staged(dir.path(), "one").publish(&to, false).unwrap();
        let error = staged(dir.path(), "two").publish(&to, false).unwrap_err();
        assert!(error.to_string().contains("image.toml"), "{error:#}");
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "one");
        staged(dir.path(), "three").publish(&to, true).unwrap();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), "three");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn where_each_file_has_a_name_two_of_them_do_not_get_in_each_other_s_way() {
        let dir = tempfile::tempdir().unwrap();
        let [mut disk, mut entry] = [(); 2].map(|()| Staged::with_name(dir.path()).unwrap());
        disk.file.write_all(b"disk").unwrap();
        entry.file.write_all(b"entry").unwrap();
        let place = |name: &str| dir.path().join(name);
        disk.publish(&place("disk"), true).unwrap();
        entry.publish(&place("entry"), false).unwrap();
        let read = |name: &str| std::fs::read_to_string(place(name)).unwrap();
        assert_eq!((read("disk").as_str(), read("entry").as_str()), ("disk", "entry"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
