//! The kernels of an installed system, and what they can do.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

use super::failure::Failure;

/// The oldest kernel that the agent's C library runs on.
const OLDEST: (u32, u32) = (3, 2);

/// The oldest kernel whose guests are known to answer while memory is plugged. With the virtio-mem of Debian 11 (5.10)
/// they boot and then hang.
const OLDEST_TO_TAKE_MEMORY: (u32, u32) = (6, 1);

/// Without these there is no channel.
const NEEDED: [&str; 2] = ["virtio_pci", "virtio_console"];

/// A kernel that is installed with its modules.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// Modules that can be loaded or are built in, with `_` for `-`.
    modules: HashSet<String>,
    /// Whether its configuration says that it is not for 64-bit programs.
    is_32_bit: bool,
}

/// The newest kernel of the system below `root`: the one that boot loaders start.
///
/// # Errors
/// There is no kernel, or none with its modules.
pub(super) fn newest(root: &Path) -> Result<Kernel, Failure> {
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut kernels: Vec<String> =
        names("boot").iter().filter_map(|name| name.strip_prefix("vmlinuz-")).map(str::to_owned).collect();
    // RHEL's rescue kernel is named after the machine.
    kernels.retain(|release| !release.contains("rescue"));
    kernels.sort_by(|a, b| compare(a, b));
    let Some(release) = kernels.pop() else {
        return Err(
            "the system has no kernel in /boot (a container's root?): it can be used with boot = \"kit\"".to_owned()
        );
    };
    let dir = root.join("lib/modules").join(&release);
    let list = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let modules: HashSet<String> =
        list("modules.dep").lines().chain(list("modules.builtin").lines()).map(name).collect();
    if modules.is_empty() {
        return Err(format!("the system has no modules for its kernel {release} (/lib/modules/{release})"));
    }
    let config = fs::read_to_string(root.join(format!("boot/config-{release}"))).unwrap_or_default();
    let is_32_bit = !config.is_empty() && !config.lines().any(|line| line == "CONFIG_X86_64=y");
    Ok(Kernel { release, modules, is_32_bit })
}

/// `kernel/fs/fuse/virtiofs.ko.xz: kernel/fs/fuse/fuse.ko.xz` is the module `virtiofs`.
fn name(line: &str) -> String {
    let path = line.split(':').next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

impl Kernel {
    /// Whether it has this module, built in or not.
    pub fn has(&self, module: &str) -> bool {
        self.modules.contains(module)
    }

    /// Whether memory can be plugged while it runs.
    pub fn takes_memory(&self) -> bool {
        self.has("virtio_mem") && !self.is_older_than(OLDEST_TO_TAKE_MEMORY)
    }

    fn is_older_than(&self, (major, minor): (u32, u32)) -> bool {
        version(&self.release) < vec![major.into(), minor.into()]
    }

    /// # Errors
    /// Why the agent cannot work on it.
    pub fn fits_agent(&self) -> Result<(), Failure> {
        let release = &self.release;
        let kit = "use boot = \"kit\", which brings a kernel of its own";
        if self.is_older_than(OLDEST) {
            return Err(format!(
                "its kernel {release} is older than {}.{}, which the agent needs: {kit} (append = \"vsyscall=emulate\")",
                OLDEST.0, OLDEST.1
            ));
        }
        if self.is_32_bit {
            return Err(format!("its kernel {release} runs no 64-bit programs, and the agent is one: {kit}"));
        }
        let missing: Vec<&str> = NEEDED.into_iter().filter(|module| !self.has(module)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("its kernel {release} has no {}: {kit}", missing.join(" and no "))),
        }
    }
}

/// The numbers in a release.
fn version(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn compare(a: &str, b: &str) -> Ordering {
    version(a).cmp(&version(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(release: &str, modules: &str, config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("lib/modules").join(release);
        fs::create_dir_all(&lib).unwrap();
        fs::create_dir_all(dir.path().join("boot")).unwrap();
        fs::write(lib.join("modules.dep"), modules).unwrap();
        fs::write(dir.path().join(format!("boot/vmlinuz-{release}")), "").unwrap();
        fs::write(dir.path().join(format!("boot/config-{release}")), config).unwrap();
        dir
    }

    const MODULES: &str = "kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko.xz\n\
                           kernel/drivers/char/virtio_console.ko.xz:\nkernel/fs/fuse/fuse.ko:\n";

    #[test]
    fn the_newest_kernel_counts_and_its_modules_are_known() {
        let dir = system("5.10.0-9-amd64", MODULES, "CONFIG_X86_64=y\n");
        fs::write(dir.path().join("boot/vmlinuz-5.9.0-99-amd64"), "").unwrap();
        fs::write(dir.path().join("boot/vmlinuz-0-rescue-99"), "").unwrap();
        let kernel = newest(dir.path()).unwrap();
        assert_eq!(kernel.release, "5.10.0-9-amd64");
        assert!(kernel.has("fuse") && kernel.has("virtio_console") && !kernel.has("virtio_mem"));
        kernel.fits_agent().unwrap();
    }

    #[test]
    fn memory_is_plugged_into_kernels_that_are_known_to_take_it() {
        let takes = |release| {
            let dir = system(release, &format!("{MODULES}kernel/drivers/virtio/virtio_mem.ko:\n"), "");
            newest(dir.path()).unwrap().takes_memory()
        };
        assert!(takes("6.1.0-9-amd64") && takes("6.12.1") && !takes("5.10.0-9-amd64"));
    }

    #[test]
    fn a_kernel_that_cannot_do_is_refused_by_name() {
        let error = |release, modules, config| {
            let dir = system(release, modules, config);
            newest(dir.path()).and_then(|kernel| kernel.fits_agent()).unwrap_err()
        };
        assert!(error("2.6.32-5-amd64", MODULES, "").contains("2.6.32-5-amd64 is older than 3.2"));
        assert!(error("5.10.0-9-686", MODULES, "CONFIG_X86_32=y\n").contains("64-bit"));
        assert!(error("6.1.0-9", "kernel/x.ko:\n", "").contains("no virtio_pci and no virtio_console"));
        assert!(error("6.1.0-9", "", "").contains("no modules for its kernel"));
        let empty = tempfile::tempdir().unwrap();
        assert!(newest(empty.path()).unwrap_err().contains("boot = \"kit\""));
    }
}
