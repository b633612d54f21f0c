//! The way to a place in the guest's root: follows links as the kernel does, and has what is missing made.
//!
//! An image's `/home` or `/srv` may be a link to a directory that the image does not have: the mount point of a share
//! must then be made where the link leads.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::error::{AgentError, Doing};

/// Links that may be followed on one way; as many as the kernel follows.
pub(super) const MOST_LINKS: usize = 40;

/// What is found at a step of the way. Links are already followed.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing; whoever is asked must make a directory.
    Missing,
    /// A directory that leads on.
    Directory(Metadata),
    /// The directory at the end of the way.
    End,
}

/// Goes the way to the directory `path` and returns where it really leads. At each directory, `step` is asked to make
/// it if it is missing.
///
/// # Errors
/// Something that is no directory is on the way, too many links, or the error of `step`.
pub(super) fn walk(
    path: &Path,
    step: &mut dyn FnMut(&Path, Found) -> Result<(), AgentError>,
) -> Result<PathBuf, AgentError> {
    let looking = || format!("find the way to {}", path.display());
    let mut here = PathBuf::from("/");
    // What is left of the way, the next part last.
    let mut left: Vec<PathBuf> = parts(path);
    let mut links = 0;
    if let Ok(meta) = fs::symlink_metadata(&here) {
        step(&here, if left.is_empty() { Found::End } else { Found::Directory(meta) })?;
    }
    while let Some(part) = left.pop() {
        if part == Path::new("..") {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        match fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_symlink() => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::ELOOP).doing(looking);
                }
                let target = fs::read_link(&next).doing(looking)?;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                left.extend(parts(&target));
            }
            Ok(meta) if meta.is_dir() => {
                step(&next, if left.is_empty() { Found::End } else { Found::Directory(meta) })?;
                here = next;
            }
            Ok(_) => {
                return Err(AgentError::Unfit(format!("{} is no directory in this image", next.display())));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                step(&next, Found::Missing)?;
                here = next;
            }
            Err(error) => return Err(error).doing(looking),
        }
    }
    Ok(here)
}

/// Makes the directory `path`, with what is missing on the way to it, and returns where it really is.
///
/// # Errors
/// It cannot be made.
pub(super) fn make_directory(path: &Path) -> Result<PathBuf, AgentError> {
    walk(path, &mut |directory, found| match found {
        Found::Missing => fs::create_dir(directory).doing(|| format!("create {}", directory.display())),
        Found::Directory(_) | Found::End => Ok(()),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_way_over_links_that_lead_nowhere_is_made_where_they_lead() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
        symlink("data/homes", at("home")).unwrap();
        symlink(at("other/place"), at("srv")).unwrap();
        symlink("../srv", at("up")).unwrap();
        fs::create_dir(at("sub")).unwrap();
        symlink("../srv/./deep", at("sub/link")).unwrap();
        assert_eq!(make_directory(&at("home/ada")).unwrap(), at("data/homes/ada"));
        assert_eq!(make_directory(&at("sub/link/er")).unwrap(), at("other/place/deep/er"));
        assert!(at("home/ada").is_dir() && at("srv/deep/er").is_dir());
        assert_eq!(make_directory(&at("home/ada")).unwrap(), at("data/homes/ada"), "again, nothing is missing");
    }

    #[test]
    fn a_link_to_itself_and_a_file_on_the_way_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        symlink("home", at("home")).unwrap();
        fs::write(at("file"), "").unwrap();
        let error = make_directory(&at("home/ada")).unwrap_err().to_string();
        assert!(error.contains("home/ada") && error.contains("symbolic links"), "{error}");
        let error = make_directory(&at("file/ada")).unwrap_err().to_string();
        assert!(error.contains("file is no directory"), "{error}");
    }
}
