//! A shelf: the items of one kind and one owner in a cache directory.
//!
//! An item appears under its name in one step, complete, and is only read from then on. It is used through
//! descriptors, so removing it does not affect processes that have opened it. It is made by one process at a time,
//! under a lock that dies with its holder. It is trusted only if nobody but the shelf's owner can have written it.

mod item;
pub(crate) mod name;
mod room;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

pub use item::{ImageCopy, Item, TemplateDir};
pub use name::of_this_boot;
pub use room::{NoRoom, Stored};

use crate::dir::{self, DirError};
use crate::layout;
use crate::lock::{self, Interrupt, Waited};
use crate::mounts::Mounts;
use crate::space::{self, Medium};
use crate::trash::Trash;
use crate::trust::{Distrust, Readers};

/// How long a failure to make an item stops others from trying the same; meanwhile a full disk may get free space.
const FAILURE_HOLDS: Duration = Duration::from_secs(600);

/// Longest note of a failure.
const NOTE_MOST: u64 = 4096;

/// Longest time for removing a user's files.
const REMOVAL: Duration = Duration::from_secs(60);

/// Why nothing can be kept on a shelf, in one line with the remedy.
#[derive(Debug)]
pub enum ShelfError {
    /// Its directory cannot be made, or is unsuitable.
    Dir(DirError),
    /// A user has none yet, and only root can make it.
    Missing(PathBuf),
    /// It is in the node's memory, and files that a job writes there count as the job's memory.
    InMemory(PathBuf),
}

impl fmt::Display for ShelfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(error) => error.fmt(f),
            Self::Missing(dir) => {
                let dir = dir.display();
                write!(f, "{dir} is not there yet: a user's first VM step on a node makes it ('srun --vm-image=…')")
            }
            Self::InMemory(dir) => {
                let dir = dir.display();
                write!(f, "{dir} is in the node's memory, which would be charged to the job; only root fills it there")
            }
        }
    }
}

impl std::error::Error for ShelfError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Dir(error) => Some(error),
            Self::Missing(_) | Self::InMemory(_) => None,
        }
    }
}

/// The items of one owner.
pub struct Shelf<I> {
    /// The directory.
    pub dir: PathBuf,
    /// Whose items it holds: root's are the site's, for all users with permission.
    pub owner: u32,
    cache_dir: PathBuf,
    is_site: bool,
    item: PhantomData<fn() -> I>,
}

impl<I> fmt::Debug for Shelf<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("dir", &self.dir).field("owner", &self.owner).finish()
    }
}

impl<I> Clone for Shelf<I> {
    fn clone(&self) -> Self {
        let (dir, cache_dir) = (self.dir.clone(), self.cache_dir.clone());
        Self { dir, owner: self.owner, cache_dir, is_site: self.is_site, item: PhantomData }
    }
}

impl<I: Item> Shelf<I> {
    /// The site's.
    pub fn of_site(cache_dir: &Path) -> Self {
        let (dir, cache_dir) = (layout::site_shelf(cache_dir), cache_dir.to_owned());
        Self { dir, owner: 0, cache_dir, is_site: true, item: PhantomData }
    }

    /// That of user `uid`.
    pub fn of_user(cache_dir: &Path, uid: u32) -> Self {
        let (dir, cache_dir) = (layout::user_shelf(cache_dir, uid), cache_dir.to_owned());
        Self { dir, owner: uid, cache_dir, is_site: false, item: PhantomData }
    }

    /// The shelf for items that this process makes for as many users as possible: root makes them for everybody.
    pub fn for_process(cache_dir: &Path) -> Self {
        match own_uid() {
            0 => Self::of_site(cache_dir),
            uid => Self::of_user(cache_dir, uid),
        }
    }

    /// The site's and those of all users that this process may read. Not those in which a user has mounted something.
    pub fn all(cache_dir: &Path) -> Vec<Self> {
        let own = owners(cache_dir).into_iter().map(|uid| Self::of_user(cache_dir, uid));
        let mounts = Mounts::now().ok();
        let own = own.filter(|shelf| mounts.as_ref().is_some_and(|mounts| mounts.none_in(&shelf.dir).is_ok()));
        [Self::of_site(cache_dir)].into_iter().chain(own).collect()
    }

    /// Whether it is the site's.
    pub fn is_site(&self) -> bool {
        self.is_site
    }

    /// Makes the directory if this process may, and checks that nobody else can write to it and that items may be
    /// put there.
    ///
    /// # Errors
    /// When it is missing, not safe for files that this user will run, or in memory that would be charged to a job.
    pub fn prepare(&self) -> Result<(), ShelfError> {
        if own_uid() == 0 && self.dir.symlink_metadata().is_err() {
            let mode = if self.is_site { I::SITE_MODE } else { 0o700 };
            dir::make(&self.dir, mode).map_err(ShelfError::Dir)?;
        }
        dir::check_owned(&self.dir, self.owner).map_err(|error| match error.is_not_found() {
            true => ShelfError::Missing(self.dir.clone()),
            false => ShelfError::Dir(error),
        })?;
        let is_in_memory =
            || dir::open(&self.dir).and_then(|dir| space::medium(&dir)).is_ok_and(|m| m == Medium::Memory);
        match !self.is_site && is_in_memory() {
            true => Err(ShelfError::InMemory(self.dir.clone())),
            false => Ok(()),
        }
    }

