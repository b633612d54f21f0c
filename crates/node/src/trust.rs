//! Which owners of a file are trusted, and who may read files that root makes from an image.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys;

/// Why something on the node's disk is not trusted or cannot be opened.
#[derive(Debug)]
pub enum Distrust {
    /// It belongs to somebody else.
    Owner {
        /// The owner.
        found: u32,
        /// The only owner that is trusted.
        expected: u32,
    },
    /// Others may write to it.
    Writable {
        /// Its permissions.
        mode: u32,
    },
    /// It is a pipe, a device, a link, or a directory where a file belongs.
    Kind,
    /// A complete file has a seal, and this seal is broken.
    Changed,
    /// The system refuses.
    Io(io::Error),
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner { found, expected } => write!(f, "belongs to user {found} and not to {expected}"),
            Self::Writable { mode } => write!(f, "others may write to it (mode {mode:o})"),
            Self::Kind => f.write_str("is not the kind of file that belongs there"),
            Self::Changed => f.write_str("was written to after it was complete"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Distrust {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Distrust {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Checks that only `owner` can have written the file with this metadata, which was read by descriptor.
///
/// # Errors
/// Who else can have written it.
pub fn believe(meta: &Metadata, owner: u32) -> Result<(), Distrust> {
    if meta.uid() != owner {
        return Err(Distrust::Owner { found: meta.uid(), expected: owner });
    }
    match meta.mode() & 0o022 {
        0 => Ok(()),
        _ => Err(Distrust::Writable { mode: meta.mode() & 0o7777 }),
    }
}

/// The same for a file that must be an ordinary one.
///
/// # Errors
/// What else it is, or who else can have put it there.
pub(crate) fn believe_file(file: &File, owner: u32) -> Result<(), Distrust> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(Distrust::Kind);
    }
    believe(&meta, owner)
}

/// Who may read a file besides its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readers {
    /// This group.
    pub group: Option<u32>,
    /// Everybody.
    pub others: bool,
}

impl Readers {
    /// Nobody else.
    pub const NOBODY: Self = Self { group: None, others: false };

    /// The permissions of a file with these readers that its owner may write.
    pub(crate) fn file_mode(self) -> u32 {
        0o600 | if self.group.is_some() { 0o040 } else { 0 } | if self.others { 0o004 } else { 0 }
    }

    /// The permissions of a directory with such files.
    pub(crate) fn dir_mode(self) -> u32 {
        0o700 | if self.group.is_some() { 0o050 } else { 0 } | if self.others { 0o005 } else { 0 }
    }
}

/// Who can really read `file`, which was opened as `path`: not only its own permissions count, but also those of every
/// directory on the way to it. If that is unknown, the answer is nobody.
pub fn readers(file: &File, path: &Path) -> Readers {
    readers_below(file, path).unwrap_or(Readers::NOBODY)
}

fn readers_below(file: &File, path: &Path) -> io::Result<Readers> {
    let opened = file.metadata()?;
    // Links are followed once; the real place of the file counts.
    let path = fs::canonicalize(path)?;
    let named = fs::symlink_metadata(&path)?;
    if (named.dev(), named.ino()) != (opened.dev(), opened.ino()) {
        // Another file has the name by now, so the path of the old one is unknown.
        return Ok(Readers::NOBODY);
    }
    let gid = opened.gid();
    let mut group = opened.mode() & 0o040 != 0 && !sys::has_acl(&path);
    // A group that is excluded would be among the others of another file, and a list may exclude anybody.
    let mut others = group && opened.mode() & 0o004 != 0;
    for dir in path.ancestors().skip(1) {
        let meta = fs::symlink_metadata(dir)?;
        let group_passes = meta.mode() & 0o010 != 0 && !sys::has_acl(dir);
        let all_pass = group_passes && meta.mode() & 0o001 != 0;
        others &= all_pass;
        group &= all_pass || (meta.gid() == gid && group_passes);
    }
    Ok(Readers { group: group.then_some(gid), others })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A directory for a file of it, and the file; who removes the first removes all.
    fn project() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        chmod(root.path(), 0o755);
        let dir = root.path().join("project");
        fs::create_dir(&dir).unwrap();
        let path = dir.join("disk");
        fs::write(&path, "x").unwrap();
        (root, dir, path)
    }

