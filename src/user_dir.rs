//! A user's directory in a place of root's: `DIR/users/<uid>`, for templates and for copies of images.
//!
//! Made by root in slurmstepd, because only root can make a directory that belongs to one user below one
//! that no user can write to. The same care as for the task's private directory applies.

use super::state_dir::{make, open, secure_parent};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// Makes the directory of `owner` (user and group), mode 0700, and those above it, unless it is there.
///
/// # Errors
/// When a file operation fails, or something is there that others could tamper with. VMs then do without.
pub fn ensure(base: &Path, owner: (u32, u32)) -> io::Result<()> {
    let users = base.join("users");
    let dir = users.join(owner.0.to_string());
    if dir.symlink_metadata().is_ok() {
        return believe(&dir, owner);
    }
    // A package of the site may not have made /var/cache/spank-vm.
    let _ = base.parent().map(|parent| make(parent, 0o755));
    secure_parent(base)?;
    secure_parent(&users)?;
    match make(&dir, 0o700) {
        // Another task of the step was faster; it gives the directory to the same user.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    let made = open(&dir)?;
    made.set_permissions(Permissions::from_mode(0o700))?;
    fchown(&made, Some(owner.0), Some(owner.1))
}

fn believe(dir: &Path, owner: (u32, u32)) -> io::Result<()> {
    let meta = open(dir)?.metadata()?;
    match meta.uid() == owner.0 && meta.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(io::Error::other(format!("{} does not belong to user {} alone", dir.display(), owner.0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn me() -> (u32, u32) {
        let meta = fs::metadata("/proc/self").unwrap();
        (meta.uid(), meta.gid())
    }

    #[test]
    fn the_directory_is_made_once_for_its_user_alone() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("cache/base");
        let owner = if me().0 == 0 { (65534, 65534) } else { me() };
        ensure(&base, owner).unwrap();
        let dir = base.join("users").join(owner.0.to_string());
        let meta = fs::metadata(&dir).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (owner.0, owner.1, 0o700));
        fs::write(dir.join("kept"), "").unwrap();
        ensure(&base, owner).unwrap();
        assert!(dir.join("kept").exists());
    }

    #[test]
    fn a_directory_that_others_can_write_to_or_a_link_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let users = root.path().join("users");
        fs::create_dir(&users).unwrap();
        let dir = users.join(me().0.to_string());
        std::os::unix::fs::symlink("/tmp", &dir).unwrap();
        ensure(root.path(), me()).unwrap_err();
        fs::remove_file(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        assert!(ensure(root.path(), me()).unwrap_err().to_string().contains("alone"));
    }
}
