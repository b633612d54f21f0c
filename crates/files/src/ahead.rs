//! Extended attributes that files do not have, told before the guest asks. `ls -l` asks for several attributes of each
//! file of a directory, one after the other, and hardly any file has one.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use proto::files::{Absent, PROBED};

use super::nodes::lock;
use super::share::Share;
use super::sys::{Errno, xattr};

/// Files that were listed last, at most.
const LISTED_MAX: usize = 4096;

/// A guest that asks again later asks anew.
const RECENT: Duration = Duration::from_secs(1);

/// Files that may be left out between two that are asked for.
const GAP: u64 = 8;

/// How many files are looked at ahead: at first, and at most.
const FIRST: u64 = 8;
const MOST: u64 = 128;

/// Looking ahead takes no longer: on some file systems each look is a question to a server.
const TIME_MAX: Duration = Duration::from_millis(3);

/// What a guest has listed of a share, and how far it has asked.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    /// Nodes in the order in which they were listed; the first has the place `base`.
    listed: VecDeque<u64>,
    base: u64,
    places: HashMap<u64, u64>,
    /// For each attribute of [`PROBED`].
    asked: [Option<Asked>; PROBED.len()],
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    /// The place up to which the guest knows.
    last: u64,
    /// How many to look at next; 0 until a second file is asked for.
    run: u64,
    at: Instant,
}

impl Inside {
    fn end(&self) -> u64 {
        self.base + self.listed.len() as u64
    }

    /// The nodes behind `last`, up to `run`.
    fn behind(&self, last: u64, run: u64) -> Vec<u64> {
        let skip = (last + 1).saturating_sub(self.base) as usize;
        self.listed.iter().skip(skip).take(run as usize).copied().collect()
    }
}

impl Ahead {
    /// A node was listed.
    pub(crate) fn listed(&self, node: u64) {
        let mut inside = lock(&self.0);
        let place = inside.end();
        inside.listed.push_back(node);
        inside.places.insert(node, place);
        if inside.listed.len() > LISTED_MAX
            && let Some(old) = inside.listed.pop_front()
        {
            let base = inside.base;
            if inside.places.get(&old) == Some(&base) {
                inside.places.remove(&old);
            }
            inside.base += 1;
        }
    }

    /// The guest asks for an attribute of a node that has none: which others to look at.
    fn after(&self, name: usize, node: u64, now: Instant) -> Vec<u64> {
        let mut inside = lock(&self.0);
        let Some(place) = inside.places.get(&node).copied() else { return Vec::new() };
        let run = match inside.asked[name] {
            Some(Asked { last, run, at })
                if (last + 1..=last + GAP).contains(&place) && now.saturating_duration_since(at) < RECENT =>
            {
                (run * 4).clamp(FIRST, MOST)
            }
            _ => 0,
        };
        let nodes = inside.behind(place, run);
        inside.asked[name] = Some(Asked { last: place + nodes.len() as u64, run, at: now });
        nodes
    }

    /// More was listed: which nodes to look at for a guest that has asked for this attribute of all before.
    fn more(&self, name: usize, now: Instant) -> Vec<u64> {
        let mut inside = lock(&self.0);
        let (end, asked) = (inside.end(), inside.asked[name]);
        let Some(Asked { last, run: 1.., at }) = asked else { return Vec::new() };
        if now.saturating_duration_since(at) >= RECENT || last + 1 >= end {
            return Vec::new();
        }
        let nodes = inside.behind(last, MOST);
        inside.asked[name] = Some(Asked { last: last + nodes.len() as u64, run: MOST, at: now });
        nodes
    }
}

/// What to tell the guest after a GETXATTR of `name` for `node` that failed with `error`.
pub(crate) fn after(share: &Share, node: u64, name: &[u8], error: Errno) -> Vec<Absent> {
    let Some(name) = PROBED.iter().position(|probed| *probed == name).filter(|_| is_absent(error)) else {
        return Vec::new();
    };
    look(share, name, &share.ahead.after(name, node, Instant::now()))
}

/// What to tell the guest of files that it has just listed.
pub(crate) fn more(share: &Share) -> Vec<Absent> {
    let now = Instant::now();
    (0..PROBED.len()).flat_map(|name| look(share, name, &share.ahead.more(name, now))).collect()
}

/// A file that was just made has no capabilities. The guest's kernel asks before the first write.
pub(crate) fn made(node: u64) -> Absent {
    Absent { name: 0, errno: libc::ENODATA as u32, nodes: vec![node] }
}

fn is_absent(error: Errno) -> bool {
    matches!(error, Errno(libc::ENODATA | libc::EOPNOTSUPP))
}

fn look(share: &Share, name: usize, nodes: &[u64]) -> Vec<Absent> {
    let mut found: Vec<Absent> = Vec::new();
    let Ok(text) = std::ffi::CString::new(PROBED[name]) else { return found };
    let begun = Instant::now();
    for id in nodes {
        if begun.elapsed() > TIME_MAX {
            break;
        }
        let Ok(node) = share.nodes.get(*id) else { continue };
        let Ok(fd) = share.nodes.fd(&node) else { continue };
        let Err(error) = xattr::get(fd.as_fd(), &text, &mut []) else { continue };
        if is_absent(error) {
            let errno = error.0 as u32;
            match found.iter_mut().find(|absent| absent.errno == errno) {
                Some(absent) => absent.nodes.push(*id),
                None => found.push(Absent { name: name as u32, errno, nodes: vec![*id] }),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_one_file_after_the_other_is_told_of_the_next_ones() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        (100..130).for_each(|node| ahead.listed(node));
        assert!(ahead.after(1, 7, now).is_empty(), "it was not listed");
        assert!(ahead.after(1, 100, now).is_empty(), "the first says nothing");
        assert_eq!(ahead.after(1, 101, now), (102..110).collect::<Vec<_>>());
        assert!(ahead.after(2, 102, now).is_empty(), "each attribute on its own");
        assert_eq!(ahead.after(1, 110, now), (111..130).collect::<Vec<_>>());
        assert!(ahead.more(1, now).is_empty());
        (130..140).for_each(|node| ahead.listed(node));
        assert_eq!(ahead.more(1, now), (130..140).collect::<Vec<_>>());
        assert!(ahead.more(2, now).is_empty() && ahead.more(0, now).is_empty());
        assert!(ahead.after(1, 105, now).is_empty(), "it begins again");
        assert!(ahead.after(1, 106, now + RECENT).is_empty(), "much later");
    }

    #[test]
    fn only_what_was_listed_last_is_remembered() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        (0..LISTED_MAX as u64 + 3).for_each(|node| ahead.listed(node));
        assert!(ahead.after(0, 1, now).is_empty() && ahead.after(0, 2, now).is_empty());
        assert!(ahead.after(0, 3, now).is_empty());
        assert_eq!(ahead.after(0, 4, now).len(), FIRST as usize);
        let inside = lock(&ahead.0);
        assert_eq!((inside.listed.len(), inside.places.len()), (LISTED_MAX, LISTED_MAX));
    }
}
