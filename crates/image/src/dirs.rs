//! The catalogue's directories: as the configuration has them, and as one user sees them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{bail, ensure};
use nix::unistd::{Group, Uid, User, getegid, getgroups};

/// A person who looks for images.
#[derive(Debug, Clone, Default)]
pub struct Person {
    /// Login name; the user id if there is no name.
    pub name: String,
    /// Home directory in the passwd database.
    pub home: Option<PathBuf>,
    /// The administrator.
    pub is_root: bool,
    pub(super) groups: OnceLock<Vec<String>>,
}

impl Person {
    /// The user of this process. Taken from the kernel and the databases, because a job can put anything into the
    /// environment.
    pub fn of_process() -> Self {
        let uid = Uid::effective();
        let user = User::from_uid(uid).ok().flatten();
        let (name, home) = match user {
            Some(user) => (user.name, Some(user.dir)),
            None => (uid.to_string(), None),
        };
        Self { name, home, is_root: uid.is_root(), groups: OnceLock::new() }
    }

    /// The same with these groups.
    #[cfg(test)]
    pub fn in_groups<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self { groups: OnceLock::from(names.into_iter().map(str::to_owned).collect::<Vec<_>>()), ..self }
    }

    /// Names of all groups, the primary one first. Looked up only when needed: a directory service may take long
    /// to return the name of a large group.
    pub fn groups(&self) -> &[String] {
        self.groups.get_or_init(|| {
            let mut gids = vec![getegid()];
            gids.extend(getgroups().unwrap_or_default());
            let mut seen = BTreeSet::new();
            gids.retain(|gid| seen.insert(gid.as_raw()));
            gids.into_iter().filter_map(|gid| Group::from_gid(gid).ok().flatten()).map(|group| group.name).collect()
        })
    }
}

/// A directory of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDir {
    /// Where it is.
    pub path: PathBuf,
    /// Who fills it. Only the site's directory must exist.
    pub owner: Owner,
}

/// Who fills a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The administrator.
    Site,
    /// One of the user's groups.
    Group,
    /// The user.
    User,
}

impl Owner {
    /// One word for a table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Group => "group",
            Self::User => "user",
        }
    }
}

/// Refuses a pattern of `image_dirs` that cannot be a directory.
///
/// # Errors
/// Names the pattern and what is wrong.
pub fn check_pattern(pattern: &Path) -> anyhow::Result<()> {
    let Some(text) = pattern.to_str() else { return Ok(()) };
    ensure!(
        text.starts_with('/') || text == "~" || text.starts_with("~/"),
        "image_dirs: '{text}' is neither absolute nor below a home ('~/…')"
    );
    for (place, _) in text.match_indices('%') {
        if !text[place + 1..].starts_with(['u', 'g']) {
            bail!("image_dirs: '{text}': only '%u' (the user) and '%g' (each group of the user) are known");
        }
    }
    Ok(())
}

/// The directories that `patterns` mean for `person`, in the same order.
pub fn expand(patterns: &[PathBuf], person: &Person) -> Vec<ImageDir> {
    // A name that is a path would lead to another place.
    let is_plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    let mut dirs = Vec::new();
    for pattern in patterns {
        let Some(text) = pattern.to_str().filter(|text| text.starts_with('~') || text.contains('%')) else {
            dirs.push(ImageDir { path: pattern.clone(), owner: Owner::Site });
            continue;
        };
        let is_users = text.starts_with('~') || text.contains("%u");
        let owner = if is_users { Owner::User } else { Owner::Group };
        let base = match (text.strip_prefix('~'), &person.home) {
            (Some(rest), Some(home)) if home.is_absolute() => format!("{}{rest}", home.display()),
            (Some(_), _) => continue,
            (None, _) => text.to_owned(),
        };
        if base.contains("%u") && !is_plain(&person.name) {
            continue;
        }
        let base = base.replace("%u", &person.name);
        let paths: Vec<String> = match base.contains("%g") {
            true => {
                let groups = person.groups().iter().filter(|group| is_plain(group));
                groups.map(|group| base.replace("%g", group)).collect()
            }
            false => vec![base],
        };
        dirs.extend(paths.into_iter().map(|path| ImageDir { path: path.into(), owner }));
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ada() -> Person {
        let ada = Person { name: "ada".into(), home: Some("/home/ada".into()), ..Person::default() };
        ada.in_groups(["physics", "../etc", "chem"])
    }

    fn expanded(patterns: &[&str], person: &Person) -> Vec<String> {
        let patterns: Vec<PathBuf> = patterns.iter().map(PathBuf::from).collect();
        let word = |dir: ImageDir| format!("{} {}", dir.owner.as_str(), dir.path.display());
        expand(&patterns, person).into_iter().map(word).collect()
    }

    #[test]
    fn directories_keep_the_order_of_the_site() {
        assert_eq!(
            expanded(&["/site", "/proj/%g/images", "~/images", "/scratch/%u/vm", "/last"], &ada()),
            [
                "site /site",
                "group /proj/physics/images",
                "group /proj/chem/images",
                "user /home/ada/images",
                "user /scratch/ada/vm",
                "site /last"
            ]
        );
    }

    #[test]
    fn whoever_has_no_home_or_groups_has_no_such_directories() {
        let nobody = Person { name: "4711".into(), ..Person::default() }.in_groups([]);
        assert_eq!(expanded(&["/site", "~/x", "/g/%g", "/u/%u"], &nobody), ["site /site", "user /u/4711"]);
    }

    #[test]
    fn this_process_is_somebody() {
        let me = Person::of_process();
        assert!(!me.name.is_empty() && !me.groups().is_empty(), "{me:?}");
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for good in ["/a", "~", "~/a", "/p/%g/%u"] {
            check_pattern(Path::new(good)).unwrap();
        }
        for bad in ["a", "~ada/x", "/x/%n", "/x/%", "$HOME/x"] {
            let error = check_pattern(Path::new(bad)).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }
}
