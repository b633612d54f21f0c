//! The user's own directories: which of them a guest sees, and under which names.

use std::path::{Component, Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, eaccess};

use super::alias::Alias;
use super::resolve::{self, may_read, words};
use crate::error::RunError;
use node::layout::this_node;
use request::breaks_guest;

/// Directories that make up an operating system: the host's must not cover the image's.
const SYSTEM_DIRS: [&str; 14] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr",
    "/var",
];

/// Directories below those that belong to users.
const USERS_DIRS: [&str; 2] = ["/var/tmp", "/run/user"];

/// Longest path in bytes: `PATH_MAX` of Linux without the NUL at its end. A way through many links can be longer.
const PATH_MOST: usize = 4095;

/// Homes of accounts that have none.
const NO_HOMES: [&str; 3] = ["/", "/nonexistent", "/dev/null"];

/// Which directory of the user it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The home directory of the account.
    Home,
    /// Where the job was submitted.
    Submit,
    /// The working directory.
    Work,
    /// Another name of one of them, which counts only if it is that.
    Name,
}

/// A directory of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Which one.
    pub role: Role,
    /// An absolute path; links in it are kept as names.
    pub path: PathBuf,
}

impl Own {
    /// This directory of the user will not be in the guest: an error if a command would write there and lose it.
    ///
    /// # Errors
    /// It is the working directory.
    pub(super) fn lost(&self, why: &str, remedy: &str, warnings: &mut Vec<String>) -> Result<(), RunError> {
        match self.role {
            Role::Work => {
                let dir = self.path.display();
                Err(RunError::user(format!("the working directory {dir} cannot be in the VM: {why}; {remedy}")))
            }
            Role::Home => {
                warnings.push(format!("warning: your home {} is not in the VM: {why}", self.path.display()));
                Ok(())
            }
            Role::Submit | Role::Name => Ok(()),
        }
    }
}

/// A directory of the user that the guest shall see.
#[derive(Debug)]
pub(super) struct Found {
    pub own: Own,
    /// Where it really is.
    pub real: PathBuf,
    links: Vec<(PathBuf, PathBuf)>,
}

/// Looks for a directory of the user; `None` if the guest need not see it: it does not exist, or it is the system's
/// and nothing of the user's can be lost there.
///
/// # Errors
/// The working directory cannot be shown.
pub(super) fn find(own: &Own, others: &[Found], warnings: &mut Vec<String>) -> Result<Option<Found>, RunError> {
    let elsewhere = "start in another directory (--chdir)";
    if !own.path.is_absolute() || own.role == Role::Home && NO_HOMES.iter().any(|none| own.path == Path::new(none)) {
        return Ok(None);
    }
    let place = match resolve::resolve(&own.path) {
        Ok(place) => place,
        Err(error) => {
            let why = format!("{} on {}", words(&error), this_node());
            return own.lost(&why, elsewhere, warnings).map(|()| None);
        }
    };
    let real = &place.real;
    if own.role == Role::Name {
        let is_other = others.iter().any(|other| other.real == *real);
        return Ok(is_other.then(|| Found { own: own.clone(), real: real.clone(), links: place.links }));
    }
    // Root could write anywhere, and a job of root may start anywhere.
    let may_write = !Uid::effective().is_root() && eaccess(real, AccessFlags::W_OK).is_ok();
    if breaks_guest(real) {
        let why = format!("{} is the guest's own, no guest runs without it", real.display());
        return if may_write { own.lost(&why, elsewhere, warnings).map(|()| None) } else { Ok(None) };
    }
    if is_of_system(real) && own.role != Role::Home && !may_write {
        return Ok(None);
    }
    if !real.is_dir() || !may_read(real, true) {
        let why = format!("you may not list and enter it on {}", this_node());
        return own.lost(&why, elsewhere, warnings).map(|()| None);
    }
    Ok(Some(Found { own: own.clone(), real: place.real, links: place.links }))
}

/// All other names that these directories have on the host: the links on the ways to them, and the whole ways, in
/// case the image has no room for a link.
pub(super) fn aliases(found: &[Found]) -> Vec<Alias> {
    let mut aliases: Vec<Alias> = Vec::new();
    for Found { own, real, links } in found {
        let whole = (own.path.components().collect::<PathBuf>(), real.clone());
        let is_plain = whole.0 == *real;
        for (path, target) in links.iter().cloned().chain((!is_plain).then_some(whole)) {
            // These links the image has itself, or it is built in another way.
            let is_known = aliases.iter().any(|alias| alias.path == path);
            // Nobody can name it as a whole there either.
            let is_too_long = path.as_os_str().len() > PATH_MOST;
            let is_plain = !path.components().any(|part| part == Component::ParentDir);
            if !is_known && !is_too_long && is_plain && !breaks_guest(&path) {
                aliases.push(Alias { path, target });
            }
        }
    }
    aliases
}

fn is_of_system(dir: &Path) -> bool {
    let in_one = |dirs: &[&str]| dirs.iter().any(|system| dir.starts_with(system));
    in_one(&SYSTEM_DIRS) && !in_one(&USERS_DIRS)
}
