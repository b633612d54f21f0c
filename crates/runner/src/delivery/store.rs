//! Copies of images on this node's disk.
//!
//! ```text
//! IMAGE_CACHE_DIR/           root's, made by the plugin or by 'spank-vm image fetch'
//!   site/SHA256              made by root, readable by whoever may read the image
//!   users/UID/SHA256         made by that user's jobs, used by nobody else (0700)
//! ```
//!
//! A copy appears under its digest in one step, complete, and is never written again: its time of modification is
//! a seal that any later write would break. Its time of access tells when it was last wanted.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc::UTIME_OMIT;
use nix::sys::stat::futimens;
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::Uid;

use super::super::trust::{believe, make_private};

/// Time of modification of every copy, in seconds since 1970: 2001-09-09 01:46:40, which no clock will show again.
const SEAL: i64 = 1_000_000_000;

/// Mode of the site's directory: a copy is found by whoever knows its digest from an entry. So nobody sees the
/// image of a directory that is closed to him.
const SITE_MODE: u32 = 0o711;

/// How long a failure keeps others from trying the same: a full disk may be tidied up.
const FAILURE_HOLDS: Duration = Duration::from_secs(600);

/// The copies of one owner.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// The directory.
    pub dir: PathBuf,
    /// Whose copies it holds.
    pub owner: Uid,
}

/// Why a copy could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The image itself is not to be used.
    pub fatal: bool,
    /// One line.
    pub why: String,
}

impl Shelf {
    /// The site's copies.
    pub fn of_site(cache_dir: &Path) -> Self {
        Self { dir: cache_dir.join("site"), owner: Uid::from_raw(0) }
    }

    /// The copies of `user`.
    pub fn of_user(cache_dir: &Path, user: Uid) -> Self {
        Self { dir: cache_dir.join("users").join(user.to_string()), owner: user }
    }

    /// Where this process makes copies: root for everybody.
    pub fn for_process(cache_dir: &Path) -> Self {
        let me = Uid::effective();
        if me.is_root() { Self::of_site(cache_dir) } else { Self::of_user(cache_dir, me) }
    }

    /// Whether it is the site's.
    pub fn is_site(&self) -> bool {
        self.dir.file_name().is_some_and(|name| name == "site")
    }

    /// Makes the directory where this process may, and checks that nobody else can write to it.
    ///
    /// # Errors
    /// When it is not there, or not fit to hold what this user will run.
    pub fn prepare(&self) -> anyhow::Result<()> {
        make_private(&self.dir, self.owner, if self.is_site() { SITE_MODE } else { 0o700 })
    }

    /// Opens the copy with that digest and notes that it was wanted. Needs no lock. One that somebody wrote to
    /// counts as none, with a line for the administrator.
    pub fn find(&self, digest: &str) -> Option<File> {
        let path = self.dir.join(digest);
        // That it is not there, or not for this user, is nothing to report.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).ok()?;
        let sealed = || -> anyhow::Result<()> {
            let meta = file.metadata()?;
            anyhow::ensure!(meta.is_file(), "is no file");
            anyhow::ensure!((meta.mtime(), meta.mtime_nsec()) == (SEAL, 0), "was written to after it was complete");
            believe(&file, self.owner)
        };
        if let Err(error) = sealed() {
            tracing::warn!("the copy {} is not used: it {error:#}", path.display());
            return None;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Not permitted for a copy of the site, which only root removes.
        let _ = futimens(file.as_fd(), &TimeSpec::from_duration(now), &TimeSpec::new(0, UTIME_OMIT));
        Some(file)
    }

    /// The lock for making the copy with that digest.
    pub fn lock_path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.lock"))
    }