    #[test]
    fn a_directory_that_is_closed_closes_what_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        chmod(root.path(), 0o755);
        let dir = root.path().join("project");
        fs::create_dir_all(dir.join("inner")).unwrap();
        let path = dir.join("inner/disk");
        fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        let gid = file.metadata().unwrap().gid();
        let seen = |dir_mode, file_mode| {
            chmod(&dir, dir_mode);
            chmod(&path, file_mode);
            let found = readers(&file, &path);
            (found.file_mode(), found.group)
        };
        assert_eq!(seen(0o755, 0o644), (0o644, Some(gid)));
        assert_eq!(seen(0o700, 0o644), (0o600, None), "nobody passes");
        assert_eq!(seen(0o750, 0o644), (0o640, Some(gid)), "the group does");
        assert_eq!(seen(0o711, 0o640), (0o640, Some(gid)), "to pass is enough");
        assert_eq!(seen(0o755, 0o600), (0o600, None));
        assert_eq!(Readers { group: Some(gid), others: false }.dir_mode(), 0o750);
    }

    #[test]
    fn whom_the_original_excludes_cannot_read_what_is_made_from_it() {
        let (_root, dir, path) = project();
        let file = File::open(&path).unwrap();
        // Everybody but a group: its members would be among the others of another file.
        for (dir_mode, file_mode) in [(0o755, 0o604), (0o701, 0o644)] {
            chmod(&dir, dir_mode);
            chmod(&path, file_mode);
            assert_eq!(readers(&file, &path), Readers::NOBODY, "{dir_mode:o} {file_mode:o}");
        }
        chmod(&dir, 0o755);
        chmod(&path, 0o644);
        assert!(readers(&file, &path).others);
        // Everybody but a user.
        for place in [&path, &dir] {
            if sys::exclude_somebody(place).is_ok() {
                assert_eq!(readers(&file, &path), Readers::NOBODY, "{}", place.display());
            }
            sys::include_all(place);
        }
    }

    #[test]
    fn a_directory_of_another_group_closes_it_for_the_file_s() {
        let (_root, dir, path) = project();
        chmod(&path, 0o644);
        chmod(&dir, 0o750);
        // Only root can give it to any group.
        let is_another_s = std::os::unix::fs::chown(&dir, None, Some(4242)).is_ok();
        assert_eq!(is_another_s, crate::dir::own_uid().unwrap() == 0);
        let group = Some(dir.metadata().unwrap().gid()).filter(|_| !is_another_s);
        assert_eq!(readers(&File::open(&path).unwrap(), &path), Readers { group, others: false });
    }

    #[test]
    fn a_file_whose_name_another_one_has_by_now_is_nobody_s_to_read() {
        let root = tempfile::tempdir().unwrap();
        chmod(root.path(), 0o755);
        let path = root.path().join("disk");
        fs::write(&path, "x").unwrap();
        chmod(&path, 0o644);
        let file = File::open(&path).unwrap();
        assert!(readers(&file, &path).others);
        fs::write(root.path().join("new"), "y").unwrap();
        fs::rename(root.path().join("new"), &path).unwrap();
        assert_eq!(readers(&file, &path), Readers::NOBODY);
    }

    #[test]
    fn what_others_could_have_written_is_not_believed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "x").unwrap();
        chmod(&path, 0o644);
        let file = File::open(&path).unwrap();
        let owner = file.metadata().unwrap().uid();
        believe_file(&file, owner).unwrap();
        assert!(matches!(believe_file(&file, owner + 1), Err(Distrust::Owner { .. })));
        chmod(&path, 0o664);
        assert!(matches!(believe_file(&file, owner), Err(Distrust::Writable { mode: 0o664 })));
        assert!(matches!(believe_file(&File::open(root.path()).unwrap(), owner), Err(Distrust::Kind)));
    }
}
