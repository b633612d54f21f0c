//! Chooses the kernel modules of a kit and puts them into an order in which they can be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::{elf, tool};

/// A module the kit wants, and the word by which the agent asks for it.
struct Wanted {
    group: &'static str,
    module: &'static str,
    /// Nothing starts without it.
    required: bool,
}

const fn need(group: &'static str, module: &'static str) -> Wanted {
    Wanted { group, module, required: true }
}

const fn like(group: &'static str, module: &'static str) -> Wanted {
    Wanted { group, module, required: false }
}

/// In loading order. libcrc32c asks for `crc32c` by a name that only modprobe resolves. So modules that need it get an
/// implementation first: the one for the processor, if it has one, and the plain one.
const WANTED: [Wanted; 22] = [
    need("pci", "virtio_pci"),
    need("mmio", "virtio_mmio"),
    need("base", "virtio_console"),
    need("base", "virtio_blk"),
    need("base", "overlay"),
    need("base", "fuse"),
    like("mem", "virtio_mem"),
    like("net", "virtio_net"),
    like("fs:squashfs", "squashfs"),
    like("fs:ext4", "crc32c_intel"),
    like("fs:erofs", "crc32c_intel"),
    like("fs:xfs", "crc32c_intel"),
    like("fs:btrfs", "crc32c_intel"),
    need("fs:ext4", "crc32c_generic"),
    like("fs:erofs", "crc32c_generic"),
    like("fs:xfs", "crc32c_generic"),
    like("fs:btrfs", "crc32c_generic"),
    need("fs:ext4", "ext4"),
    like("fs:erofs", "erofs"),
    like("fs:xfs", "xfs"),
    like("fs:btrfs", "xxhash_generic"),
    like("fs:btrfs", "btrfs"),
];

/// What every guest loads although it could start without it: [`FOR_PROGRAMS`], and what the site asks for.
const EXTRA: &str = "extra";

/// What programs find on any machine, beside FUSE for AppImage and sshfs: images mounted by root, tunnels.
const FOR_PROGRAMS: [&str; 2] = ["loop", "tun"];

/// The modules of a kit.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// In loading order.
    pub modules: Vec<Module>,
    /// File system types an image may have.
    pub filesystems: Vec<String>,
    /// The modules of the group [`EXTRA`] that exist, also those that are built in.
    pub extra: Vec<String>,
    /// What was wanted but does not exist.
    pub notes: Vec<String>,
}

/// A module as it goes into the kit.
#[derive(Debug)]
pub(super) struct Module {
    pub name: String,
    pub groups: BTreeSet<&'static str>,
    pub content: Vec<u8>,
}

impl Selection {
    /// The list that the agent reads: a line of `groups file` for each module.
    pub fn load_list(&self) -> String {
        let line = |module: &Module| {
            let groups: Vec<_> = module.groups.iter().copied().collect();
            format!("{} {}.ko\n", groups.join(","), module.name)
        };
        self.modules.iter().map(line).collect()
    }
}

/// Selects from the module tree of one kernel (`…/lib/modules/RELEASE`) what guests need, and what the site wants beside
/// that. `package` is named in errors.
pub(super) fn select(tree: &Path, package: &str, by_site: &[String]) -> anyhow::Result<Selection> {
    let index = Index::read(tree)?;
    let mut selection = Selection::default();
    for wanted in &WANTED {
        let found = index.add(wanted.module, wanted.group, &mut selection, 0)?;
        if !found && wanted.required {
            bail!(
                "the kernel of {package} has no {} module; the generic kernel of the distribution has it \
                 (Debian: linux-image-amd64, not the cloud flavour)",
                wanted.module
            );
        }
        let filesystem = wanted.group.strip_prefix("fs:").filter(|kind| *kind == wanted.module);
        match (found, filesystem) {
            (true, Some(kind)) => selection.filesystems.push(kind.to_owned()),
            (false, Some(kind)) => selection.notes.push(format!("no {kind} module: images of that type cannot boot")),
            (false, None) => selection.notes.push(format!("no {} module", wanted.module)),
            (true, None) => {}
        }
    }
    for module in FOR_PROGRAMS {
        match index.add(module, EXTRA, &mut selection, 0)? {
            true => selection.extra.push(module.to_owned()),
            false => selection.notes.push(format!("no {module} module")),
        }
    }
    for module in by_site {
        let name = module.replace('-', "_");
        if !index.add(&name, EXTRA, &mut selection, 0)? {
            bail!(
                "the kernel of {package} has no module '{module}': 'modinfo' and the package's list of files show names"
            );
        }
        if !selection.extra.contains(&name) {
            selection.extra.push(name);
        }
    }
    Ok(selection)
}

/// All modules of a kernel by name.
struct Index {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Index {
    fn read(tree: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        collect(&tree.join("kernel"), &mut files)?;
        let list = tree.join("modules.builtin");
        let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let built_in = text.lines().filter_map(|line| module_name(Path::new(line))).collect();
        Ok(Self { files, built_in })
    }