    /// Opens the item of that name to use it, and notes the use. Needs no lock.
    ///
    /// # Errors
    /// As [`Shelf::look`].
    pub fn find(&self, name: &str) -> Result<Option<I>, Distrust> {
        self.look(name).inspect(|found| found.iter().for_each(Item::touch))
    }

    /// Opens the item of that name to look at it. It is no error if it is missing or not for this user.
    ///
    /// # Errors
    /// When it is not trusted because others could have written it.
    pub fn look(&self, name: &str) -> Result<Option<I>, Distrust> {
        match I::open(&self.dir.join(name), self.owner) {
            Ok(item) => Ok(Some(item)),
            Err(Distrust::Io(error))
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The lock for making the item of that name.
    pub fn lock_path(&self, name: &str) -> PathBuf {
        self.dir.join(name::lock(name))
    }

    /// Waits for that lock until `deadline`, or until `look` finds the item.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub fn lock<T>(
        &self,
        name: &str,
        deadline: Instant,
        interrupt: &dyn Interrupt,
        look: impl FnMut() -> Option<T>,
    ) -> io::Result<Waited<T>> {
        lock::wait(&self.lock_path(name), deadline, interrupt, look)
    }

    /// An empty draft of the item of that name, whose lock the caller holds.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self, name: &str) -> io::Result<Draft<I>> {
        // The leftover of a killed maker: we hold its lock now.
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_str().is_some_and(|found| name::kind(found) == name::Kind::Draft(name)) {
                remove(&entry.path());
            }
        }
        let path = self.dir.join(name::draft(name));
        I::begin(&path)?;
        Ok(Draft { path, shelf: self.clone(), name: name.to_owned() })
    }

    /// Notes that the item cannot be made, so that not every start tries it again.
    pub fn note_failure(&self, name: &str, why: &str) {
        let path = self.dir.join(name::failed(name));
        let _ = fs::remove_file(&path);
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let _ = new.and_then(|mut file| io::Write::write_all(&mut file, why.as_bytes()));
    }

    /// Why making it failed, if that was a short while ago.
    pub fn recent_failure(&self, name: &str) -> Option<String> {
        let path = self.dir.join(name::failed(name));
        let mut open = OpenOptions::new();
        let file = open.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).ok()?;
        if file.metadata().ok()?.modified().ok()?.elapsed().is_ok_and(|age| age > FAILURE_HOLDS) {
            let _ = fs::remove_file(&path);
            return None;
        }
        let mut text = Vec::new();
        file.take(NOTE_MOST).read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// Forgets that making it failed.
    pub fn forget_failure(&self, name: &str) {
        let _ = fs::remove_file(self.dir.join(name::failed(name)));
    }

    /// Removes an item. It disappears in one step; processes that have it open keep it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        if !fs::symlink_metadata(&path)?.is_dir() {
            return fs::remove_file(path);
        }
        if !self.is_site && own_uid() == 0 {
            // A user's directory may be of any depth and may change meanwhile.
            let mut trash = Trash::below(&self.cache_dir)?;
            trash.take(&path)?;
            return trash.empty(Instant::now() + REMOVAL);
        }
        let doomed = self.dir.join(name::doomed(name));
        fs::rename(path, &doomed)?;
        fs::remove_dir_all(doomed)
    }
}

/// The users that have a shelf in a cache directory.
pub(crate) fn owners(cache_dir: &Path) -> Vec<u32> {
    let entries = fs::read_dir(cache_dir.join(layout::USERS)).into_iter().flatten().flatten();
    let mut owners: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    owners.sort_unstable();
    owners
}

fn own_uid() -> u32 {
    // /proc always exists where VMs run. Without it, this uid, which nobody has, leads to a shelf that does not exist.
    dir::own_uid().unwrap_or(u32::MAX)
}

fn remove(path: &Path) {
    let _ = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
}

/// An item that is being made. It is removed unless it is published.
#[derive(Debug)]
pub struct Draft<I: Item> {
    path: PathBuf,
    shelf: Shelf<I>,
    name: String,
}

impl<I: Item> Draft<I> {
    /// Where it is made.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, readable for `readers` if it is the site's, and opens it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn publish(self, readers: Readers) -> Result<I, Distrust> {
        I::seal(&self.path, if self.shelf.is_site { readers } else { Readers::NOBODY })?;
        let item = I::open(&self.path, self.shelf.owner)?;
        let to = self.shelf.dir.join(&self.name);
        if fs::symlink_metadata(&to).is_ok_and(|meta| meta.is_dir()) {
            // A damaged item has the name.
            let _ = self.shelf.remove(&self.name);
        }
        fs::rename(&self.path, to)?;
        self.shelf.forget_failure(&self.name);
        item.touch();
        Ok(item)
    }
}

impl Draft<ImageCopy> {
    /// The file, to be filled.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn file(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(&self.path)
    }
}

impl<I: Item> Drop for Draft<I> {
    fn drop(&mut self) {
        // After publishing there is nothing of that name.
        remove(&self.path);
    }
}

/// When an item was last used. A time in the future does not count: a user could set it to keep an item for ever.
pub(crate) fn last_used(used: SystemTime, now: SystemTime) -> SystemTime {
    const CLOCKS_DIFFER: Duration = Duration::from_secs(24 * 3600);
    if used > now + CLOCKS_DIFFER { SystemTime::UNIX_EPOCH } else { used }
}

#[cfg(test)]
mod tests;
