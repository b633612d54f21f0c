//! The content of a template: files in a directory, and a manifest that describes them. `node` knows how it is
//! stored on its shelf.
//!
//! Root reads users' templates too, to list and verify them. So nothing in a manifest is used as a path, only the
//! files that every template has are opened, and only as ordinary files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::PathBuf;

use crate::error::{Blame, Context, Fault, RunError, ensure};
use node::shelf::{Shelf, TemplateDir};
use node::text::short;
use serde::{Deserialize, Serialize};

use super::checksum;
use super::key::FORMAT;
use qemu::{Abilities, TemplateFiles, WRITTEN_MOST, Written};

pub const MANIFEST: &str = "template.toml";
pub const RAM: &str = "ram";
pub const STATE: &str = "state";
pub const SCRATCH: &str = "scratch";
/// The pages that its first clone has written. It comes later than the others, and is no part of the template: without it
/// clones are a little slower.
const WRITTEN: &str = "written";
/// The directory behind a share's device while the template is made.
pub const EMPTY: &str = "empty";

/// Longest manifest that is read.
const MANIFEST_MOST: u64 = 64 * 1024;

/// Most characters of a manifest's text that is shown to people.
const TEXT_MOST: usize = 200;

/// Largest file of a template: the memory of the largest machine that is ever kept as one.
const FILE_MOST: u64 = 1 << 40;

/// What a template says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The image's name when it was made.
    pub image: String,
    /// Memory, processors and shares, for people.
    pub hardware: String,
    /// Whether QEMU can clone it without write permission.
    pub read_only: bool,
    /// Whether its machine has no controller for keyboard and mouse. Templates that do not say so have none.
    #[serde(default = "yes")]
    pub without_keyboard: bool,
    /// Milliseconds that making it took.
    pub made_in_ms: u64,
    /// The files' lengths in bytes and checksums of their content.
    pub files: Vec<FileRecord>,
}

fn yes() -> bool {
    true
}

/// One file of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    pub name: String,
    pub bytes: u64,
    pub checksum: String,
}

impl Manifest {
    /// Reads one, and makes its text safe for a terminal.
    ///
    /// # Errors
    /// When it does not have this format.
    fn parse(text: &str) -> Result<Self, RunError> {
        let read: Self = toml::from_str(text).blame(Fault::Node)?;
        ensure!(read.format == FORMAT, Fault::Node, "format {}", read.format);
        Ok(Self { image: short(&read.image, TEXT_MOST), hardware: short(&read.hardware, TEXT_MOST), ..read })
    }

    fn record(&self, name: &str) -> Option<&FileRecord> {
        self.files.iter().find(|record| record.name == name)
    }
}

/// A template that was found complete, with its files open.
#[derive(Debug)]
pub struct Template {
    shelf: Shelf<TemplateDir>,
    name: String,
    /// What it says about itself.
    pub manifest: Manifest,
    ram: File,
    state: File,
    scratch: File,
    written: Option<Written>,
}

impl Template {
    /// Opens the files of the template `dir`, which has this name on a shelf.
    ///
    /// # Errors
    /// A file that is missing, damaged, or could have been put there by somebody else.
    pub fn open(shelf: &Shelf<TemplateDir>, name: &str, dir: &TemplateDir) -> Result<Self, RunError> {
        let open = |file: &str, writable| dir.open_file(file, shelf.owner, writable).with_context(|| file.to_owned());
        let mut text = String::new();
        open(MANIFEST, false)?.take(MANIFEST_MOST).read_to_string(&mut text).context(MANIFEST)?;
        let manifest = Manifest::parse(&text)?;
        // An old QEMU can map memory privately only from a writable file. It gets such a descriptor, but
        // does not write.
        let ram = open(RAM, !manifest.read_only)?;
        let (state, scratch) = (open(STATE, false)?, open(SCRATCH, false)?);
        for (name, file) in [(RAM, &ram), (STATE, &state), (SCRATCH, &scratch)] {
            let found = file.metadata()?.len();
            let recorded = manifest.record(name).map(|record| record.bytes);
            ensure!(recorded == Some(found), Fault::Node, "{name} has {found} bytes and not {recorded:?}");
            ensure!(found <= FILE_MOST, Fault::Node, "{name} has {found} bytes");
        }
        let written = open(WRITTEN, false).ok().and_then(|file| {
            let mut bytes = Vec::new();
            file.take((WRITTEN_MOST * 4) as u64 + 1).read_to_end(&mut bytes).ok()?;
            Written::from_bytes(&bytes)
        });
        Ok(Self { shelf: shelf.clone(), name: name.to_owned(), manifest, ram, state, scratch, written })
    }

