//! Room on a shelf: which items are there, and which are removed for a new one.
//!
//! A user's process sees and removes that user's items only. Root's sweeps (`sweep`) limit the size of all shelves of
//! a cache together; a process itself can only leave the reserve free and take no more for its own shelf than the
//! whole cache may have.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::name::{self, Kind};
use super::{Item, Shelf, last_used};
use crate::space::Space;

/// An item on a shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its size on the disk.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// Why there is no room for an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoom {
    /// It is larger than all that its owner may keep.
    OverLimit {
        /// What it would take, in bytes.
        bytes: u64,
        /// What its owner may keep.
        most: u64,
        /// The site's key for that.
        key: &'static str,
    },
    /// The file system would be filled.
    Full {
        /// The shelf.
        dir: PathBuf,
        /// What it would take, in bytes.
        bytes: u64,
        /// What is free.
        free: u64,
        /// What must stay free.
        reserve: u64,
    },
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes.div_ceil(1 << 20);
        match self {
            Self::OverLimit { bytes, most, key } => {
                let (bytes, most) = (mib(bytes), mib(most));
                write!(
                    f,
                    "its {bytes} MiB are more than the {most} MiB that one owner may keep ('{key}', and what the \
                           file system has)"
                )
            }
            Self::Full { dir, bytes, free, reserve } => {
                let (bytes, free, reserve, dir) = (mib(bytes), mib(free), mib(reserve), dir.display());
                write!(
                    f,
                    "its {bytes} MiB do not fit into the {free} MiB that are free in {dir}, of which {reserve} MiB \
                           stay free"
                )
            }
        }
    }
}

impl std::error::Error for NoRoom {}

impl<I: Item> Shelf<I> {
    /// All items, the least recently used first.
    pub fn list(&self) -> Vec<Stored> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let now = SystemTime::now();
        let mut all: Vec<Stored> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok().filter(|name| name::kind(name) == Kind::Item)?;
                let path = entry.path();
                let (bytes, used) = I::measure(&path, &fs::symlink_metadata(&path).ok()?)?;
                Some(Stored { name, path, bytes, used: last_used(used, now) })
            })
            .collect();
        all.sort_by_key(|item| item.used);
        all
    }

    /// Makes room for an item of so many bytes among those that may take `most_bytes`, by removing the least recently
    /// used. VMs that run from them keep their open files.
    ///
    /// # Errors
    /// When there is no room for it at all. If that is known in advance, nothing is removed.
    pub fn make_room(&self, bytes: u64, most_bytes: u64) -> Result<(), NoRoom> {
        self.make_room_in(bytes, most_bytes, &|dir| Space::of(dir, &self.cache_dir).ok())
    }

    /// The same on a file system with this `space`.
    pub(super) fn make_room_in(
        &self,
        bytes: u64,
        most_bytes: u64,
        space: &dyn Fn(&Path) -> Option<Space>,
    ) -> Result<(), NoRoom> {
        let Some(before) = space(&self.dir) else { return Ok(()) };
        let most = most_bytes.min(before.budget());
        if bytes > most {
            return Err(NoRoom::OverLimit { bytes, most, key: I::LIMIT });
        }
        let full =
            |space: Space| NoRoom::Full { dir: self.dir.clone(), bytes, free: space.free, reserve: space.reserve() };
        let items = self.list();
        let mut total: u64 = items.iter().map(|item| item.bytes).sum();
        if before.usable() + total < bytes {
            return Err(full(before));
        }
        let mut items = items.into_iter();
        while let Some(now) = space(&self.dir) {
            if total + bytes <= most && now.usable() >= bytes {
                break;
            }
            let oldest = items.next().ok_or_else(|| full(now))?;
            let _ = self.remove(&oldest.name);
            total -= oldest.bytes;
        }
        Ok(())
    }

    /// Removes the least recently used items until the rest takes at most `most_bytes`; `keep` stays. Returns the
    /// removed ones.
    pub fn evict(&self, most_bytes: u64, keep: Option<&str>) -> Vec<PathBuf> {
        let all = self.list();
        let mut total: u64 = all.iter().map(|item| item.bytes).sum();
        let mut removed = Vec::new();
        for item in all {
            if total <= most_bytes {
                break;
            }
            if Some(item.name.as_str()) != keep && self.remove(&item.name).is_ok() {
                total -= item.bytes;
                removed.push(item.path);
            }
        }
        removed
    }

    /// Removes the items of earlier boots of this node, if they are useless now; returns how many.
    pub fn remove_of_other_boots(&self) -> usize {
        let Some(boot) = crate::process::boot().ok().filter(|_| I::OF_ONE_BOOT) else { return 0 };
        let old = self.list().into_iter().filter(|item| name::is_of_another_boot(&item.name, &boot));
        old.filter(|item| self.remove(&item.name).is_ok()).count()
    }
}
