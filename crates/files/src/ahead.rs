//! Extended attributes that files do not have, told before the guest asks. `ls -l` asks for several attributes of each
//! file of a directory, one after the other, and hardly any file has one.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use proto::files::PROBED;

use super::nodes::lock;

/// Files that were listed last, at most.
const LISTED_MAX: usize = 4096;

/// A guest that asks again later asks anew.
const RECENT: Duration = Duration::from_secs(1);

/// Files that may be left out between two that are asked for.
const GAP: u64 = 8;

/// How many files are looked at ahead: at first, and at most.
const FIRST: u64 = 8;
const MOST: u64 = 128;

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
    /// How many were looked at.
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
    pub(crate) fn after(&self, name: usize, node: u64, now: Instant) -> Vec<u64> {
        let mut inside = lock(&self.0);
        let Some(place) = inside.places.get(&node).copied() else { return Vec::new() };
        let run = match inside.asked[name] {
            Some(Asked { last, run, at })
                if (last + 1..=last + GAP).contains(&place) && now.saturating_duration_since(at) < RECENT =>
            {
                (run * 16).clamp(FIRST, MOST)
            }
            _ => FIRST,
        };
        let nodes = inside.behind(place, run);
        inside.asked[name] = Some(Asked { last: place + nodes.len() as u64, run, at: now });
        nodes
    }

    /// More was listed: which nodes to look at for a guest that has asked for this attribute of all before.
    pub(crate) fn more(&self, name: usize, now: Instant) -> Vec<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_one_file_after_the_other_is_told_of_the_next_ones() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        (100..130).for_each(|node| ahead.listed(node));
        assert!(ahead.after(1, 7, now).is_empty(), "it was not listed");
        assert_eq!(ahead.after(1, 101, now), (102..110).collect::<Vec<_>>());
        assert_eq!(ahead.after(2, 102, now), (103..111).collect::<Vec<_>>(), "each attribute on its own");
        assert_eq!(ahead.after(1, 110, now), (111..130).collect::<Vec<_>>());
        assert!(ahead.more(1, now).is_empty());
        (130..140).for_each(|node| ahead.listed(node));
        assert_eq!(ahead.more(1, now), (130..140).collect::<Vec<_>>());
        assert!(ahead.more(0, now).is_empty());
        assert_eq!(ahead.after(1, 105, now).len() as u64, FIRST, "it begins again");
        assert_eq!(ahead.after(1, 114, now + RECENT).len() as u64, FIRST, "much later");
    }

    #[test]
    fn only_what_was_listed_last_is_remembered() {
        let (ahead, now) = (Ahead::default(), Instant::now());
        (0..LISTED_MAX as u64 + 3).for_each(|node| ahead.listed(node));
        assert!(ahead.after(0, 1, now).is_empty() && ahead.after(0, 2, now).is_empty());
        assert_eq!(ahead.after(0, 3, now).len(), FIRST as usize);
        let inside = lock(&ahead.0);
        assert_eq!((inside.listed.len(), inside.places.len()), (LISTED_MAX, LISTED_MAX));
    }
}