    /// Looks at the template of that name on a shelf, without using it.
    ///
    /// # Errors
    /// As [`Template::open`]; also when there is none.
    pub fn look(shelf: &Shelf<TemplateDir>, name: &str) -> Result<Self, RunError> {
        let dir = shelf.look(name)?;
        let dir = dir.ok_or_else(|| RunError::user("it is not there, or not for this user"))?;
        Self::open(shelf, name, &dir)
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        self.shelf.dir.join(&self.name)
    }

    /// An empty directory in it.
    pub fn empty(&self) -> PathBuf {
        self.dir().join(EMPTY)
    }

    /// Removes it. It disappears in one step; VMs that were cloned from it are not affected.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(&self) -> io::Result<()> {
        self.shelf.remove(&self.name)
    }

    /// The memory and device state for one more QEMU.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn files(&self) -> io::Result<TemplateFiles> {
        // A position of its own: QEMU reads the state from where the descriptor stands.
        let state = OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", self.state.as_raw_fd()))?;
        Ok(TemplateFiles { ram: self.ram.try_clone()?, state })
    }

    /// The private disk as the template left it.
    pub fn scratch(&self) -> &File {
        &self.scratch
    }

    /// The pages that its clones write, if that is known.
    pub fn written(&self) -> Option<&Written> {
        self.written.as_ref()
    }

    /// Keeps what its first clone has written, if it is this user's; a function that needs nothing more of this.
    pub fn keeper_of_written(&self) -> Option<impl FnOnce(&Written) -> io::Result<()> + use<>> {
        let is_wanted = self.written.is_none() && self.shelf.owner == nix::unistd::Uid::effective().as_raw();
        let (dir, like) = (self.dir(), self.ram.metadata());
        is_wanted.then_some(move |written: &Written| {
            let like = like?;
            // Another clone may do the same now: either list is as good.
            let draft = dir.join(format!("{WRITTEN}.{}", std::process::id()));
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            let kept = file
                .write_all(&written.to_bytes())
                .and_then(|()| fchown(&file, None, Some(like.gid())))
                .and_then(|()| file.set_permissions(like.permissions()))
                .and_then(|()| fs::rename(&draft, dir.join(WRITTEN)));
            kept.inspect_err(|_| drop(fs::remove_file(&draft)))
        })
    }

    /// What the QEMU that made it was able to.
    pub fn abilities(&self) -> Abilities {
        let Manifest { read_only, without_keyboard, .. } = self.manifest;
        Abilities { read_only_templates: read_only, without_keyboard }
    }

    /// Compares every file with the checksum taken when the template was made.
    ///
    /// # Errors
    /// The first file that differs or cannot be read.
    pub fn verify(&self) -> Result<(), RunError> {
        for (name, file) in [(RAM, &self.ram), (STATE, &self.state), (SCRATCH, &self.scratch)] {
            let expected = self.manifest.record(name).map(|record| record.checksum.as_str());
            let found = checksum::of_file(file).context(name)?;
            ensure!(expected == Some(&found), Fault::Node, "{name} is not what it was when the template was made");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::trust::Readers;
    use std::path::Path;

    /// A template whose manifest says `more` beside what is true.
    fn template(cache: &Path, more: &str, spoil: impl FnOnce(&Path)) -> Result<Template, RunError> {
        let shelf = Shelf::<TemplateDir>::of_user(cache, nix::unistd::Uid::effective().as_raw());
        fs::create_dir_all(&shelf.dir)?;
        let draft = shelf.begin("1b")?;
        let mut text = format!(
            "format = {FORMAT}\nimage = \"tiny\\u001b[2J\\nroot  (site)\"\nhardware = \"h\\u202e\"\nread_only = true\n\
             made_in_ms = 1\n"
        );
        for name in [RAM, STATE, SCRATCH] {
            let path = draft.path().join(name);
            fs::write(&path, name)?;
            let checksum = checksum::of_file(&File::open(path)?)?;
            text += &format!("[[files]]\nname = \"{name}\"\nbytes = {}\nchecksum = \"{checksum}\"\n", name.len());
        }
        fs::write(draft.path().join(MANIFEST), text + more)?;
        spoil(draft.path());
        let dir = draft.publish(Readers::NOBODY)?;
        Template::open(&shelf, "1b", &dir)
    }

    #[test]
    fn a_manifest_names_no_file_that_verify_would_open() {
        let cache = tempfile::tempdir().unwrap();
        let pipe = cache.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let record = |name: &str| format!("[[files]]\nname = \"{name}\"\nbytes = 1\nchecksum = \"0\"\n");
        // A process that opened one of these would wait or read for ever.
        let more = [pipe.to_str().unwrap(), "../../pipe", "/dev/zero"].map(record).concat();
        template(cache.path(), &more, |_| {}).unwrap().verify().unwrap();
    }

    #[test]
    fn a_file_that_is_a_pipe_a_link_or_changed_is_refused_and_nobody_waits() {
        let cache = tempfile::tempdir().unwrap();
        for name in [MANIFEST, RAM, STATE, SCRATCH] {
            let replaced = |with: fn(&Path)| {
                template(cache.path(), "", |draft| {
                    fs::remove_file(draft.join(name)).unwrap();
                    with(&draft.join(name));
                })
            };
            replaced(|path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()))
                .unwrap_err();
            replaced(|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()).unwrap_err();
            replaced(|path| fs::write(path, "of another length").unwrap()).unwrap_err();
        }
        let same_length = template(cache.path(), "", |draft| fs::write(draft.join(RAM), "mar").unwrap());
        let error = same_length.unwrap().verify().unwrap_err().to_string();
        assert!(error.starts_with("ram is not what it was"), "{error}");
    }

    #[test]
    fn a_manifest_without_end_is_not_read_to_its_end() {
        let cache = tempfile::tempdir().unwrap();
        let endless = |draft: &Path| {
            File::options().write(true).open(draft.join(MANIFEST)).unwrap().set_len(1 << 40).unwrap();
        };
        template(cache.path(), "", endless).unwrap_err();
    }

    #[test]
    fn what_the_first_clone_has_written_is_kept_once_and_a_bad_list_is_none() {
        let cache = tempfile::tempdir().unwrap();
        let made = template(cache.path(), "", |_| {}).unwrap();
        assert_eq!(made.written(), None);
        let list = Written::from_bytes(&[1, 0, 0, 0, 5, 0, 0, 0]).unwrap();
        made.keeper_of_written().unwrap()(&list).unwrap();
        let again = || Template::look(&made.shelf, "1b").unwrap();
        assert_eq!(again().written(), Some(&list));
        assert!(again().keeper_of_written().is_none());
        assert_eq!(fs::read_dir(made.dir()).unwrap().count(), 5, "no draft is left");
        again().verify().unwrap();
        fs::write(made.dir().join(WRITTEN), "of another length").unwrap();
        assert_eq!(again().written(), None);
        made.remove().unwrap();
        assert!(made.keeper_of_written().unwrap()(&list).is_err());
    }

    #[test]
    fn what_people_read_of_it_gives_a_terminal_no_orders() {
        let cache = tempfile::tempdir().unwrap();
        let manifest = template(cache.path(), "", |_| {}).unwrap().manifest;
        assert_eq!((manifest.image.as_str(), manifest.hardware.as_str()), ("tiny[2Jroot  (site)", "h"));
    }
}
