//! Templates on this node's disk, and who may believe whom.
//!
//! ```text
//! TEMPLATE_DIR/              root's, made by the plugin or by 'spank-vm template build'
//!   site/KEY/                made by root, used by everybody who may read the image
//!   users/UID/KEY/           made by that user's jobs, used by nobody else (0700)
//!     template.toml  ram  state  scratch  empty/
//! ```
//!
//! A template is a directory that appears under its key in one step, complete, and is only read from
//! then on. It is used through descriptors: removing it harms nobody who has opened it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::key::{FORMAT, Key};
use crate::trust::{believe, make_private};
use qemu::Abilities;
use qemu::TemplateFiles;

pub const MANIFEST: &str = "template.toml";
pub const RAM: &str = "ram";
pub const STATE: &str = "state";
pub const SCRATCH: &str = "scratch";
/// What a share's device shows while the template is made.
pub const EMPTY: &str = "empty";

/// How long a failure to make a template keeps others from trying: a full disk may be tidied up.
const FAILURE_HOLDS: Duration = Duration::from_secs(600);

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
    /// Whether QEMU clones it without being able to write to it.
    pub read_only: bool,
    /// Milliseconds that making it took.
    pub made_in_ms: u64,
    /// The files' lengths in bytes and digests of their content.
    pub files: Vec<FileRecord>,
}

/// One file of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

/// A template that was found complete, with its files open.
#[derive(Debug)]
pub struct Template {
    /// Its directory.
    pub dir: PathBuf,
    /// What it says about itself.
    pub manifest: Manifest,
    ram: File,
    state: File,
    scratch: File,
}

impl Template {
    /// Opens the template in `dir`, which must belong to `owner` with all its files.
    ///
    /// # Errors
    /// What is missing, damaged, or could have been put there by somebody else.
    pub fn open(dir: &Path, owner: Uid) -> anyhow::Result<Self> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(dir)
            .with_context(|| dir.display().to_string())?;
        believe(&opened, owner)?;
        let open = |name: &str, mode: OFlag| -> anyhow::Result<File> {
            let flags = mode | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = File::from(openat(opened.as_fd(), name, flags, Mode::empty()).with_context(|| name.to_owned())?);
            ensure!(file.metadata()?.is_file(), "{name} is no file");
            believe(&file, owner).with_context(|| name.to_owned())?;
            Ok(file)
        };
        let manifest: Manifest = toml::from_str(&io::read_to_string(open(MANIFEST, OFlag::O_RDONLY)?)?)?;
        ensure!(manifest.format == FORMAT, "format {}", manifest.format);
        // A QEMU that maps memory privately only from a file it may write is given such a descriptor, and
        // does not write.
        let ram = open(RAM, if manifest.read_only { OFlag::O_RDONLY } else { OFlag::O_RDWR })?;
        let (state, scratch) = (open(STATE, OFlag::O_RDONLY)?, open(SCRATCH, OFlag::O_RDONLY)?);
        for (name, file) in [(RAM, &ram), (STATE, &state), (SCRATCH, &scratch)] {
            let found = file.metadata()?.len();
            let recorded = manifest.files.iter().find(|record| record.name == name).map(|record| record.bytes);
            ensure!(recorded == Some(found), "{name} has {found} bytes and not {recorded:?}");
        }
        Ok(Self { dir: dir.to_owned(), manifest, ram, state, scratch })
    }

    /// The memory and device state for one more QEMU.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn files(&self) -> io::Result<TemplateFiles> {
        // A position of its own: QEMU reads the state from where the descriptor stands.
        let state = OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", {
            use std::os::fd::AsRawFd;
            self.state.as_raw_fd()
        }))?;
        Ok(TemplateFiles { ram: self.ram.try_clone()?, state })
    }

    /// The private disk as the template left it.
    pub fn scratch(&self) -> &File {
        &self.scratch
    }

    /// What the QEMU that made it was able to.
    pub fn abilities(&self) -> Abilities {
        Abilities { read_only_templates: self.manifest.read_only }
    }

    /// Notes that it was used: the least recently used one makes room for others.
    pub fn touch(&self) {
        let now = TimeSpec::from_duration(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        // Not permitted for a template of the site, which only root removes.
        let _ = utimensat(nix::fcntl::AT_FDCWD, &self.dir, &now, &now, UtimensatFlags::NoFollowSymlink);
    }

    /// Compares every file with the digest taken when the template was made.
    ///
    /// # Errors
    /// The first file that differs or cannot be read.
    pub fn verify(&self) -> anyhow::Result<()> {
        for record in &self.manifest.files {
            let found = super::digest::of_file(&self.dir.join(&record.name)).with_context(|| record.name.clone())?;
            ensure!(found == record.sha256, "{} is not what it was when the template was made", record.name);
        }
        Ok(())
    }
}

/// Who may read the files of a template.
#[derive(Debug, Clone, Copy)]
pub struct FileMode {
    /// Permission bits.
    pub mode: u32,
    /// Group, where it is not the builder's.
    pub group: Option<u32>,
}

