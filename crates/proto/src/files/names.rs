//! Which names a directory has, so that the guest need not ask for those that it has not: who creates many files looks for
//! each name first, and a search path is mostly names that do not exist.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::fuse::{IN_HEADER, long, op, word};

/// How long the list is believed. Names that do exist are believed longer: who waits for a file that another VM makes should
/// not wait long. The server lists a directory as often as this at most, so however many names are looked for, the host is
/// asked ten times a second.
const BELIEVED: Duration = Duration::from_millis(100);

/// Directories whose names are kept, at most.
const KEPT_MAX: usize = 64;

/// Names of one directory, at most.
pub const NAMES_MAX: usize = 4096;

/// The error number of a name that does not exist.
const ENOENT: i32 = 2;

/// A name as it travels: 32 bits of it. Another name with the same ones only means that the host is asked.
pub fn name_mark(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |mark, byte| (mark ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// See the module. A name that this guest makes is added, one that it removes stays: then the host is asked.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<u64, (HashSet<u32>, Instant)>);

impl Names {
    /// The error number for a LOOKUP of a name that is known not to exist.
    pub fn answer(&self, head: &[u8], now: Instant) -> Option<i32> {
        let (marks, since) = self.0.get(&long(head, 16))?;
        let name = text(head, IN_HEADER)?;
        // File systems hide names that begin so, and find them nevertheless.
        let is_plain = !name.is_empty() && name[0] != b'.';
        let is_fresh = now.saturating_duration_since(*since) < BELIEVED;
        (is_plain && is_fresh && !marks.contains(&name_mark(name))).then_some(ENOENT)
    }

    /// This guest changes something: it may make a name.
    pub fn note(&mut self, head: &[u8]) {
        let at = match word(head, 4) {
            op::CREATE | op::MKNOD => IN_HEADER + 16,
            op::MKDIR | op::LINK => IN_HEADER + 8,
            op::SYMLINK => IN_HEADER,
            op::RENAME | op::RENAME2 => return drop(self.0.remove(&long(head, IN_HEADER))),
            _ => return,
        };
        let dir = long(head, 16);
        match (self.0.get_mut(&dir), text(head, at)) {
            (Some((marks, _)), Some(name)) => drop(marks.insert(name_mark(name))),
            // It is longer than what is seen of it.
            _ => drop(self.0.remove(&dir)),
        }
    }

    /// The host has sent the marks of all names of a directory.
    pub fn learn(&mut self, dir: u64, marks: &[u8], now: Instant) {
        self.expire(now);
        let (marks, _) = marks.as_chunks::<4>();
        if marks.len() <= NAMES_MAX && (self.0.len() < KEPT_MAX || self.0.contains_key(&dir)) {
            self.0.insert(dir, (marks.iter().map(|mark| u32::from_le_bytes(*mark)).collect(), now));
        }
    }

    /// Drops what is too old.
    pub fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (_, since)| now.saturating_duration_since(*since) < BELIEVED);
    }

    /// Something here may no longer be true.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The name at this place, if all of it is there.
fn text(head: &[u8], at: usize) -> Option<&[u8]> {
    let rest = head.get(at..)?;
    rest.iter().position(|byte| *byte == 0).map(|end| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: u64 = 7;

    /// A request about `dir` with these bytes behind its header.
    fn request(op: u32, dir: u64, body: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; IN_HEADER];
        bytes[4..8].copy_from_slice(&op.to_le_bytes());
        bytes[16..24].copy_from_slice(&dir.to_le_bytes());
        bytes.extend(body.concat());
        bytes
    }

    fn known(now: Instant) -> Names {
        let mut names = Names::default();
        names.learn(DIR, &name_mark(b"there").to_le_bytes(), now);
        names
    }

    fn absent(names: &Names, name: &[u8], now: Instant) -> bool {
        names.answer(&request(op::LOOKUP, DIR, &[name, b"\0"]), now).is_some()
    }

    #[test]
    fn only_a_name_that_is_not_in_the_list_is_absent_and_only_for_a_moment() {
        let now = Instant::now();
        let names = known(now);
        assert_eq!(names.answer(&request(op::LOOKUP, DIR, &[b"other\0"]), now), Some(ENOENT));
        assert!(!absent(&names, b"there", now));
        assert!(!absent(&names, b".zfs", now), "it may be hidden");
        assert!(!absent(&names, b"other", now + BELIEVED));
        assert_eq!(names.answer(&request(op::LOOKUP, 8, &[b"other\0"]), now), None, "another directory");
        assert_eq!(names.answer(&request(op::LOOKUP, DIR, &[b"no end"]), now), None);
        assert_eq!(names.answer(&request(op::LOOKUP, DIR, &[b"\0"]), now), None);
    }

    #[test]
    fn a_name_that_this_guest_makes_is_there() {
        let now = Instant::now();
        let made = [
            request(op::CREATE, DIR, &[&[0; 16], b"new\0"]),
            request(op::MKNOD, DIR, &[&[0; 16], b"new\0"]),
            request(op::MKDIR, DIR, &[&[0; 8], b"new\0"]),
            request(op::LINK, DIR, &[&[0; 8], b"new\0"]),
            request(op::SYMLINK, DIR, &[b"new\0target\0"]),
            request(op::RENAME, 9, &[&DIR.to_le_bytes(), b"old\0new\0"]),
            request(op::RENAME2, 9, &[&DIR.to_le_bytes(), &[0; 8], b"old\0new\0"]),
            request(op::CREATE, DIR, &[&[0; 16], b"so long that its end is not se"]),
        ];
        for request in made {
            let mut names = known(now);
            assert!(absent(&names, b"new", now));
            names.note(&request);
            assert!(!absent(&names, b"new", now), "{request:?}");
        }
        let mut names = known(now);
        names.note(&request(op::UNLINK, DIR, &[b"there\0"]));
        assert!(!absent(&names, b"there", now), "the host is asked");
        assert!(absent(&names, b"other", now));
        names.clear();
        assert!(!absent(&names, b"other", now));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let now = Instant::now();
        let mut names = Names::default();
        names.learn(DIR, &vec![0; 4 * (NAMES_MAX + 1)], now);
        assert!(names.0.is_empty());
        (0..=KEPT_MAX as u64).for_each(|dir| names.learn(dir, &[], now));
        assert_eq!(names.0.len(), KEPT_MAX);
        names.learn(1000, &[], now + BELIEVED);
        assert_eq!(names.0.len(), 1);
    }
}
