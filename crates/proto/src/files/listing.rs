//! Entries of a directory that the guest has and its kernel has not asked for yet.

use std::time::{Duration, Instant};

use super::fuse::{long, word};

/// How long names and attributes are believed.
pub(super) const BELIEVED: Duration = Duration::from_secs(1);

/// Bytes of `fuse_entry_out`, which stand before each entry of a listing.
pub(super) const ENTRY_OUT: usize = 128;
/// Bytes before an entry's name: inode u64, next position u64, length u32, type u32.
const ENTRY_HEAD: usize = ENTRY_OUT + 24;

/// See the module. Each entry comes with attributes, as in the reply to READDIRPLUS.
#[derive(Debug)]
pub(super) struct Listing {
    entries: Vec<u8>,
    /// Where the next one begins.
    at: usize,
    /// The position in the directory at which that one is.
    position: u64,
    /// Nothing follows them.
    is_end: bool,
    pub since: Instant,
}

impl Listing {
    /// Entries that begin at `position`.
    pub fn new(entries: Vec<u8>, position: u64, is_end: bool, since: Instant) -> Self {
        Self { entries, at: 0, position, is_end, since }
    }

    /// Takes the next entries, of at most `size` bytes; `None` if those at `position` are not here.
    pub fn take(&mut self, position: u64, size: usize, now: Instant) -> Option<Vec<u8>> {
        let left = BELIEVED.checked_sub(now.saturating_duration_since(self.since)).filter(|left| !left.is_zero())?;
        if self.position != position {
            return None;
        }
        let mut out = Vec::new();
        while let Some((len, next)) = entry(&self.entries[self.at..]).filter(|(len, _)| out.len() + len <= size) {
            let start = out.len();
            out.extend_from_slice(&self.entries[self.at..self.at + len]);
            shorten(&mut out[start..], left);
            (self.at, self.position) = (self.at + len, next);
        }
        (!out.is_empty() || self.is_end && self.at == self.entries.len()).then_some(out)
    }

    /// The nodes of those that were not taken.
    pub fn nodes(&self) -> impl Iterator<Item = u64> {
        listed_nodes(&self.entries[self.at..])
    }
}

/// The nodes of entries that come with attributes.
pub fn listed_nodes(mut entries: &[u8]) -> impl Iterator<Item = u64> {
    let next = move || {
        let (len, _) = entry(entries)?;
        let node = long(entries, 0);
        entries = &entries[len..];
        Some(node)
    };
    // Entries may come without: nobody knows a node by them.
    std::iter::from_fn(next).filter(|node| *node != 0)
}

/// Bytes of the entry that begins `bytes`, and the position behind it.
fn entry(bytes: &[u8]) -> Option<(usize, u64)> {
    let name = word(bytes.get(..ENTRY_HEAD)?, ENTRY_OUT + 16) as usize;
    let len = ENTRY_HEAD.checked_add(name)?.checked_next_multiple_of(8)?;
    (len <= bytes.len()).then(|| (len, long(bytes, ENTRY_OUT + 8)))
}

/// Lets the kernel believe an entry no longer than this.
fn shorten(entry: &mut [u8], left: Duration) {
    if long(entry, 0) == 0 {
        return;
    }
    for (seconds, nanoseconds) in [(16, 32), (24, 36)] {
        entry[seconds..][..8].copy_from_slice(&left.as_secs().to_le_bytes());
        entry[nanoseconds..][..4].copy_from_slice(&left.subsec_nanos().to_le_bytes());
    }
}
