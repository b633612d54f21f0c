//! Other names of directories in the guest.

use std::path::{Component, Path, PathBuf};

/// Links that are followed in a path of the guest.
const MOST_LINKS: usize = 40;

/// A second name of a directory in the guest, as the host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The name, an absolute path.
    pub path: PathBuf,
    /// The directory; a link's text, so that it may be relative to where the name is.
    pub target: PathBuf,
}

/// Where the guest's path leads, once its other names are made.
pub(super) fn through(aliases: &[Alias], path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let named = aliases.iter().filter(|alias| path.starts_with(&alias.path));
        let Some(Alias { path: name, target }) = named.max_by_key(|alias| depth(&alias.path)) else { break };
        let Ok(rest) = path.strip_prefix(name) else { break };
        let parent = name.parent().unwrap_or(Path::new("/"));
        path = plain(&parent.join(target).join(rest));
    }
    path
}

/// The path without `.` and `..`, which is right where no links are left.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

/// Parts of a path.
pub(super) fn depth(path: &Path) -> usize {
    path.components().count()
}