    /// Makes room for so many bytes by removing copies, the least recently wanted first. VMs that run from them keep
    /// their open files.
    ///
    /// # Errors
    /// When there is no room for it at all.
    pub fn make_room(&self, bytes: u64, most_bytes: u64) -> Result<(), String> {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        if bytes > most_bytes {
            return Err(format!("its {} MiB are more than 'image_cache_mib' = {}", mib(bytes), mib(most_bytes)));
        }
        let free = || statvfs(&self.dir).map_or(u64::MAX, |at| at.blocks_available() * at.fragment_size());
        let mut copies = self.list();
        let mut total: u64 = copies.iter().map(|copy| copy.bytes).sum();
        copies.reverse();
        while total + bytes > most_bytes || free() < bytes {
            let Some(oldest) = copies.pop() else {
                let dir = self.dir.display();
                return Err(format!(
                    "its {} MiB do not fit into the {} MiB that are free in {dir}",
                    mib(bytes),
                    mib(free())
                ));
            };
            if fs::remove_file(&oldest.path).is_ok() {
                tracing::info!("copy {} removed: its room is needed", oldest.path.display());
            }
            total -= oldest.bytes;
        }
        Ok(())
    }

    /// A new file that becomes the copy with that digest.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self, digest: &str) -> io::Result<Draft> {
        let prefix = format!(".{digest}.");
        // What a maker left that was killed: its lock is ours now.
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let path = self.dir.join(format!("{prefix}{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Draft { path, file, shelf: self.clone(), digest: digest.to_owned() })
    }

    /// Notes that the copy cannot be made of this very source, so that not every start tries it in vain.
    pub fn note_failure(&self, digest: &str, source: &str, failure: &Failure) {
        let _ = fs::write(self.failure_path(digest), format!("{}\n{source}\n{}", failure.fatal, failure.why));
    }

    /// Why making it of this very source failed, if that was a short while ago.
    pub fn recent_failure(&self, digest: &str, source: &str) -> Option<Failure> {
        let path = self.failure_path(digest);
        let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed().ok()?;
        let text = fs::read_to_string(&path).ok()?;
        let mut lines = text.splitn(3, '\n');
        let (fatal, of, why) = (lines.next()?, lines.next()?, lines.next()?);
        if age > FAILURE_HOLDS || of != source {
            let _ = fs::remove_file(&path);
            return None;
        }
        Some(Failure { fatal: fatal == "true", why: why.to_owned() })
    }

    fn failure_path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.failed"))
    }

    /// All copies, the least recently wanted first.
    pub fn list(&self) -> Vec<Copy> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let named = entries.filter(|entry| !entry.file_name().to_string_lossy().contains('.'));
        let mut all: Vec<Copy> = named
            .filter_map(|entry| {
                let meta = entry.metadata().ok().filter(Metadata::is_file)?;
                Some(Copy { path: entry.path(), bytes: meta.blocks() * 512, wanted: meta.accessed().ok()? })
            })
            .collect();
        all.sort_by_key(|copy| copy.wanted);
        all
    }
}

/// A copy on a shelf.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Where it is.
    pub path: PathBuf,
    /// What it takes of the disk.
    pub bytes: u64,
    /// When it was last wanted.
    pub wanted: SystemTime,
}

/// A copy that is being made. Unless it is published it disappears.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    file: File,
    shelf: Shelf,
    digest: String,
}

impl Draft {
    /// The file, to be filled.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Seals it and gives it its name. A copy of the site can be read by whom `original` allows it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn publish(self, original: &Metadata) -> io::Result<File> {
        if self.shelf.is_site() {
            fchown(&self.file, None, Some(original.gid()))?;
            self.file.set_permissions(Permissions::from_mode(0o600 | (original.mode() & 0o044)))?;
        }
        // On the disk before it has its name: a crash must not leave a sealed copy with holes.
        self.file.sync_all()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        futimens(self.file.as_fd(), &TimeSpec::from_duration(now), &TimeSpec::new(SEAL, 0))?;
        // Opened again for reading only: QEMU takes a descriptor for what it may do with it.
        let file = File::open(&self.path)?;
        fs::rename(&self.path, self.shelf.dir.join(&self.digest))?;
        let _ = fs::remove_file(self.shelf.failure_path(&self.digest));
        Ok(file)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After publishing there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}
