//! A file that disappears unless it is given its final name: also when the import is killed.
//!
//! Where the file system can, it has no name until then. Elsewhere (NFS) it has one that is removed in time, or
//! swept by the next import of that name.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::linkat;

/// Files of this process that have no final name yet.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A draft.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// It has no name yet, but will have this one for the moment before the final one.
    Unnamed(File, PathBuf),
    /// Its lock says that somebody still works on it.
    Named(Flock<File>),
}

impl Staged {
    /// An empty file beside the final one. What a killed process of the same name left is swept.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn new(dir: &Path, name: &str, what: &str) -> anyhow::Result<Self> {
        sweep(dir, name);
        let path = dir.join(format!(".{name}.{}.{what}.partial", std::process::id()));
        let open = || -> anyhow::Result<Self> {
            if let Some(file) = unnamed(dir)? {
                // A path for children too, as long as this process has it open.
                let by_descriptor = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
                return Ok(Self { path: by_descriptor.into(), held: Held::Unnamed(file, path.clone()) });
            }
            let mut unfinished = unfinished();
            let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
            unfinished.push(path.clone());
            let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
            Ok(Self { path: path.clone(), held: Held::Named(lock) })
        };
        open().with_context(|| format!("the image directory {} cannot be written", dir.display()))
    }

    /// The draft's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final name, complete and on the disk.
    ///
    /// # Errors
    /// When that is not possible; the draft is gone then.
    pub fn publish(self, to: &Path) -> anyhow::Result<()> {
        let mut unfinished = unfinished();
        let publish = || {
            let name = match &self.held {
                Held::Named(file) => {
                    file.sync_all()?;
                    &self.path
                }
                // A link cannot take the place of a file, another name can.
                Held::Unnamed(file, name) => {
                    file.sync_all()?;
                    linkat(AT_FDCWD, &self.path, AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW)?;
                    name
                }
            };
            fs::rename(name, to).inspect_err(|_| _ = fs::remove_file(name))
        };
        publish().with_context(|| to.display().to_string())?;
        unfinished.retain(|path| *path != self.path);
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let mut unfinished = unfinished();
        if unfinished.contains(&self.path) {
            let _ = fs::remove_file(&self.path);
            unfinished.retain(|path| *path != self.path);
        }
    }
}

/// An empty file without a name; `None` where the file system knows no such thing.
fn unnamed(dir: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).mode(0o644).custom_flags(libc::O_TMPFILE).open(dir) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes drafts of this image that nobody holds any more.
fn sweep(dir: &Path, name: &str) {
    for file in fs::read_dir(dir).into_iter().flatten().flatten() {
        let found = file.file_name();
        let is_draft = found.to_str().is_some_and(|text| {
            text.strip_prefix('.').and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.starts_with('.'))
                && text.ends_with(".partial")
        });
        if !is_draft {
            continue;
        }
        let open = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(file.path());
        if open.is_ok_and(|draft| Flock::lock(draft, FlockArg::LockExclusiveNonblock).is_ok()) {
            let _ = fs::remove_file(file.path());
        }
    }
}

/// From now on, a signal that ends this process removes its drafts first. To be called before any thread is started.
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
        // Held until the end, so that nothing is renamed or begun any more.
        let unfinished = unfinished();
        for path in unfinished.iter() {
            let _ = fs::remove_file(path);
        }
        std::process::exit(128 + signal as i32);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_swept_when_nobody_holds_it_and_left_alone_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".a.1.disk.partial"), "of a killed process").unwrap();
        fs::write(dir.path().join(".ab.1.disk.partial"), "of another image").unwrap();
        let first = Staged::new(dir.path(), "a", "disk").unwrap();
        let second = Staged::new(dir.path(), "a", "entry").unwrap();
        assert!(first.path().exists() && !dir.path().join(".a.1.disk.partial").exists());
        drop(second);
        first.publish(&dir.path().join("final")).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".ab.1.disk.partial", "final"]);
    }
}