    /// Adds a module to `group`, its dependencies first. `false`: the kernel has no such module.
    fn add(&self, name: &str, group: &'static str, selection: &mut Selection, depth: usize) -> anyhow::Result<bool> {
        if depth > 32 {
            bail!("the modules around {name} depend on each other in a circle");
        }
        if self.built_in.contains(name) {
            return Ok(true);
        }
        let Some(path) = self.files.get(name) else { return Ok(false) };
        let known = selection.modules.iter().position(|module| module.name == name);
        let depends = match known {
            Some(at) => dependencies(&selection.modules[at].content),
            None => dependencies(&read_module(path)?),
        };
        let depends = depends.with_context(|| format!("{} is no kernel module", path.display()))?;
        for needed in depends {
            if !self.add(&needed, group, selection, depth + 1)? {
                bail!("the module {name} needs {needed}, which its package lacks");
            }
        }
        match selection.modules.iter_mut().find(|module| module.name == name) {
            Some(module) => {
                module.groups.insert(group);
            }
            None => {
                let content = elf::slim_module(&read_module(path)?)
                    .with_context(|| format!("{} is no kernel module", path.display()))?;
                selection.modules.push(Module { name: name.to_owned(), groups: [group].into(), content });
            }
        }
        Ok(true)
    }
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some(name) = module_name(&entry.path()) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// `…/crc32c-intel.ko.xz` is the module crc32c_intel.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, end) = file.split_once(".ko")?;
    matches!(end, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

/// A module's bytes, uncompressed: the agent has no decompressor.
fn read_module(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => tool::filter(Command::new("xz").arg("-dc"), &bytes),
        Some("zst") => tool::filter(Command::new("zstd").arg("-dcq"), &bytes),
        Some("gz") => tool::filter(Command::new("gzip").arg("-dc"), &bytes),
        _ => Ok(bytes),
    }
}

/// Names in a module's own `depends=` line; `None` when this is no module.
fn dependencies(module: &[u8]) -> Option<Vec<String>> {
    let info = elf::section(module, ".modinfo")?;
    let mut lines = info.split(|&byte| byte == 0);
    let depends = lines.find_map(|line| line.strip_prefix(b"depends=")).unwrap_or_default();
    let names = String::from_utf8_lossy(depends);
    Some(names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module tree: name and dependencies of each file.
    fn tree(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kernel/drivers")).unwrap();
        for (file, depends) in modules {
            let info = format!("license=GPL\0depends={depends}\0name=x\0");
            fs::write(dir.path().join("kernel/drivers").join(file), elf::example(&[(".modinfo", info.as_bytes())]))
                .unwrap();
        }
        fs::write(dir.path().join("modules.builtin"), "kernel/fs/overlay.ko\nkernel/lib/crc32c-generic.ko\n").unwrap();
        dir
    }

    const GENERIC: [(&str, &str); 10] = [
        ("virtio.ko", ""),
        ("virtio_ring.ko", "virtio"),
        ("virtio_pci.ko", "virtio,virtio_ring"),
        ("virtio_mmio.ko", "virtio_ring"),
        ("virtio_console.ko", "virtio_ring"),
        ("virtio_blk.ko", "virtio_ring"),
        ("fuse.ko", ""),
        ("crc32c-intel.ko", ""),
        ("ext4.ko", "jbd2"),
        ("jbd2.ko", ""),
    ];

    #[test]
    fn dependencies_come_first_and_belong_to_every_group_that_needs_them() {
        let selection = select(tree(&GENERIC).path(), "linux-image", &[]).unwrap();
        let list = selection.load_list();
        assert!(list.starts_with("base,mmio,pci virtio.ko\nbase,mmio,pci virtio_ring.ko\npci virtio_pci.ko\n"));
        assert!(list.contains("fs:ext4 jbd2.ko\nfs:ext4 ext4.ko\n"), "{list}");
        let crc = "\nfs:btrfs,fs:erofs,fs:ext4,fs:xfs crc32c_intel.ko\n";
        assert!(list.find(crc) < list.find("jbd2") && list.contains(crc), "{list}");
        assert!(!list.contains("overlay"), "built in: {list}");
        assert_eq!(selection.filesystems, ["ext4"]);
        assert!(selection.notes.iter().any(|note| note.contains("xfs")), "{:?}", selection.notes);
    }

    #[test]
    fn a_site_adds_modules_and_learns_of_those_that_do_not_exist() {
        let tree = tree(&[&GENERIC[..], &[("loop.ko", ""), ("dm-mod.ko", "dax"), ("dax.ko", "")]].concat());
        let select = |wanted: &[&str]| {
            select(tree.path(), "linux-image", &wanted.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
        };
        let selection = select(&["dm-mod", "overlay", "loop"]).unwrap();
        assert!(selection.extra.ends_with(&["loop", "dm_mod", "overlay"].map(str::to_owned)), "{:?}", selection.extra);
        assert!(selection.load_list().ends_with("extra loop.ko\nextra dax.ko\nextra dm_mod.ko\n"));
        assert!(selection.notes.iter().any(|note| note == "no tun module"), "{:?}", selection.notes);
        let error = select(&["zfs"]).unwrap_err().to_string();
        assert!(error.contains("linux-image has no module 'zfs'"), "{error}");
    }

    #[test]
    fn a_kernel_without_a_required_module_is_refused_with_a_way_out() {
        let without_fuse: Vec<_> = GENERIC.into_iter().filter(|(file, _)| *file != "fuse.ko").collect();
        let error = select(tree(&without_fuse).path(), "linux-image-cloud-amd64", &[]).unwrap_err().to_string();
        assert!(error.contains("linux-image-cloud-amd64 has no fuse module"), "{error}");
        assert!(error.contains("linux-image-amd64"), "{error}");
    }

    #[test]
    fn compressed_and_dashed_names_are_one_module() {
        assert_eq!(module_name(Path::new("a/crc32c-intel.ko.xz")).as_deref(), Some("crc32c_intel"));
        assert_eq!(module_name(Path::new("a/fuse.ko")).as_deref(), Some("fuse"));
        assert_eq!(module_name(Path::new("a/modules.order")), None);
        assert_eq!(module_name(Path::new("a/x.ko.sig")), None);
    }
}