/// The site's shelf and those of all users that this process may look into.
pub fn shelves(template_dir: &Path) -> Vec<Shelf> {
    let users = fs::read_dir(template_dir.join("users")).into_iter().flatten().flatten();
    let owners = users.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Uid::from_raw);
    let mut owners: Vec<Uid> = owners.collect();
    owners.sort_by_key(|uid| uid.as_raw());
    let own = owners.into_iter().map(|uid| Shelf::of_user(template_dir, uid));
    [Shelf::of_site(template_dir)].into_iter().chain(own).collect()
}

/// The templates of one owner.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// The directory.
    pub dir: PathBuf,
    /// Whose templates it holds.
    pub owner: Uid,
}

impl Shelf {
    /// The site's templates.
    pub fn of_site(template_dir: &Path) -> Self {
        Self { dir: template_dir.join("site"), owner: Uid::from_raw(0) }
    }

    /// The templates of `user`.
    pub fn of_user(template_dir: &Path, user: Uid) -> Self {
        Self { dir: template_dir.join("users").join(user.to_string()), owner: user }
    }

    /// The template of that key. One that is damaged counts as none, with a line for the administrator.
    pub fn find(&self, key: &Key) -> Option<Template> {
        let dir = self.dir.join(key.as_str());
        fs::symlink_metadata(&dir).ok()?;
        match Template::open(&dir, self.owner) {
            Ok(template) => Some(template),
            Err(error) => {
                tracing::warn!("the template {} is not used: {error:#}", dir.display());
                None
            }
        }
    }

    /// Makes the directory where this process may, and checks that nobody else can write to it.
    ///
    /// # Errors
    /// When it is not there, or not fit to hold what this user will run.
    pub fn prepare(&self, mode: u32) -> anyhow::Result<()> {
        make_private(&self.dir, self.owner, mode)
    }

    /// Where a template of that key is built, empty.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn begin(&self, key: &Key) -> io::Result<PathBuf> {
        let prefix = format!(".{key}.");
        // What a builder left that was killed: its lock is ours now.
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let draft = self.dir.join(format!("{prefix}{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&draft)?;
        DirBuilder::new().mode(0o755).create(draft.join(EMPTY))?;
        Ok(draft)
    }

    /// Gives a finished draft its name.
    ///
    /// # Errors
    /// When the system refuses; the draft is still there.
    pub fn publish(&self, draft: &Path, key: &Key, files: FileMode) -> io::Result<PathBuf> {
        let FileMode { mode, group } = files;
        for name in [MANIFEST, RAM, STATE, SCRATCH] {
            let path = draft.join(name);
            std::os::unix::fs::chown(&path, None, group)?;
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        // Whoever may read the files may enter.
        let search = (mode & 0o444) >> 2;
        std::os::unix::fs::chown(draft, None, group)?;
        fs::set_permissions(draft, Permissions::from_mode(0o700 | (mode & 0o044) | search))?;
        let dir = self.dir.join(key.as_str());
        // A damaged one is in the way.
        let _ = fs::remove_dir_all(&dir);
        fs::rename(draft, &dir)?;
        Ok(dir)
    }

    /// Notes that the template of that key cannot be made, so that not every start tries it in vain.
    pub fn note_failure(&self, key: &Key, why: &str) {
        let _ = fs::write(self.failure_path(key), why);
    }

    /// Why making it failed, if that was a short while ago.
    pub fn recent_failure(&self, key: &Key) -> Option<String> {
        let path = self.failure_path(key);
        let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed().ok()?;
        if age > FAILURE_HOLDS {
            let _ = fs::remove_file(&path);
            return None;
        }
        fs::read_to_string(path).ok()
    }

    fn failure_path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{key}.failed"))
    }

    /// The lock for building the template of that key.
    pub fn lock_path(&self, key: &Key) -> PathBuf {
        self.dir.join(format!("{key}.lock"))
    }

    /// All templates by their directories, the least recently used first, with their use of disk in bytes.
    pub fn list(&self) -> Vec<(PathBuf, u64, SystemTime)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let named = entries.filter(|entry| !entry.file_name().to_string_lossy().contains('.'));
        let mut all: Vec<_> = named
            .filter_map(|entry| {
                let meta = entry.metadata().ok().filter(fs::Metadata::is_dir)?;
                Some((entry.path(), disk_use(&entry.path()), meta.modified().ok()?))
            })
            .collect();
        all.sort_by_key(|(_, _, used)| *used);
        all
    }

    /// Removes the least recently used templates until the rest needs at most `most_bytes`; `keep` stays.
    pub fn evict(&self, most_bytes: u64, keep: Option<&Path>) {
        let all = self.list();
        let mut total: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        for (dir, bytes, _) in all {
            if total <= most_bytes {
                return;
            }
            if Some(dir.as_path()) != keep && remove(&dir).is_ok() {
                tracing::info!("template {} removed: over the limit", dir.display());
                total -= bytes;
            }
        }
    }
}

/// Removes a template. It disappears in one step; who has it open keeps it.
///
/// # Errors
/// When the system refuses.
pub fn remove(dir: &Path) -> io::Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let doomed = dir.with_file_name(format!(".{name}.{}.old", std::process::id()));
    fs::rename(dir, &doomed)?;
    fs::remove_dir_all(doomed)
}

fn disk_use(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}
