//! The two kinds of things on shelves: how each is stored. Their content is known only to the code that makes them.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, FileTimes, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::dir;
use crate::sys;
use crate::trash::inside;
use crate::trust::{Distrust, Readers, believe, believe_file};

/// Time of modification of every copy, in seconds since 1970: 2001-09-09 01:46:40, a time that no clock will show
/// again.
const SEAL: u64 = 1_000_000_000;

/// Most entries of a template's directory that are looked at; it has seven at most.
const FILES_MOST: usize = 32;

/// A kind of things that are kept on a shelf.
pub trait Item: Sized + fmt::Debug {
    /// What one is called.
    const NOUN: &'static str;
    /// The configuration key of the site's limit for the items of one owner.
    const LIMIT: &'static str;
    /// Mode of the site's shelf.
    const SITE_MODE: u32;
    /// Whether they are useless after the next boot of the node: their names then begin with the boot's mark.
    const OF_ONE_BOOT: bool;

    /// Opens a complete item, which must belong to `owner` alone.
    ///
    /// # Errors
    /// When it is not there, or could have been put there or changed by others.
    fn open(path: &Path, owner: u32) -> Result<Self, Distrust>;

    /// Notes that it was used now. Not permitted for another user's item; then only the kernel's access time shows
    /// its use, to the day.
    fn touch(&self);

    /// Makes an empty draft.
    ///
    /// # Errors
    /// As the system.
    fn begin(path: &Path) -> io::Result<()>;

    /// Makes a complete draft ready to be opened by `readers`; its content is on the disk then.
    ///
    /// # Errors
    /// As the system.
    fn seal(path: &Path, readers: Readers) -> io::Result<()>;

    /// Its size on the disk in bytes, and when it was last used; `None` if it is something else.
    fn measure(path: &Path, meta: &Metadata) -> Option<(u64, SystemTime)>;
}

/// A template: a directory of files that is only read once it has its name.
#[derive(Debug)]
pub struct TemplateDir(File);

impl TemplateDir {
    /// Opens one of its files, by a plain name, which must belong to `owner` alone too.
    ///
    /// # Errors
    /// When it is not there, is no ordinary file, or others could have written it.
    pub fn open_file(&self, name: &str, owner: u32, writable: bool) -> Result<File, Distrust> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Distrust::Kind);
        }
        let file = sys::open_in(&self.0, OsStr::new(name), writable)?;
        believe_file(&file, owner)?;
        Ok(file)
    }
}

impl Item for TemplateDir {
    const NOUN: &'static str = "template";
    const LIMIT: &'static str = "template_cache_mib";
    /// Everybody may list the templates; each has the permissions of its image's disk.
    const SITE_MODE: u32 = 0o755;
    const OF_ONE_BOOT: bool = true;

    fn open(path: &Path, owner: u32) -> Result<Self, Distrust> {
        let opened = dir::open(path)?;
        believe(&opened.metadata()?, owner)?;
        Ok(Self(opened))
    }

    fn touch(&self) {
        let _ = self.0.set_times(FileTimes::new().set_modified(SystemTime::now()));
    }

    fn begin(path: &Path) -> io::Result<()> {
        dir::make_one(path, 0o700)
    }

    fn seal(path: &Path, readers: Readers) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let file = File::open(entry.path())?;
                fchown(&file, None, readers.group)?;
                file.set_permissions(Permissions::from_mode(readers.file_mode()))?;
            }
        }
        let opened = dir::open(path)?;
        fchown(&opened, None, readers.group)?;
        opened.set_permissions(Permissions::from_mode(readers.dir_mode()))
    }

    fn measure(path: &Path, meta: &Metadata) -> Option<(u64, SystemTime)> {
        let mut used = meta.is_dir().then(|| meta.modified().ok())??;
        let mut bytes = 0;
        // Opened, because a link may have the name by now.
        let opened = dir::open(path).ok()?;
        let files = fs::read_dir(inside(&opened)).into_iter().flatten().flatten().take(FILES_MOST);
        for meta in files.filter_map(|file| file.metadata().ok()).filter(Metadata::is_file) {
            bytes += meta.blocks() * 512;
            // A user who clones the site's template may not change its times, but the kernel notes that it is read.
            used = used.max(meta.accessed().unwrap_or(used));
        }
        Some((bytes, used))
    }
}

/// A copy of an image's disk: a file that is never written again. Its modification time is a seal that any later
/// write breaks; its access time says when it was last used.
#[derive(Debug)]
pub struct ImageCopy(File);

impl ImageCopy {
    /// The file, open for reading.
    pub fn into_file(self) -> File {
        self.0
    }
}

impl Item for ImageCopy {
    const NOUN: &'static str = "copy";
    const LIMIT: &'static str = "image_cache_mib";
    /// To find a copy, a user must know its digest from an entry. So nobody sees an image from a directory that
    /// is closed to that user.
    const SITE_MODE: u32 = 0o711;
    const OF_ONE_BOOT: bool = false;

    fn open(path: &Path, owner: u32) -> Result<Self, Distrust> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        believe_file(&file, owner)?;
        match file.metadata()?.modified()? == SystemTime::UNIX_EPOCH + Duration::from_secs(SEAL) {
            true => Ok(Self(file)),
            false => Err(Distrust::Changed),
        }
    }

    fn touch(&self) {
        let _ = sys::set_accessed(&self.0, SystemTime::now());
    }

    fn begin(path: &Path) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
    }

    fn seal(path: &Path, readers: Readers) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        fchown(&file, None, readers.group)?;
        file.set_permissions(Permissions::from_mode(readers.file_mode()))?;
        // It must be on the disk before it gets its name: a crash must not leave a sealed copy with holes.
        file.sync_all()?;
        let seal = SystemTime::UNIX_EPOCH + Duration::from_secs(SEAL);
        file.set_times(FileTimes::new().set_accessed(SystemTime::now()).set_modified(seal))
    }

    fn measure(_: &Path, meta: &Metadata) -> Option<(u64, SystemTime)> {
        Some((meta.is_file().then(|| meta.blocks() * 512)?, meta.accessed().ok()?))
    }
}
