//! Who walks a tree: a guest that opens one directory after the other of those that it has just listed. It is told of the next
//! ones before it opens them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::nodes::lock;

/// A guest that goes on later begins anew.
const RECENT: Duration = Duration::from_secs(1);

/// How many directories are opened ahead: at first, and at most. The guest keeps them for a moment only.
const FIRST: usize = 4;
const MOST: usize = 32;

/// Directories that are remembered.
const KNOWN_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Walk(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    /// Those that the guest has opened, or that were opened for it.
    dirs: HashMap<u64, Dir>,
    /// All their subdirectories.
    subs: usize,
    /// How many to open next; 0 for a guest that does not walk.
    run: usize,
}

#[derive(Debug)]
struct Dir {
    /// Its subdirectories, in the order of its listing.
    subs: Vec<u64>,
    at: Instant,
}

impl Inside {
    fn is_known(&self, dir: u64, now: Instant) -> bool {
        self.dirs.get(&dir).is_some_and(|dir| now.saturating_duration_since(dir.at) < RECENT)
    }

    fn add(&mut self, dir: u64, now: Instant) {
        if self.dirs.len() >= KNOWN_MAX {
            (self.dirs, self.subs) = (HashMap::new(), 0);
        }
        if let Some(old) = self.dirs.insert(dir, Dir { subs: Vec::new(), at: now }) {
            self.subs -= old.subs.len();
        }
    }
}

impl Walk {
    /// The guest opens a directory, and will list it.
    pub(crate) fn opens(&self, dir: u64, parent: Option<u64>, now: Instant) {
        let mut inside = lock(&self.0);
        let walks = parent.is_some_and(|parent| inside.is_known(parent, now));
        inside.run = if walks { (inside.run * 4).clamp(FIRST, MOST) } else { 0 };
        inside.add(dir, now);
    }

    /// A directory was opened for it.
    pub(crate) fn sent(&self, dir: u64, now: Instant) {
        lock(&self.0).add(dir, now);
    }

    /// A subdirectory of one of them was listed.
    pub(crate) fn listed(&self, dir: u64, sub: u64) {
        let mut inside = lock(&self.0);
        if inside.subs < KNOWN_MAX
            && let Some(dir) = inside.dirs.get_mut(&dir)
        {
            dir.subs.push(sub);
            inside.subs += 1;
        }
    }

    /// Which directories to open ahead when the guest has opened `dir`: those in it, then those that follow it where it is, then
    /// those before it.
    pub(crate) fn next(&self, dir: u64, parent: Option<u64>, now: Instant) -> Vec<u64> {
        let inside = lock(&self.0);
        if inside.run == 0 {
            return Vec::new();
        }
        let subs = |of: u64| inside.dirs.get(&of).map_or(&[][..], |of| of.subs.as_slice());
        let beside = parent.map_or(&[][..], subs);
        let at = beside.iter().position(|sub| *sub == dir).unwrap_or(0);
        let all = subs(dir).iter().chain(&beside[at..]).chain(&beside[..at]);
        all.copied().filter(|sub| !inside.is_known(*sub, now)).take(inside.run).collect()
    }

    /// The guest changes something, and drops what it was told.
    pub(crate) fn end(&self) {
        let mut inside = lock(&self.0);
        if !inside.dirs.is_empty() {
            *inside = Inside::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directory 1 has 10 to 14, of which 10 has 20 and 21.
    fn listed(walk: &Walk, now: Instant) {
        walk.opens(1, None, now);
        (10..15).for_each(|sub| walk.listed(1, sub));
        walk.opens(10, Some(1), now);
        [20, 21].iter().for_each(|sub| walk.listed(10, *sub));
    }

    #[test]
    fn who_opens_what_was_listed_is_told_of_what_is_in_it_and_beside_it() {
        let (walk, now) = (Walk::default(), Instant::now());
        walk.opens(1, None, now);
        walk.listed(1, 10);
        assert!(walk.next(1, None, now).is_empty(), "it may be a single one");
        listed(&walk, now);
        assert_eq!(walk.next(10, Some(1), now), [20, 21, 11, 12]);
        walk.sent(20, now);
        walk.opens(12, Some(1), now);
        assert_eq!(walk.next(12, Some(1), now), [13, 14, 11], "also those before it, and none twice");
        walk.opens(20, Some(10), now);
        assert_eq!(walk.next(20, Some(10), now), [21], "below one that was sent");
    }

    #[test]
    fn nobody_walks_who_opens_one_directory_again_and_again_or_later_or_changes_something() {
        let (walk, now) = (Walk::default(), Instant::now());
        listed(&walk, now);
        walk.opens(1, None, now);
        walk.opens(1, None, now);
        assert!(walk.next(1, None, now).is_empty());
        listed(&walk, now);
        walk.opens(11, Some(1), now + RECENT);
        assert!(walk.next(11, Some(1), now + RECENT).is_empty());
        listed(&walk, now);
        walk.end();
        walk.opens(11, Some(1), now);
        assert!(walk.next(11, Some(1), now).is_empty());
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (walk, now) = (Walk::default(), Instant::now());
        for dir in 0..=KNOWN_MAX as u64 {
            walk.sent(dir, now);
            walk.listed(dir, dir + 1);
        }
        walk.opens(1, None, now);
        (0..2 * KNOWN_MAX as u64).for_each(|sub| walk.listed(1, sub));
        let inside = lock(&walk.0);
        assert!(inside.dirs.len() <= KNOWN_MAX && inside.subs <= KNOWN_MAX);
        assert_eq!(inside.subs, inside.dirs.values().map(|dir| dir.subs.len()).sum::<usize>());
    }
}
