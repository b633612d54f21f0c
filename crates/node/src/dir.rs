//! Making directories and their parents with exactly the right mode, with any umask of the job or of root's shell.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::layout;
use crate::mounts::Mounts;
use crate::text;

/// Why a directory cannot be used, in one line with the remedy.
#[derive(Debug)]
pub enum DirError {
    /// The system refuses.
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put files into it that root or the user would then trust.
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Who must own it: 0 is root.
        owner: u32,
        /// Who owns it.
        found: u32,
        /// Its permissions.
        mode: u32,
    },
    /// Users cannot pass through it to the directories below.
    Closed {
        /// The directory.
        path: PathBuf,
        /// Its permissions, where they can be seen.
        mode: Option<u32>,
    },
}

impl fmt::Display for DirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {}", path.display(), text::reason(source)),
            Self::Unsafe { path, owner, found, mode } => {
                let who = if *owner == 0 { "root".to_owned() } else { format!("user {owner}") };
                write!(
                    f,
                    "{} must belong to {who} and be writable for nobody else (it belongs to user {found}, mode {mode:o})",
                    path.display()
                )
            }
            Self::Closed { path, mode } => {
                let mode = mode.map_or(String::new(), |mode| format!(" (mode {mode:o})"));
                let path = path.display();
                write!(f, "{path} is closed to users{mode}: 'chmod 755 {path}' opens it")
            }
        }
    }
}

impl std::error::Error for DirError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Unsafe { .. } | Self::Closed { .. } => None,
        }
    }
}

impl DirError {
    /// Whether nothing has that name.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> DirError {
    let path = path.to_owned();
    move |source| DirError::Io { path: path.clone(), source }
}

/// Opens a directory itself, not what a symbolic link of that name points to.
///
/// # Errors
/// As open(2).
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

/// Makes a directory of this mode, and those above it with 0755, unless they exist. Existing ones are not changed.
///
/// # Errors
/// The directory that cannot be made.
pub fn make(path: &Path, mode: u32) -> Result<(), DirError> {
    match make_one(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            make(parent.ok_or_else(|| io_error(path)(error))?, 0o755)?;
            make_one(path, mode).or_else(exists).map_err(io_error(path))
        }
        other => other.or_else(exists).map_err(io_error(path)),
    }
}

/// Makes one directory; an existing one is an error.
///
/// # Errors
/// As mkdir(2).
pub fn make_one(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    // By descriptor: the mode above is subject to the umask.
    open(path)?.set_permissions(Permissions::from_mode(mode))
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Makes a directory of root and those above it, mode 0755, and refuses one that others could change.
///
/// # Errors
/// When it cannot be made, or exists and is unsafe.
pub fn make_root(path: &Path) -> Result<(), DirError> {
    make(path, 0o755)?;
    check_root(path)
}

/// Refuses a directory that anybody except root and this process's own user could change.
///
/// # Errors
/// Also when it does not exist.
pub fn check_root(path: &Path) -> Result<(), DirError> {
    let meta = open(path).and_then(|dir| dir.metadata()).map_err(io_error(path))?;
    let own = own_uid().map_err(io_error(path))?;
    let (found, mode) = (meta.uid(), meta.mode() & 0o7777);
    if (found != 0 && found != own) || mode & 0o022 != 0 {
        return Err(DirError::Unsafe { path: path.to_owned(), owner: 0, found, mode });
    }
    Ok(())
}

/// Refuses a directory in which anybody except `owner` could put something.
///
/// # Errors
/// Also when it does not exist or cannot be reached; the text says which directory above is closed.
pub fn check_owned(path: &Path, owner: u32) -> Result<(), DirError> {
    let meta = match open(path).and_then(|dir| dir.metadata()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            check_reachable(path)?;
            return Err(io_error(path)(error));
        }
        other => other.map_err(io_error(path))?,
    };
    let (found, mode) = (meta.uid(), meta.mode() & 0o7777);
    match found == owner && mode & 0o022 == 0 {
        true => Ok(()),
        false => Err(DirError::Unsafe { path: path.to_owned(), owner, found, mode }),
    }
}

/// Whether users can reach the files in `path`: each directory on the way lets others, or a group, pass.
///
/// # Errors
/// The first that does not.
pub fn check_reachable(path: &Path) -> Result<(), DirError> {
    let mut outermost_first: Vec<&Path> = path.ancestors().filter(|dir| !dir.as_os_str().is_empty()).collect();
    outermost_first.reverse();
    for (index, dir) in outermost_first.iter().enumerate() {
        match fs::metadata(dir) {
            Ok(meta) if meta.mode() & 0o011 == 0 => {
                return Err(DirError::Closed { path: (*dir).to_owned(), mode: Some(meta.mode() & 0o7777) });
            }
            Ok(_) => {}
            // It cannot be seen from here, because the one above lets nobody pass.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && index > 0 => {
                let path = outermost_first[index - 1].to_owned();
                let mode = fs::metadata(&path).ok().map(|meta| meta.mode() & 0o7777);
                return Err(DirError::Closed { path, mode });
            }
            Err(error) => return Err(io_error(dir)(error)),
        }
    }
    Ok(())
}

