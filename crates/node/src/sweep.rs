//! As root: removes leftovers of processes that were killed before their own cleanup, and limits the size of all
//! users' caches.
//!
//! To decide what is in use, the sweep trusts only what root writes or the kernel holds: the process that a task's
//! directory names, the lock of a draft. A sweep may be repeated or interrupted, and several may run at once. It ends
//! at its limits, and the next one continues. It begins at another shelf each time, so that no shelf is always left
//! out.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::dir::{check_root, open};
use crate::layout;
use crate::mounts::Mounts;
use crate::process;
use crate::shelf::name::{self, Kind};
use crate::shelf::{Item, last_used, owners};
use crate::space::Space;
use crate::sys::try_lock;
use crate::task_dir;
use crate::trash::{Trash, inside};

/// After this time a note that an item could not be made has no effect any more.
const NOTE_LASTS: Duration = Duration::from_secs(3600);

/// Items that a user has not used for this long are removed: the user may have left.
const UNUSED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// We never make a user's shelf with more entries than this.
const SHELF_MOST: usize = 4096;

/// How long a sweep may take, and how much it may look at.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    deadline: Instant,
    entries: usize,
}

impl Bounds {
    /// Ends after `patience`, or after this many directory entries.
    pub fn new(patience: Duration, entries: usize) -> Self {
        Self { deadline: Instant::now() + patience, entries }
    }

    /// Whether one more entry may be looked at.
    fn take(&mut self) -> bool {
        let may = self.entries > 0 && Instant::now() < self.deadline;
        self.entries = self.entries.saturating_sub(1);
        may
    }
}

/// Result of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Number of removed items.
    pub removed: usize,
    /// Whether it ended at a limit: the next one continues.
    pub is_unfinished: bool,
    /// The first failure; the rest was tried all the same.
    pub error: Option<io::Error>,
}

impl Swept {
    fn count(&mut self, removed: io::Result<()>) {
        match removed {
            Ok(()) => self.removed += 1,
            // Another sweep was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => self.is_unfinished = true,
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }

    fn failed(error: io::Error) -> Self {
        Self { error: Some(error), ..Self::default() }
    }
}

/// Removes the directories of tasks, of `job` or of all, whose process is gone. It is no error if there is no state
/// directory.
pub fn tasks(state_dir: &Path, job: Option<u32>, bounds: &mut Bounds) -> Swept {
    let mut swept = Swept::default();
    let entries = match check_root(state_dir) {
        Err(error) if error.is_not_found() => return swept,
        Err(error) => return Swept::failed(io::Error::other(error)),
        Ok(()) => fs::read_dir(state_dir),
    };
    for entry in entries.into_iter().flatten().flatten() {
        if !bounds.take() {
            swept.is_unfinished = true;
            break;
        }
        let is_task = entry.file_name().to_str().is_some_and(|name| is_task(name, job));
        if is_task && !task_dir::is_in_use(&entry.path()) {
            swept.count(task_dir::remove(&entry.path()));
        }
    }
    swept
}

/// Whether `name` is that of a task's directory, `JOB.STEP.TASK`.
fn is_task(name: &str, job: Option<u32>) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    let [id, step, task] = parts[..] else { return false };
    let number = |text: &str| text.parse::<u32>().ok();
    number(id).is_some_and(|id| job.is_none_or(|job| job == id)) && !step.is_empty() && number(task).is_some()
}

/// Which shelves of a cache are swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// That of a user whose job has ended, and one other: so each gets its turn even if slurmd is never restarted.
    User(u32),
}

/// Sweeps a cache. It removes drafts that nobody works on, their locks, notes of old failures, useless items of an
/// earlier boot, and items that users have not used for a month. If all items together are over the budget, it removes
/// the least recently used ones of all users.
pub fn cache<I: Item>(cache_dir: &Path, which: Which, bounds: &mut Bounds) -> Swept {
    cache_in::<I>(cache_dir, which, bounds, &|| Space::of(cache_dir, cache_dir).ok())
}

