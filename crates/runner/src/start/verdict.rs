//! What is known about KVM and about ways to start on this node, kept from one slot to the next.
//!
//! Root's verdict, in the state directory, holds for everybody. The verdict of a user's job holds for that user
//! only, and is kept beside the user's templates: a file of one user must not influence the jobs of another.

use std::cell::OnceCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::Uid;

use crate::config::Config;
use node::{layout, trust};
use qemu::Way;

/// What KVM's verdict is kept under, in either place. No item of a shelf has a dot in its name.
const KVM: &str = "kvm";

/// Longest file that is read.
const LENGTH_MAX: u64 = 4096;

/// If one of these modules is replaced, a verdict is no longer valid.
const MODULES: [&str; 3] = ["kvm", "kvm_intel", "kvm_amd"];

/// What boots have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A guest has answered.
    Works,
    /// A guest did not answer, but then answered without what is judged: emulated, or by another way.
    Broken,
}

impl Verdict {
    const ALL: [Self; 2] = [Self::Works, Self::Broken];

    fn word(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Broken => "broken",
        }
    }
}

/// Where verdicts are kept, and what they hold for.
#[derive(Debug, Clone)]
pub(crate) struct Verdicts {
    /// Directories, each with the only user who may have written there.
    places: Vec<(PathBuf, Uid)>,
    /// The program that a verdict holds for, on this boot of the node with its modules.
    qemu: PathBuf,
    /// Name of the file in each place.
    file: String,
}

impl Verdicts {
    /// The places that this process may trust, for KVM with this QEMU. The last is its own, where it writes.
    pub(crate) fn of(config: &Config, qemu: &Path) -> Self {
        Self::about(KVM, config, qemu)
    }

    /// The same for a way to start.
    pub(crate) fn of_way(config: &Config, way: &Way) -> Self {
        Self::about(way.word(), config, &way.qemu)
    }

    fn about(subject: &str, config: &Config, qemu: &Path) -> Self {
        let me = Uid::effective();
        let mut places = vec![(config.state_dir.clone(), Uid::from_raw(0))];
        if !me.is_root() {
            places.push((layout::user_shelf(&config.template_dir, me.as_raw()), me));
        }
        Self { places, qemu: qemu.to_owned(), file: file(subject) }
    }

    #[cfg(test)]
    pub(crate) fn in_dir(dir: &Path, qemu: &Path) -> Self {
        let places = vec![(dir.to_owned(), Uid::effective())];
        Self { places, qemu: qemu.to_owned(), file: file(KVM) }
    }

    /// The newest verdict that holds now.
    pub(crate) fn recall(&self) -> Option<Verdict> {
        self.newest().map(|(_, verdict)| verdict)
    }

    /// The file with that verdict; the own one if there is none.
    pub(crate) fn found_in(&self) -> PathBuf {
        let own = || self.places.last().map(|(dir, _)| dir.join(&self.file)).unwrap_or_default();
        self.newest().map_or_else(own, |(path, _)| path)
    }

    fn newest(&self) -> Option<(PathBuf, Verdict)> {
        // Asked for only where there is a file: each start pays for it.
        let circumstances = OnceCell::new();
        let hold =
            |rest: &str| circumstances.get_or_init(|| circumstances_of(&self.qemu).ok()).as_deref() == Some(rest);
        let known = self.places.iter().filter_map(|(dir, owner)| {
            let path = dir.join(&self.file);
            let (text, written) = read(&path, *owner)?;
            let (word, rest) = text.split_once(' ')?;
            let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.word() == word)?;
            hold(rest).then_some((written, path, verdict))
        });
        known.max_by_key(|(written, ..)| *written).map(|(_, path, verdict)| (path, verdict))
    }

    /// Keeps it for later slots. If this process cannot write there, the verdict is lost.
    pub(crate) fn remember(&self, verdict: Verdict) {
        if self.recall() == Some(verdict) {
            return;
        }
        if let Err(error) = self.write(verdict) {
            tracing::debug!("the verdict {} is not kept: {error}", self.file);
        }
    }

    fn write(&self, verdict: Verdict) -> io::Result<()> {
        let Some((dir, owner)) = self.places.last() else { return Ok(()) };
        let circumstances = circumstances_of(&self.qemu)?;
        if owner.is_root() {
            // Users' runners read it from there.
            node::dir::make_root(dir).map_err(io::Error::other)?;
        }
        // The file appears complete under its name or not at all, and a link is never followed.
        let draft = dir.join(format!(".{}.{}", self.file, std::process::id()));
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft)?;
        // With any umask of the job.
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(format!("{} {circumstances}", verdict.word()).as_bytes())?;
        fs::rename(&draft, dir.join(&self.file)).inspect_err(|_| {
            let _ = fs::remove_file(&draft);
        })
    }
}