/// Makes the shelf of `owner` (user and group) in a cache directory, mode 0700, and all above it, unless it exists.
/// Only root can: it belongs to one user and is below directories that no user can write to.
///
/// # Errors
/// When something cannot be made, others could change it, or the user could not reach it. VMs then work without it.
pub fn make_user_shelf(cache_dir: &Path, owner: (u32, u32)) -> Result<(), DirError> {
    let dir = layout::user_shelf(cache_dir, owner.0);
    let users = cache_dir.join(layout::USERS);
    match Mounts::now().and_then(|mounts| mounts.none_in(&dir)) {
        // Nothing is there yet, not even what it lies in.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other.map_err(io_error(&dir))?,
    }
    if dir.symlink_metadata().is_err() {
        make_root(cache_dir)?;
        make_root(&users)?;
        // Another task of the step may have made it first.
        make_one(&dir, 0o700).or_else(exists).map_err(io_error(&dir))?;
    }
    give(&dir, owner).map_err(io_error(&dir))?;
    check_owned(&dir, owner.0)?;
    check_reachable(&users)
}

/// Gives a directory that still belongs to root to its user: only root can have made it, just now or before it was
/// killed.
fn give(dir: &Path, owner: (u32, u32)) -> io::Result<()> {
    let dir = open(dir)?;
    match dir.metadata()?.uid() {
        0 if owner.0 != 0 => fchown(&dir, Some(owner.0), Some(owner.1)),
        _ => Ok(()),
    }
}

/// The user that this process acts as.
pub(crate) fn own_uid() -> io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::with_umask;
    use std::os::unix::fs::symlink;

    fn me() -> (u32, u32) {
        let meta = fs::metadata("/proc/self").unwrap();
        (meta.uid(), meta.gid())
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    /// A directory that others may enter, like /var; one from tempfile is closed.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        root
    }

    #[test]
    fn modes_do_not_depend_on_the_umask_and_missing_parents_are_made_too() {
        for umask in [0o077, 0o000] {
            let root = root();
            let cache = root.path().join("var/cache/spank-vm/templates");
            let owner = if me().0 == 0 { (65534, 65534) } else { me() };
            with_umask(umask, || make_user_shelf(&cache, owner)).unwrap();
            let shelf = layout::user_shelf(&cache, owner.0);
            let meta = fs::metadata(&shelf).unwrap();
            assert_eq!((meta.uid(), meta.gid(), mode(&shelf)), (owner.0, owner.1, 0o700));
            for above in shelf.ancestors().skip(1).take_while(|dir| *dir != root.path()) {
                assert_eq!((mode(above), fs::metadata(above).unwrap().uid()), (0o755, me().0), "{}", above.display());
            }
        }
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let root = root();
        let owner = me();
        make_user_shelf(root.path(), owner).unwrap();
        let shelf = layout::user_shelf(root.path(), owner.0);
        fs::write(shelf.join("kept"), "").unwrap();
        make_user_shelf(root.path(), owner).unwrap();
        assert!(shelf.join("kept").exists());
    }

    #[test]
    fn a_shelf_whose_maker_was_killed_before_it_gave_it_away_is_given_away() {
        let root = root();
        let shelf = layout::user_shelf(root.path(), 65532);
        make(&shelf, 0o700).unwrap();
        // Only root can.
        let is_given = make_user_shelf(root.path(), (65532, 65533)).is_ok();
        let meta = fs::metadata(&shelf).unwrap();
        let owner = if me().0 == 0 { (65532, 65533) } else { me() };
        assert_eq!((is_given, meta.uid(), meta.gid()), (me().0 == 0, owner.0, owner.1));
    }

    #[test]
    fn a_shelf_that_others_can_write_to_or_a_link_is_refused() {
        let root = root();
        let users = root.path().join(layout::USERS);
        make(&users, 0o755).unwrap();
        let dir = users.join(me().0.to_string());
        symlink("/tmp", &dir).unwrap();
        make_user_shelf(root.path(), me()).unwrap_err();
        fs::remove_file(&dir).unwrap();
        make(&dir, 0o777).unwrap();
        let error = make_user_shelf(root.path(), me()).unwrap_err().to_string();
        assert!(error.contains("writable for nobody else") && error.contains("mode 777"), "{error}");
    }

    #[test]
    fn a_parent_that_lets_no_user_pass_is_named_with_the_remedy() {
        let root = root();
        let closed = root.path().join("spank-vm");
        make(&closed, 0o700).unwrap();
        let error = make_user_shelf(&closed.join("templates"), me()).unwrap_err().to_string();
        let expected = format!("{0} is closed to users (mode 700): 'chmod 755 {0}' opens it", closed.display());
        assert_eq!(error, expected);
    }

    #[test]
    fn a_link_to_nowhere_in_the_place_of_a_parent_is_an_error_and_no_loop() {
        let root = root();
        symlink("/nonexistent/x", root.path().join("link")).unwrap();
        let error = make(&root.path().join("link/a/b"), 0o755).unwrap_err();
        assert!(error.is_not_found(), "{error}");
    }

    #[test]
    fn a_directory_of_root_s_that_others_can_write_to_is_refused() {
        let root = root();
        let dir = root.path().join("state");
        make(&dir, 0o777).unwrap();
        let error = make_root(&dir).unwrap_err().to_string();
        assert!(error.contains("must belong to root"), "{error}");
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        make_root(&dir).unwrap();
        if me().0 == 0 {
            std::os::unix::fs::chown(&dir, Some(65534), None).unwrap();
            make_root(&dir).unwrap_err();
        }
        symlink("/tmp", root.path().join("link")).unwrap();
        make_root(&root.path().join("link")).unwrap_err();
    }
}
