//! Names and usual places: the one list of all names. The table in [`crate`] explains it.

use std::path::{Path, PathBuf};

/// The site's configuration.
pub const DEFAULT_CONFIG: &str = "/etc/slurm/spank-vm.toml";
/// The programs.
pub const DEFAULT_LIBEXEC: &str = "/usr/libexec/spank-vm";
/// Root's directory with one directory per running task.
pub const DEFAULT_STATE_DIR: &str = "/run/spank-vm";
/// Root's directory for templates.
pub const DEFAULT_TEMPLATE_DIR: &str = "/var/cache/spank-vm/templates";
/// Root's directory for copies of images.
pub const DEFAULT_IMAGE_CACHE_DIR: &str = "/var/cache/spank-vm/images";

/// Name of the site's shelf in a cache directory.
pub(crate) const SITE: &str = "site";
/// Name of the directory with the users' shelves.
pub(crate) const USERS: &str = "users";
/// Name of root's directory for what is being removed.
pub(crate) const TRASH: &str = ".swept";

/// The site's shelf in a cache directory.
pub(crate) fn site_shelf(cache_dir: &Path) -> PathBuf {
    cache_dir.join(SITE)
}

/// A user's shelf in a cache directory.
pub fn user_shelf(cache_dir: &Path, uid: u32) -> PathBuf {
    cache_dir.join(USERS).join(uid.to_string())
}

/// The directory with the node's name for every `%n`.
pub fn on_node(dir: &Path, name: &str) -> PathBuf {
    match dir.to_str().filter(|text| text.contains("%n")) {
        Some(text) => text.replace("%n", name).into(),
        None => dir.to_owned(),
    }
}

/// This node's name: the one in Slurm, if it is known and safe as a file name, else the host's own.
pub fn node_name(of_slurm: Option<String>) -> String {
    let is_plain = |name: &String| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    let of_host = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.split(['.', '\n']).next().unwrap_or_default().to_owned()
    };
    of_slurm.filter(is_plain).unwrap_or_else(of_host)
}

/// This node's name in a process of a job, a prolog or an epilog, as Slurm gives it there; else the host's.
pub fn this_node() -> String {
    node_name(std::env::var("SLURMD_NODENAME").ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_out_of_its_directory_is_not_taken() {
        let host = node_name(None);
        assert!(!host.is_empty() && !host.contains(['.', '\n']), "{host}");
        for bad in ["", ".", "..", "a/b", "/"] {
            assert_eq!(node_name(Some(bad.into())), host, "{bad}");
        }
        assert_eq!(node_name(Some("n1".into())), "n1");
    }

    #[test]
    fn the_name_stands_wherever_the_site_wants_it() {
        assert_eq!(on_node(Path::new("/cache-%n/%n"), "n1"), Path::new("/cache-n1/n1"));
        assert_eq!(on_node(Path::new("/cache"), "n1"), Path::new("/cache"));
    }
}
