//! The way to a directory of the host: where it really is, and the links that lead there.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

/// Links that may be followed on the way to one; as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The same place without any link.
    pub real: PathBuf,
    /// The links that were followed, each with its own place and its text.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// Follows an absolute path link by link.
///
/// # Errors
/// Something on the way is missing or closed to this process, or there are too many links.
pub(super) fn resolve(path: &Path) -> io::Result<Resolved> {
    let mut real = PathBuf::from("/");
    let mut links = Vec::new();
    let mut left: Vec<PathBuf> = parts(path);
    while let Some(part) = left.pop() {
        if part == Path::new("..") {
            real.pop();
            continue;
        }
        let next = real.join(part);
        if !fs::symlink_metadata(&next)?.is_symlink() {
            real = next;
            continue;
        }
        if links.len() == MOST_LINKS {
            return Err(Errno::ELOOP.into());
        }
        let text = fs::read_link(&next)?;
        if text.is_absolute() {
            real = PathBuf::from("/");
        }
        left.extend(parts(&text));
        links.push((next, text));
    }
    // The last part may be closed, which only a look into it tells.
    fs::metadata(&real)?;
    Ok(Resolved { real, links })
}

/// The parts of a path, the first last.
fn parts(path: &Path) -> Vec<PathBuf> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

/// Whether this user may list and enter the directory, or read the file.
pub(super) fn may_read(path: &Path, is_dir: bool) -> bool {
    let enter = if is_dir { AccessFlags::X_OK } else { AccessFlags::empty() };
    eaccess(path, AccessFlags::R_OK | enter).is_ok()
}

/// An error in the words of strerror.
pub(super) fn words(error: &io::Error) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.map_or_else(|| error.to_string(), |errno| errno.desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_links_of_a_way_are_found_also_those_of_links() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
        fs::create_dir_all(at("lustre/users/ada/x")).unwrap();
        symlink("lustre/users", at("users")).unwrap();
        symlink(at("users"), at("home")).unwrap();
        symlink("../../../home/ada/./x", at("lustre/users/ada/again")).unwrap();
        let found = resolve(&at("home/ada/again")).unwrap();
        assert_eq!(found.real, at("lustre/users/ada/x"));
        let places: Vec<&PathBuf> = found.links.iter().map(|(place, _)| place).collect();
        let again = at("lustre/users/ada/again");
        assert_eq!(places, [&at("home"), &at("users"), &again, &at("home"), &at("users")]);
        assert_eq!(resolve(&at("lustre")).unwrap(), Resolved { real: at("lustre"), links: vec![] });
    }

    #[test]
    fn what_does_not_lead_anywhere_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        symlink("loop", at("loop")).unwrap();
        symlink("missing", at("dangling")).unwrap();
        assert_eq!(resolve(&at("dangling")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(resolve(&at("loop")).unwrap_err().raw_os_error(), Some(Errno::ELOOP as i32));
    }
}
