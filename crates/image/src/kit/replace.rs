//! Replaces a directory by a finished one in one step.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::MANIFEST;

/// A directory that is being built beside its future place; it is removed unless it is put there.
#[derive(Debug)]
pub(super) struct Draft {
    dir: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Begins a directory that will become `target`.
    ///
    /// # Errors
    /// `target` holds something other than a kit, or its parent cannot be written.
    pub fn begin(target: &Path) -> anyhow::Result<Self> {
        if target.is_dir() && !target.join(MANIFEST).exists() && fs::read_dir(target)?.next().is_some() {
            bail!("{} is not empty and not a boot kit; it is left alone", target.display());
        }
        let name = target.file_name().with_context(|| format!("{} is no name for a kit", target.display()))?;
        let parent = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let dir = parent.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        // A leftover draft of an earlier process with our process id.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { dir, target: target.to_owned() })
    }

    /// Where to build.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the draft visible under its target's name. Processes that have files of an earlier kit open keep them.
    pub fn put_in_place(self) -> anyhow::Result<()> {
        let exchange = renameat2(AT_FDCWD, &self.dir, AT_FDCWD, &self.target, RenameFlags::RENAME_EXCHANGE);
        let moved = match exchange {
            // The old kit now has the draft's name, and is removed with it.
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => fs::rename(&self.dir, &self.target),
            // On a file system that cannot exchange names (NFS) there is a moment without a kit.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                fs::remove_dir_all(&self.target).and_then(|()| fs::rename(&self.dir, &self.target))
            }
            Err(errno) => Err(io::Error::from(errno)),
        };
        moved.with_context(|| format!("cannot put the new kit at {}", self.target.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_replaces_a_kit_whole_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("deep/kit");
        for content in ["old", "new"] {
            let draft = Draft::begin(&target).unwrap();
            fs::write(draft.dir().join(MANIFEST), content).unwrap();
            draft.put_in_place().unwrap();
            assert_eq!(fs::read_to_string(target.join(MANIFEST)).unwrap(), content);
        }
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_abandoned_draft_disappears_and_a_strange_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        drop(Draft::begin(&dir.path().join("kit")).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join("thesis"), "").unwrap();
        let error = Draft::begin(dir.path()).unwrap_err().to_string();
        assert!(error.contains("left alone"), "{error}");
    }
}
