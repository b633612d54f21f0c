//! Directories that the server opens and lists before the guest's kernel opens them: who walks a tree opens each directory
//! that it finds.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::fuse::{IN_HEADER, long, op, word};
use super::listing::Listing;

/// How long one is kept: what is listed there is so much older at most when the directory is opened.
const KEPT: Duration = Duration::from_millis(200);

/// Directories of a share that are kept, at most.
const KEPT_MAX: usize = 64;

/// A directory in the body of an AHEAD of [`super::What::Opened`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// The directory.
    pub node: u64,
    /// Its handle.
    pub handle: u64,
    /// Its entries are all here.
    pub is_end: bool,
}

impl Opened {
    /// Bytes before the entries.
    pub const HEAD: usize = 24;

    /// Appends it and its entries, as in the reply to READDIRPLUS: a multiple of 8 bytes.
    pub fn encode(&self, entries: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.node.to_le_bytes());
        out.extend_from_slice(&self.handle.to_le_bytes());
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&u32::from(self.is_end).to_le_bytes());
        out.extend_from_slice(entries);
    }
}

/// All directories of such a body with their entries, up to the first that is not whole.
pub fn opened(mut body: &[u8]) -> impl Iterator<Item = (Opened, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = body.split_at_checked(Opened::HEAD)?;
        let (entries, rest) = rest.split_at_checked(word(head, 16) as usize)?;
        body = rest;
        Some((Opened { node: long(head, 0), handle: long(head, 8), is_end: word(head, 20) != 0 }, entries))
    })
}

/// Those that the guest has, by their nodes.
#[derive(Debug, Default)]
pub(super) struct Opens(HashMap<u64, (u64, Listing)>);

impl Opens {
    /// Keeps one, unless there are too many or the node has one: then it is given back.
    pub fn keep(&mut self, opened: Opened, entries: &[u8], now: Instant) -> Option<Dropped> {
        let listing = Listing::new(entries.to_vec(), 0, opened.is_end, now);
        if self.0.len() >= KEPT_MAX || self.0.contains_key(&opened.node) {
            return Some(Dropped { node: opened.node, handle: opened.handle, listing });
        }
        self.0.insert(opened.node, (opened.handle, listing));
        None
    }

    /// The handle and the listing for who opens this directory.
    pub fn take(&mut self, node: u64, now: Instant) -> Option<Result<(u64, Listing), Dropped>> {
        let (handle, listing) = self.0.remove(&node)?;
        Some(match is_fresh(&listing, now) {
            true => Ok((handle, listing)),
            false => Err(Dropped { node, handle, listing }),
        })
    }

    /// Drops those that are too old, or all.
    pub fn drain(&mut self, old: Option<Instant>) -> Vec<Dropped> {
        let goes = |(_, listing): &(u64, Listing)| old.is_none_or(|now| !is_fresh(listing, now));
        let (gone, kept) = std::mem::take(&mut self.0).into_iter().partition(|(_, kept)| goes(kept));
        self.0 = kept;
        let gone: HashMap<u64, (u64, Listing)> = gone;
        gone.into_iter().map(|(node, (handle, listing))| Dropped { node, handle, listing }).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_fresh(listing: &Listing, now: Instant) -> bool {
    now.saturating_duration_since(listing.since) < KEPT
}

/// One that nobody has opened.
#[derive(Debug)]
pub(super) struct Dropped {
    node: u64,
    handle: u64,
    pub listing: Listing,
}

impl Dropped {
    /// The request that closes it.
    pub fn close(&self) -> Vec<u8> {
        let mut bytes = vec![0; IN_HEADER + 24];
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes[4..8].copy_from_slice(&op::RELEASEDIR.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.node.to_le_bytes());
        bytes[IN_HEADER..][..8].copy_from_slice(&self.handle.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_beyond_it() {
        let (one, two) =
            (Opened { node: 5, handle: 6, is_end: true }, Opened { node: 7, handle: 1 << 63, is_end: false });
        let mut body = Vec::new();
        one.encode(&[1; 16], &mut body);
        two.encode(&[], &mut body);
        assert_eq!(opened(&body).collect::<Vec<_>>(), [(one, &[1; 16][..]), (two, &[])]);
        assert_eq!(opened(&body[..body.len() - 1]).count(), 1);
        body[16..20].fill(0xff);
        assert_eq!(opened(&body).count(), 0, "a length beyond the end");
    }

    #[test]
    fn a_directory_is_opened_once_and_soon_or_closed() {
        let now = Instant::now();
        let one = |node| Opened { node, handle: node + 100, is_end: true };
        let mut opens = Opens::default();
        assert!(opens.keep(one(1), &[], now).is_none() && opens.keep(one(2), &[], now).is_none());
        assert!(opens.keep(one(2), &[], now).is_some(), "it has one");
        assert_eq!(opens.take(1, now).unwrap().unwrap().0, 101);
        assert!(opens.take(1, now).is_none());
        let late = opens.take(2, now + KEPT).unwrap().unwrap_err().close();
        assert_eq!((word(&late, 4), long(&late, 16), long(&late, IN_HEADER)), (op::RELEASEDIR, 2, 102));
        assert!(opens.is_empty());
        let refused = (0..100).filter_map(|node| opens.keep(one(node), &[], now)).count();
        assert_eq!(refused, 100 - KEPT_MAX);
        assert_eq!((opens.drain(Some(now)).len(), opens.drain(Some(now + KEPT)).len()), (0, KEPT_MAX));
        opens.keep(one(1), &[], now);
        assert_eq!(opens.drain(None).len(), 1);
    }
}