/// The same on a file system with this `space`.
fn cache_in<I: Item>(cache_dir: &Path, which: Which, bounds: &mut Bounds, space: &dyn Fn() -> Option<Space>) -> Swept {
    let mut swept = Swept::default();
    match check_root(cache_dir) {
        Err(error) if error.is_not_found() => return swept,
        Err(error) => return Swept::failed(io::Error::other(error)),
        Ok(()) => {}
    }
    let mut trash = match Trash::below(cache_dir) {
        Ok(trash) => trash,
        Err(error) => return Swept::failed(error),
    };
    let mut sweep = Sweep { now: SystemTime::now(), boot: process::boot().ok(), trash: &mut trash, bounds };
    for shelf in shelves(cache_dir, which, &mut swept) {
        sweep.shelf::<I>(&shelf, &mut swept);
    }
    sweep.empty_trash(&mut swept);
    // The total size is counted only now and then; a file system that fills up is noticed at once.
    if let Some(space) = space().filter(|space| which == Which::All || space.lacks() > 0) {
        sweep.keep_to_budget::<I>(cache_dir, space, &mut swept);
        sweep.empty_trash(&mut swept);
    }
    swept
}

/// A shelf that is to be swept.
struct Place {
    path: PathBuf,
    is_site: bool,
}

/// The shelves, beginning at a different one each time. Those in which a user has mounted something are not entered.
fn shelves(cache_dir: &Path, which: Which, swept: &mut Swept) -> Vec<Place> {
    let mut users = owners(cache_dir);
    let any = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos() as usize;
    if !users.is_empty() {
        let begin = any / 1000 % users.len();
        users.rotate_left(begin);
    }
    if let Which::User(uid) = which {
        let other = users.iter().copied().find(|user| *user != uid);
        users = [uid].into_iter().chain(other).collect();
    }
    let site = (which == Which::All).then(|| Place { path: layout::site_shelf(cache_dir), is_site: true });
    let of_users = users.into_iter().map(|uid| Place { path: layout::user_shelf(cache_dir, uid), is_site: false });
    let mounts = match Mounts::now() {
        Ok(mounts) => mounts,
        Err(error) => {
            swept.count(Err(error));
            return site.into_iter().collect();
        }
    };
    let of_users = of_users.filter(|place| match mounts.none_in(&place.path) {
        Ok(()) => true,
        Err(error) => {
            swept.count(Err(error));
            false
        }
    });
    site.into_iter().chain(of_users).collect()
}

struct Sweep<'a> {
    now: SystemTime,
    boot: Option<String>,
    trash: &'a mut Trash,
    bounds: &'a mut Bounds,
}

