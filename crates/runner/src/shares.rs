//! Which host directories a guest sees.

use std::path::{Component, Path, PathBuf};

use qemu::Share;
use request::ShareSpec;

/// Directories that make up an operating system: the host's must not cover the image's.
const SYSTEM_DIRS: [&str; 15] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin", "/sys",
    "/usr", "/var",
];

/// Chooses the shares of a task: first those that were asked for and those of the site (for one
/// target, the first wins), then the user's own directories, if no earlier share covers them and
/// they are not part of the operating system.
///
/// `own` is the home directory, the submit directory and the working directory; missing ones are
/// left out, because a bare-metal task would not see them either.
pub fn choose(asked: &[ShareSpec], own: &[PathBuf]) -> Vec<Share> {
    let mut specs: Vec<ShareSpec> = Vec::new();
    for spec in asked.iter().filter(|spec| spec.source.is_dir()) {
        if !specs.iter().any(|earlier| earlier.target == spec.target) {
            specs.push(spec.clone());
        }
    }
    for dir in own {
        if dir.is_dir() && may_be_shared(dir) && !covered(&specs, dir) {
            // A directory replaces the ones below it that came earlier.
            specs.retain(|spec| !(spec.source == spec.target && !spec.read_only && spec.target.starts_with(dir)));
            specs.push(ShareSpec { source: dir.clone(), target: dir.clone(), read_only: false });
        }
    }
    // Parents are mounted before their subdirectories.
    specs.sort_by_key(|spec| spec.target.components().count());
    let share = |(number, spec): (usize, ShareSpec)| Share {
        tag: format!("s{number}"),
        source: spec.source,
        target: spec.target,
        read_only: spec.read_only,
    };
    specs.into_iter().enumerate().map(share).collect()
}

/// Whether the guest sees the host's `path` at the same place through one of these shares.
pub fn visible(shares: &[Share], path: &Path) -> bool {
    shares.iter().any(|share| share.source == share.target && path.starts_with(&share.target))
}

fn covered(specs: &[ShareSpec], dir: &Path) -> bool {
    specs.iter().any(|spec| spec.source == spec.target && dir.starts_with(&spec.target))
}

fn may_be_shared(dir: &Path) -> bool {
    let plain = dir.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // /var/tmp and similar directories belong to users, although /var does not.
    let users_ground = dir.starts_with("/var/tmp") || dir.starts_with("/run/user") || dir.starts_with("/root/");
    let system = SYSTEM_DIRS.iter().any(|system| dir.starts_with(system));
    // root's own home is shared for root's own jobs: it is the user's home then.
    plain && dir != Path::new("/") && (users_ground || !system || dir == Path::new("/root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(shares: &[Share]) -> Vec<&str> {
        shares.iter().map(|share| share.target.to_str().unwrap()).collect()
    }

    #[test]
    fn directories_inside_others_are_shared_once() {
        let home = tempfile::tempdir().unwrap();
        let inner = home.path().join("project");
        std::fs::create_dir(&inner).unwrap();
        let (home, inner) = (home.path().to_owned(), inner);
        for own in [vec![home.clone(), inner.clone()], vec![inner, home.clone()]] {
            assert_eq!(targets(&choose(&[], &own)), [home.to_str().unwrap()]);
        }
    }

    #[test]
    fn the_operating_system_is_never_covered() {
        let own: Vec<PathBuf> =
            ["/", "/usr", "/etc", "/usr/lib", "/proc/self", "/nonexistent", "/tmp/../usr"].map(PathBuf::from).to_vec();
        assert_eq!(choose(&[], &own), []);
    }

    #[test]
    fn site_shares_come_with_their_mode_and_missing_ones_are_left_out() {
        let site = ["/usr:/sw:ro".parse().unwrap(), "/nonexistent".parse().unwrap()];
        let shares = choose(&site, &["/tmp".into()]);
        assert_eq!(targets(&shares), ["/sw", "/tmp"]);
        assert!(shares[0].read_only && !shares[1].read_only);
        assert!(visible(&shares, Path::new("/tmp/x")) && !visible(&shares, Path::new("/sw/x")));
    }
}
