//! A file that disappears unless it is given its final name: also when the import is killed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};

/// Files of this process that have no final name yet.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A draft. Its lock says that somebody still works on it.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    _lock: Flock<File>,
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
            let mut unfinished = unfinished();
            let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
            unfinished.push(path.clone());
            let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
            Ok(Self { path: path.clone(), _lock: lock })
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
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.path, to))
            .with_context(|| to.display().to_string())?;
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
