//! Files that the runner sends along with a task, e.g. Slurm's copy of a batch script.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::error::{AgentError, Doing};

/// The file that FILE-DATA messages belong to.
#[derive(Debug)]
pub(super) struct IncomingFile {
    file: File,
    path: PathBuf,
}

impl IncomingFile {
    /// Creates the file, empty, for `owner` (uid and gid).
    pub fn create(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<Self, AgentError> {
        if !path.is_absolute() {
            return Err(AgentError::Unfit(format!("the file {} has no absolute path", path.display())));
        }
        let what = || format!("create {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).doing(what)?;
        }
        // Closed to others until it has its owner.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).doing(what)?;
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid)).doing(|| format!("give {} to the user", path.display()))?;
        }
        // Not by open(2)'s mode: the agent's umask changes that one, and it does not apply to a file that exists
        // already.
        file.set_permissions(Permissions::from_mode(mode & 0o7777)).doing(what)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Appends the next part.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), AgentError> {
        self.file.write_all(bytes).doing(|| format!("write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_arrives_with_its_mode_in_directories_that_did_not_exist() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spool/job1/script");
        let mut file = IncomingFile::create(&path, 0o100755, None).unwrap();
        file.append(b"#!/bin/sh\n").unwrap();
        file.append(b"true\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"#!/bin/sh\ntrue\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
        IncomingFile::create(&path, 0o600, None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_relative_path_is_refused() {
        assert!(IncomingFile::create(Path::new("x"), 0o600, None).is_err());
    }
}
