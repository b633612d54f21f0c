//! Checks what this node keeps: templates, copies of images, and the state of tasks.

use std::path::Path;

use node::dir::{self, DirError};
use node::shelf::{ImageCopy, Item, Shelf, Stored, TemplateDir};
use node::space::{self, Medium, Space};

use super::finding::Finding;
use runner::config::{Config, Delivery, StartChoice};

/// Where copies of images are kept.
pub fn copies(config: &Config) -> Finding {
    if config.delivery == Delivery::InPlace {
        return Finding::good("delivery = 'in-place': VMs read images where they are".to_owned());
    }
    cache::<ImageCopy>(&config.image_cache_dir(), "VMs read images in place", "spank-vm image fetch")
}

/// Where templates are kept.
pub fn templates(config: &Config) -> Finding {
    if config.start == StartChoice::Boot {
        return Finding::limited("start = 'boot': every VM boots".to_owned());
    }
    cache::<TemplateDir>(&config.template_dir, "VMs boot", "spank-vm template build")
}

/// Where the state of tasks is kept.
pub fn state(config: &Config) -> Finding {
    let dir = &config.state_dir;
    match usable(dir) {
        Ok(true) => Finding::good(dir.display().to_string()),
        Ok(false) => Finding::good(format!("{}: made by the first VM step", dir.display())),
        Err(error) => Finding::bad(error.to_string())
            .remedy("correct what is named: 'state_dir' must be root's, and open for users to pass"),
    }
}

/// Whether the directory exists, and whether users' jobs can work with it.
fn usable(dir: &Path) -> Result<bool, DirError> {
    match dir::check_owned(dir, 0) {
        Err(error) if error.is_not_found() => {
            let there = dir.ancestors().find(|dir| dir.symlink_metadata().is_ok());
            dir::check_reachable(there.unwrap_or(Path::new("/"))).map(|()| false)
        }
        Err(error) => Err(error),
        Ok(()) => dir::check_reachable(dir).map(|()| true),
    }
}

/// A cache of this kind. `otherwise` says what VMs do without the cache; `by_root` is the command that fills the site's
/// shelf.
fn cache<I: Item>(dir: &Path, otherwise: &str, by_root: &str) -> Finding {
    match usable(dir) {
        Ok(true) => {}
        Ok(false) => return Finding::good(format!("{}: made by the first VM step", dir.display())),
        Err(error) => return Finding::limited(format!("{error}; {otherwise} until then")),
    }
    let (opened, space) = match (dir::open(dir).and_then(|dir| space::medium(&dir)), Space::of(dir, dir)) {
        (Ok(medium), Ok(space)) => (medium, space),
        (Err(error), _) | (_, Err(error)) => {
            return Finding::limited(format!("{}: {error}; {otherwise}", dir.display()));
        }
    };
    let items: Vec<Stored> = Shelf::<I>::all(dir).iter().flat_map(Shelf::list).collect();
    let mib = |bytes: u64| bytes >> 20;
    let text = format!(
        "{}: {} that this user can see, with {} MiB; all may take {} MiB, {} MiB are free",
        dir.display(),
        items.len(),
        mib(items.iter().map(|item| item.bytes).sum()),
        mib(space.budget()),
        mib(space.free)
    );
    if opened == Medium::Memory {
        return Finding::limited(format!(
            "{text}; it is in the node's memory, which would be charged to jobs: users' keep nothing there and {otherwise}. \
             What root makes serves everybody: '{by_root}'"
        ));
    }
    if space.usable() == 0 {
        let reserve = mib(space.reserve());
        return Finding::limited(format!("{text}, and {reserve} MiB stay free: nothing more is kept, {otherwise}"));
    }
    Finding::good(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::State;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn said(finding: Finding) -> (bool, String) {
        (finding.state == State::Ok, finding.found)
    }

    #[test]
    fn a_directory_that_lets_no_user_pass_is_named_also_while_the_cache_is_not_there() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let parent = root.path().join("spank-vm");
        let look = || said(cache::<TemplateDir>(&parent.join("templates"), "VMs boot", "build"));
        assert!(look().0);
        fs::create_dir(&parent).unwrap();
        for mode in [0o700, 0o755] {
            fs::set_permissions(&parent, fs::Permissions::from_mode(mode)).unwrap();
            let (good, text) = look();
            assert_eq!(good, mode == 0o755, "{text}");
            assert!(good || text.contains(&format!("'chmod 755 {}' opens it; VMs boot until then", parent.display())));
        }
        fs::create_dir(parent.join("templates")).unwrap();
        fs::set_permissions(parent.join("templates"), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!look().0);
    }

    #[test]
    fn a_cache_in_memory_is_told_in_one_line() {
        let memory = tempfile::tempdir_in("/dev/shm").unwrap();
        fs::set_permissions(memory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (good, text) = said(cache::<TemplateDir>(memory.path(), "VMs boot", "spank-vm template build"));
        assert!(!good && !text.contains('\n'), "{text}");
        // An ordinary user's directory is no site's cache in the first place.
        assert_eq!(text.contains("in the node's memory"), nix::unistd::Uid::effective().is_root(), "{text}");
    }
}
