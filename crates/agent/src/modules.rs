//! Kernel modules of the kit.
//!
//! `/modules/load` names them in an order in which each one's dependencies come first, every line
//! with the groups that want it: `pci,mmio virtio.ko`. A boot asks for the groups it needs, so a VM without
//! a network card never pays for its driver.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::error::{AgentError, Doing};
use super::kmsg;

const DIRECTORY: &str = "/modules";

/// The modules of the kit and which of them are in the kernel already.
#[derive(Debug)]
pub(super) struct Modules {
    list: Vec<Entry>,
    loaded: HashSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    groups: Vec<String>,
    file: String,
}

impl Modules {
    /// Reads the kit's list.
    pub fn open() -> Result<Self, AgentError> {
        let path = format!("{DIRECTORY}/load");
        let text = std::fs::read_to_string(&path).doing(|| format!("read {path} of the boot kit"))?;
        Ok(Self { list: parse(&text), loaded: HashSet::new() })
    }

    /// Whether the kit has anything for `group`.
    pub fn has(&self, group: &str) -> bool {
        self.list.iter().any(|entry| entry.groups.iter().any(|name| name == group))
    }

    /// Loads the modules of `groups` that are not loaded yet.
    ///
    /// # Errors
    /// The first module that the kernel refuses. One that finds no hardware is not an error.
    pub fn load(&mut self, groups: &[&str]) -> Result<(), AgentError> {
        self.wanted(groups).iter().try_for_each(|file| self.load_one(file))
    }

    /// The same, but a module that the kernel refuses is only a line in the log and hides no other.
    pub fn load_what_works(&mut self, groups: &[&str]) {
        for file in self.wanted(groups) {
            if let Err(error) = self.load_one(&file) {
                kmsg::note(&error.to_string());
            }
        }
    }

    /// Files of the modules of `groups` that are not loaded yet, in order.
    fn wanted(&self, groups: &[&str]) -> Vec<String> {
        let is_in = |entry: &&Entry| entry.groups.iter().any(|name| groups.contains(&name.as_str()));
        let wanted = self.list.iter().filter(is_in).filter(|entry| !self.loaded.contains(&entry.file));
        wanted.map(|entry| entry.file.clone()).collect()
    }

    fn load_one(&mut self, name: &str) -> Result<(), AgentError> {
        let path = Path::new(DIRECTORY).join(name);
        let file = File::open(&path).doing(|| format!("open module {}", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            // ENODEV: a driver of the processor (crc32c-intel) that this processor does not have.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(Errno::ENODEV) => kmsg::note(&format!("module {name}: no such hardware")),
            Err(errno) => return Err(errno).doing(|| format!("load module {name}")),
        }
        self.loaded.insert(name.to_owned());
        Ok(())
    }

    /// Frees the memory of the module files: after the root is switched nobody can reach them.
    pub fn delete_files(self) {
        // A leftover only costs memory.
        let _ = std::fs::remove_dir_all(DIRECTORY);
    }
}

/// Lines of `groups file`; `#` starts a comment.
fn parse(text: &str) -> Vec<Entry> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(groups, file)| Entry {
            groups: groups.split(',').map(str::to_owned).collect(),
            file: file.trim().to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_keeps_its_order_and_knows_its_groups() {
        let list = parse("# format 1\nbase virtio_ring.ko\npci,mmio  virtio.ko # both\n\nnonsense\nfs:ext4 jbd2.ko\n");
        let files: Vec<_> = list.iter().map(|entry| entry.file.as_str()).collect();
        assert_eq!(files, ["virtio_ring.ko", "virtio.ko", "jbd2.ko"]);
        assert_eq!(list[1].groups, ["pci", "mmio"]);
        let modules = Modules { list, loaded: HashSet::new() };
        assert!(modules.has("fs:ext4") && modules.has("mmio"));
        assert_eq!(modules.wanted(&["fs:ext4", "base"]), ["virtio_ring.ko", "jbd2.ko"]);
        assert!(!modules.has("fs:xfs") && !modules.has("virtio.ko"));
    }
}