impl Sweep<'_> {
    /// Removes the leftovers on one shelf.
    fn shelf<I: Item>(&mut self, place: &Place, swept: &mut Swept) {
        if !self.bounds.take() {
            swept.is_unfinished = true;
            return;
        }
        // A user's shelf belongs to the user: it is opened once, and names in it are used without following links.
        let Ok(shelf) = open(&place.path) else { return };
        let mut count = 0;
        for entry in fs::read_dir(inside(&shelf)).into_iter().flatten().flatten() {
            count += 1;
            if count > SHELF_MOST && !place.is_site {
                // We never make so many entries. Processes that have one open keep it.
                swept.count(self.trash.take(&place.path));
                return;
            }
            if !self.bounds.take() {
                swept.is_unfinished = true;
                return;
            }
            if let Some(removed) = self.left_over::<I>(&shelf, place.is_site, &entry.file_name()) {
                swept.count(removed);
            }
        }
        // A user's shelf that is empty and was not used for long: a user who comes back gets a new one.
        let made = shelf.metadata().and_then(|meta| meta.modified());
        if !place.is_site && count == 0 && made.is_ok_and(|made| self.is_unused(made)) {
            swept.count(fs::remove_dir(&place.path));
        }
    }

    /// Removes what is called `name` if it is left over; `None` if it is not.
    fn left_over<I: Item>(&mut self, shelf: &File, is_site: bool, name: &OsStr) -> Option<io::Result<()>> {
        let path = inside(shelf).join(name);
        // Our own names are always valid text.
        let name = name.to_str().unwrap_or(".?");
        match name::kind(name) {
            // Removed while we hold it, as its holders do: waiters then take a new lock.
            Kind::Lock(item) => free_lock(shelf, item).ok()?.map(|_held| fs::remove_file(&path)),
            Kind::Failed => {
                let noted = fs::symlink_metadata(&path).ok()?.modified().ok()?;
                let is_old = self.now.duration_since(noted).is_ok_and(|age| age > NOTE_LASTS);
                is_old.then(|| fs::remove_file(&path))
            }
            Kind::Draft(item) => match free_lock(shelf, item) {
                Ok(None) => None,
                Ok(Some(_held)) => Some(self.trash.take(&path)),
                Err(error) if error.kind() == ErrorKind::NotFound => Some(self.trash.take(&path)),
                Err(error) => Some(Err(error)),
            },
            Kind::Item
                if I::OF_ONE_BOOT && self.boot.as_ref().is_some_and(|boot| name::is_of_another_boot(name, boot)) =>
            {
                Some(self.trash.take(&path))
            }
            // Only root decides about the site's items: users cannot note their use, so only the kernel's access time
            // is known.
            Kind::Item | Kind::Other if is_site => None,
            Kind::Item | Kind::Other => {
                let meta = fs::symlink_metadata(&path).ok()?;
                let used = I::measure(&path, &meta).map_or_else(|| meta.modified().ok(), |(_, used)| Some(used))?;
                self.is_unused(used).then(|| self.trash.take(&path))
            }
        }
    }

    fn empty_trash(&mut self, swept: &mut Swept) {
        if let Err(error) = self.trash.empty(self.bounds.deadline) {
            swept.count(Err(error));
        }
    }

    fn is_unused(&self, used: SystemTime) -> bool {
        self.now.duration_since(last_used(used, self.now)).is_ok_and(|age| age > UNUSED_FOR)
    }

    /// Removes the least recently used items, of all users and the site, until the rest is within the budget and the
    /// reserve of the file system is free.
    fn keep_to_budget<I: Item>(&mut self, cache_dir: &Path, space: Space, swept: &mut Swept) {
        let mut items = Vec::new();
        for place in shelves(cache_dir, Which::All, swept) {
            let Ok(shelf) = open(&place.path) else { continue };
            for entry in fs::read_dir(inside(&shelf)).into_iter().flatten().flatten() {
                if !self.bounds.take() {
                    swept.is_unfinished = true;
                    break;
                }
                let (path, name) = (entry.path(), entry.file_name());
                let is_ours = name.to_str().is_some_and(|name| name::kind(name) == Kind::Item);
                let measured = is_ours.then(|| I::measure(&path, &fs::symlink_metadata(&path).ok()?)).flatten();
                if let Some((bytes, used)) = measured {
                    items.push((last_used(used, self.now), bytes, place.path.clone(), name));
                }
            }
        }
        let total: u64 = items.iter().map(|(_, bytes, ..)| bytes).sum();
        let mut excess = total.saturating_sub(space.budget()).max(space.lacks());
        items.sort_by_key(|(used, ..)| *used);
        for (_, bytes, shelf, name) in items {
            if excess == 0 {
                break;
            }
            // Opened again: if the shelf's name is a link by now, it is not followed.
            let Ok(shelf) = open(&shelf) else { continue };
            let removed = self.trash.take(&inside(&shelf).join(name));
            if removed.is_ok() {
                excess = excess.saturating_sub(bytes);
            }
            swept.count(removed);
        }
    }
}

/// Takes the lock of that item's maker; `None` while a maker has it.
fn free_lock(shelf: &File, item: &str) -> io::Result<Option<File>> {
    // Nonblocking, because its owner may have put a pipe there.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let path = inside(shelf).join(name::lock(item));
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("a lock that is no file"));
    }
    Ok(try_lock(&file)?.then_some(file))
}

#[cfg(test)]
mod tests;