fn file(subject: &str) -> String {
    format!("{subject}.verdict")
}

/// The text and its age, if nobody but `owner` can have written it.
fn read(path: &Path, owner: Uid) -> Option<(String, SystemTime)> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    trust::believe(&meta, owner.as_raw()).ok()?;
    Some((text(&file)?, meta.modified().ok()?))
}

fn text(file: &File) -> Option<String> {
    let mut text = String::new();
    file.take(LENGTH_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// This boot of the node, its modules and this QEMU.
fn circumstances_of(qemu: &Path) -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let meta = fs::metadata(qemu)?;
    let modules = modules_in(Path::new("/sys/module"));
    Ok(format!("{} {modules} {} {} {}\n", boot.trim(), meta.size(), meta.mtime(), qemu.display()))
}

/// Which builds of the modules are loaded. The note of the linker is there on every distribution; `srcversion` is not on Debian.
fn modules_in(dir: &Path) -> String {
    let note = |module: &str| fs::read(dir.join(module).join("notes/.note.gnu.build-id"));
    let identity = |module| note(module).map(|note| note.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    MODULES.map(|module| identity(module).unwrap_or_default()).join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: &str = "/bin/sh";
    const FILE: &str = "kvm.verdict";

    fn verdicts(dir: &Path) -> Verdicts {
        Verdicts::in_dir(dir, Path::new(QEMU))
    }

    #[test]
    fn the_last_verdict_holds_for_this_boot_and_one_qemu() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(verdicts(dir.path()).recall(), None);
        for verdict in [Verdict::Broken, Verdict::Works, Verdict::Works] {
            verdicts(dir.path()).remember(verdict);
            assert_eq!(verdicts(dir.path()).recall(), Some(verdict));
        }
        assert_eq!(Verdicts::in_dir(dir.path(), Path::new("/bin/cat")).recall(), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let path = dir.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("works ", "works 0", 1)).unwrap();
        assert_eq!(verdicts(dir.path()).recall(), None, "another boot's");
        let mut words: Vec<&str> = text.split(' ').collect();
        words[2] = "another,,";
        fs::write(&path, words.join(" ")).unwrap();
        assert_eq!(verdicts(dir.path()).recall(), None, "that of a module that was replaced");
    }

    #[test]
    fn a_module_that_is_replaced_is_another_one_and_one_that_is_not_loaded_is_none() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(modules_in(sys.path()), ",,");
        let notes = sys.path().join("kvm_amd/notes");
        fs::create_dir_all(&notes).unwrap();
        for (build, seen) in [([0xab, 0x01], ",,ab01"), ([0xab, 0x02], ",,ab02")] {
            fs::write(notes.join(".note.gnu.build-id"), build).unwrap();
            assert_eq!(modules_in(sys.path()), seen);
        }
    }

    #[test]
    fn what_others_could_have_written_and_links_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        verdicts(dir.path()).remember(Verdict::Broken);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(verdicts(dir.path()).recall(), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(verdicts(dir.path()).recall(), Some(Verdict::Broken));
        let somebody = Uid::from_raw(Uid::effective().as_raw() + 1);
        let elsewhere = Verdicts { places: vec![(dir.path().to_owned(), somebody)], ..verdicts(dir.path()) };
        assert_eq!(elsewhere.recall(), None);
        fs::rename(&path, dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("other"), &path).unwrap();
        assert_eq!(verdicts(dir.path()).recall(), None);
    }

    #[test]
    fn the_newer_of_the_nodes_and_the_users_own_counts() {
        let (node, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let me = Uid::effective();
        let both = || Verdicts {
            places: vec![(node.path().to_owned(), me), (own.path().to_owned(), me)],
            ..verdicts(node.path())
        };
        both().remember(Verdict::Broken);
        assert_eq!(verdicts(node.path()).recall(), None, "a user writes to the last place alone");
        assert_eq!(both().recall(), Some(Verdict::Broken));
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        verdicts(node.path()).remember(Verdict::Works);
        File::open(node.path().join(FILE)).unwrap().set_modified(later).unwrap();
        assert_eq!(both().recall(), Some(Verdict::Works));
    }
}
