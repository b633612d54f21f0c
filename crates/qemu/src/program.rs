//! Where a site's QEMU is.

use std::path::{Path, PathBuf};

/// What most distributions call it.
pub const NAME: &str = "qemu-system-x86_64";

/// What systems of RHEL's kind call it.
const NAME_OF_RHEL: &str = "qemu-kvm";

/// The job's PATH may be anything, so it is not used.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];

/// The program of this name, or at this path. Where there is none of the usual name, it may have the other one.
pub fn find(qemu: &Path) -> Option<PathBuf> {
    find_in(&DIRECTORIES.map(Path::new), qemu)
}

fn find_in(directories: &[&Path], qemu: &Path) -> Option<PathBuf> {
    if qemu.components().count() > 1 {
        return Some(qemu.to_owned()).filter(|path| path.exists());
    }
    let other_name = (qemu == Path::new(NAME)).then_some(Path::new(NAME_OF_RHEL));
    let names = [qemu].into_iter().chain(other_name);
    names.flat_map(|name| directories.iter().map(move |dir| dir.join(name))).find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_by_its_other_name_too_unless_the_site_says_which() {
        let dir = tempfile::tempdir().unwrap();
        let (bin, libexec) = (dir.path().join("bin"), dir.path().join("libexec"));
        for dir in [&bin, &libexec] {
            std::fs::create_dir(dir).unwrap();
        }
        let found = |name: &str| find_in(&[&bin, &libexec], Path::new(name));
        assert_eq!(found(NAME), None);
        std::fs::write(libexec.join("qemu-kvm"), "").unwrap();
        assert_eq!(found(NAME), Some(libexec.join("qemu-kvm")));
        assert_eq!(found("qemu-kvm"), Some(libexec.join("qemu-kvm")));
        assert_eq!(found("qemu-system-aarch64"), None);
        assert_eq!(found("/nowhere/qemu-system-x86_64"), None);
        std::fs::write(libexec.join(NAME), "").unwrap();
        assert_eq!(found(NAME), Some(libexec.join(NAME)));
    }
}
