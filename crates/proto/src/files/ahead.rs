//! What the server sends before the guest's kernel asks for it: the rest of a listing, the content of a small file that
//! was just opened, which names a directory has. It saves waits, and nothing that the guest may believe becomes older by it. Courier and tests share it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::error::FilesError;
use super::fuse::{IN_HEADER, OUT_HEADER, long, op, word};
use super::local::local_reply;
use super::names::Names;

/// How long names and attributes are believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// A content is for who reads at once after opening.
const READ_AT_ONCE: Duration = Duration::from_millis(100);

/// Listings and contents that are kept of a share, each at most.
const KEPT_MAX: usize = 64;

/// Bytes of `fuse_entry_out`, which stand before each entry of a listing.
const ENTRY_OUT: usize = 128;
/// Bytes before an entry's name: inode u64, next position u64, length u32, type u32.
const ENTRY_HEAD: usize = ENTRY_OUT + 24;

/// In the numbers of an OPEN: the file becomes empty.
const O_TRUNC: u32 = 0o1000;

/// What is sent ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// All bytes of a file.
    Content,
    /// Entries of a directory with their attributes, as in the reply to READDIRPLUS.
    Entries {
        /// Nothing follows them.
        is_end: bool,
    },
    /// The marks of all names of a directory ([`super::name_mark`]), whose node stands in place of the handle.
    Names,
}

/// The beginning of a frame AHEAD. The bytes themselves follow, or are in the slot that the frame names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// The request with whose reply it comes.
    pub unique: u64,
    /// The open file or directory.
    pub handle: u64,
    /// Where in the directory the entries begin.
    pub position: u64,
    /// What it is.
    pub what: What,
}

impl Ahead {
    /// Bytes of it in a frame.
    pub const LEN: usize = 32;

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let what: u64 = match self.what {
            What::Content => 0,
            What::Entries { is_end: false } => 1,
            What::Entries { is_end: true } => 2,
            What::Names => 3,
        };
        let mut bytes = [0; Self::LEN];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip([self.unique, self.handle, self.position, what]) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// Reads a frame's payload; what follows it there.
    ///
    /// # Errors
    /// [`FilesError::Malformed`].
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8]), FilesError> {
        let wrong = FilesError::Malformed("AHEAD");
        let (head, rest) = payload.split_at_checked(Self::LEN).ok_or(wrong)?;
        let what = match long(head, 24) {
            0 => What::Content,
            1 => What::Entries { is_end: false },
            2 => What::Entries { is_end: true },
            3 => What::Names,
            _ => return Err(wrong),
        };
        Ok((Self { unique: long(head, 0), handle: long(head, 8), position: long(head, 16), what }, rest))
    }
}

/// What the guest has of one share and its kernel has not asked for yet.
///
/// Each change by this guest drops listings and contents: its kernel takes what a reply says for younger than the change. For
/// the same reason nothing is kept that was on its way meanwhile. Changes by others the server knows, which says so.
#[derive(Debug, Default)]
pub struct Store {
    listings: HashMap<u64, Listing>,
    contents: HashMap<u64, (Vec<u8>, Instant)>,
    /// Of directories: these bear changes by this guest.
    names: Names,
    /// Counts changes.
    changes: u64,
    /// Changes that the host has not answered.
    changing: HashSet<u64>,
    /// Requests whose replies may bring something, and how many changes there had been.
    asked: HashMap<u64, u64>,
    /// Nodes that were listed, and that the kernel will never hear of.
    forgotten: Vec<u64>,
}

#[derive(Debug)]
struct Listing {
    entries: Vec<u8>,
    /// Where the next one begins.
    at: usize,
    /// The position in the directory at which that one is.
    position: u64,
    is_end: bool,
    since: Instant,
}

impl Store {
    /// The whole reply to a request, if it is here. `head` is the request's beginning as for [`super::Asked::answer`]. It
    /// must see every request that is not answered otherwise.
    pub fn answer(&mut self, head: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (unique, handle) = (long(head, 8), long(head, IN_HEADER));
        let (offset, size) = (long(head, IN_HEADER + 8), word(head, IN_HEADER + 16) as usize);
        match word(head, 4) {
            op::READ => return self.content(handle, offset, size, now).map(|bytes| reply(unique, &bytes)),
            op::READDIRPLUS => match self.entries(handle, offset, size, now) {
                Some(bytes) => return Some(reply(unique, &bytes)),
                None => self.ask(unique),
            },
            op::READDIR | op::RELEASEDIR => self.drop_listing(handle),
            op::RELEASE => drop(self.contents.remove(&handle)),
            op::OPEN if word(head, IN_HEADER) & O_TRUNC == 0 => self.ask(unique),
            op::OPENDIR => self.ask(unique),
            op::SETLKW => self.change(),
            op::LOOKUP => match self.names.answer(head, now) {
                Some(errno) => return Some(local_reply(head, errno).to_vec()),
                None => self.ask(unique),
            },
            op::GETATTR | op::STATX | op::READLINK | op::STATFS | op::ACCESS | op::GETXATTR => {}
            op::LISTXATTR | op::LSEEK | op::FLUSH | op::FSYNC | op::FSYNCDIR | op::SYNCFS => {}
            op::FORGET | op::BATCH_FORGET | op::INTERRUPT => {}
            _ => {
                self.names.note(head);
                self.change();
                self.changing.insert(unique);
            }
        }
        None
    }

    fn ask(&mut self, unique: u64) {
        if self.changing.is_empty() {
            self.asked.insert(unique, self.changes);
        }
    }

    fn change(&mut self) {
        self.changes += 1;
        self.drop_contents();
    }

    /// The host has sent `bytes`. The reply that they come with follows.
    pub fn learn(&mut self, ahead: &Ahead, bytes: &[u8], now: Instant) {
        let is_old = self.asked.get(&ahead.unique) != Some(&self.changes);
        match ahead.what {
            What::Content if !is_old && self.contents.len() < KEPT_MAX => {
                self.contents.insert(ahead.handle, (bytes.to_vec(), now));
            }
            What::Names if !is_old => self.names.learn(ahead.handle, bytes, now),
            What::Content | What::Names => {}
            What::Entries { is_end } => {
                self.drop_listing(ahead.handle);
                let listing = Listing { entries: bytes.to_vec(), at: 0, position: ahead.position, is_end, since: now };
                if is_old || self.listings.len() >= KEPT_MAX {
                    return self.forget(&listing);
                }
                self.listings.insert(ahead.handle, listing);
            }
        }
    }

    /// The host has answered this request.
    pub fn answered(&mut self, unique: u64) {
        self.asked.remove(&unique);
        self.changing.remove(&unique);
    }

    /// Something here may no longer be true.
    pub fn drop_all(&mut self) {
        self.names.clear();
        self.drop_contents();
    }

    fn drop_contents(&mut self) {
        self.contents.clear();
        for (_, listing) in std::mem::take(&mut self.listings) {
            self.forget(&listing);
        }
    }

    /// Drops what is too old; whether anything is left that somebody has to look after.
    pub fn expire(&mut self, now: Instant) -> bool {
        self.names.expire(now);
        self.contents.retain(|_, (_, since)| now.saturating_duration_since(*since) < READ_AT_ONCE);
        let is_old = |listing: &Listing| now.saturating_duration_since(listing.since) >= BELIEVED;
        let old: Vec<u64> = self.listings.iter().filter(|(_, l)| is_old(l)).map(|(handle, _)| *handle).collect();
        old.into_iter().for_each(|handle| self.drop_listing(handle));
        !self.contents.is_empty() || !self.listings.is_empty()
    }

    /// A request that tells the host which nodes the kernel will never hear of, if there are any.
    pub fn forgets(&mut self) -> Option<Vec<u8>> {
        if self.forgotten.is_empty() {
            return None;
        }
        let mut bytes = vec![0; IN_HEADER];
        bytes.extend_from_slice(&(self.forgotten.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        for node in self.forgotten.drain(..) {
            bytes.extend_from_slice(&node.to_le_bytes());
            bytes.extend_from_slice(&1_u64.to_le_bytes());
        }
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes[4..8].copy_from_slice(&op::BATCH_FORGET.to_le_bytes());
        Some(bytes)
    }

    fn content(&mut self, handle: u64, offset: u64, size: usize, now: Instant) -> Option<Vec<u8>> {
        let (bytes, since) = self.contents.get(&handle)?;
        let from = usize::try_from(offset).ok().filter(|from| *from <= bytes.len());
        let fresh = now.saturating_duration_since(*since) < READ_AT_ONCE;
        let Some(from) = from.filter(|_| fresh) else {
            self.contents.remove(&handle);
            return None;
        };
        let end = from.saturating_add(size).min(bytes.len());
        let part = bytes[from..end].to_vec();
        if end == bytes.len() {
            // Once read, the kernel has it.
            self.contents.remove(&handle);
        }
        Some(part)
    }

    fn entries(&mut self, handle: u64, position: u64, size: usize, now: Instant) -> Option<Vec<u8>> {
        let listing = self.listings.get_mut(&handle)?;
        let left = BELIEVED.checked_sub(now.saturating_duration_since(listing.since)).filter(|left| !left.is_zero());
        let mut out = Vec::new();
        if let Some(left) = left.filter(|_| listing.position == position) {
            while let Some((len, next)) =
                entry(&listing.entries[listing.at..]).filter(|(len, _)| out.len() + len <= size)
            {
                let start = out.len();
                out.extend_from_slice(&listing.entries[listing.at..listing.at + len]);
                shorten(&mut out[start..], left);
                (listing.at, listing.position) = (listing.at + len, next);
            }
            if !out.is_empty() || listing.is_end && listing.at == listing.entries.len() {
                return Some(out);
            }
        }
        self.drop_listing(handle);
        None
    }

    fn drop_listing(&mut self, handle: u64) {
        if let Some(listing) = self.listings.remove(&handle) {
            self.forget(&listing);
        }
    }

    fn forget(&mut self, listing: &Listing) {
        self.forgotten.extend(listed_nodes(&listing.entries[listing.at..]));
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

/// A reply with this body.
fn reply(unique: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(OUT_HEADER + body.len());
    bytes.extend_from_slice(&((OUT_HEADER + body.len()) as u32).to_le_bytes());
    bytes.extend_from_slice(&0_i32.to_le_bytes());
    bytes.extend_from_slice(&unique.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(op: u32, unique: u64, words: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; IN_HEADER];
        bytes[4..8].copy_from_slice(&op.to_le_bytes());
        bytes[8..16].copy_from_slice(&unique.to_le_bytes());
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// An entry of a name of five bytes, which is 160 bytes long.
    fn one(node: u64, next: u64) -> Vec<u8> {
        let mut bytes = vec![0; 160];
        bytes[..8].copy_from_slice(&node.to_le_bytes());
        bytes[16] = 1;
        bytes[24] = 1;
        bytes[ENTRY_OUT + 8..][..8].copy_from_slice(&next.to_le_bytes());
        bytes[ENTRY_OUT + 16] = 5;
        bytes
    }

    const DIR: u64 = 7;

    /// A store that was told of nodes 11 to 13 when it asked for the listing.
    fn listed(now: Instant) -> Store {
        let mut store = Store::default();
        assert_eq!(store.answer(&request(op::OPENDIR, 1, &[0]), now), None);
        let ahead = Ahead { unique: 1, handle: DIR, position: 0, what: What::Entries { is_end: true } };
        store.learn(&ahead, &[one(11, 100), one(12, 200), one(13, 300)].concat(), now);
        store.answered(1);
        store
    }

    fn list(store: &mut Store, position: u64, size: u64, now: Instant) -> Option<Vec<u64>> {
        let reply = store.answer(&request(op::READDIRPLUS, 2, &[DIR, position, size]), now)?;
        Some(reply[OUT_HEADER..].chunks(160).map(|entry| long(entry, 0)).collect())
    }

    #[test]
    fn a_listing_is_handed_out_in_pieces_and_its_end_is_known() {
        let now = Instant::now();
        let mut store = listed(now);
        assert_eq!(list(&mut store, 0, 330, now), Some(vec![11, 12]));
        assert_eq!(list(&mut store, 200, 4096, now), Some(vec![13]));
        assert_eq!(list(&mut store, 300, 4096, now), Some(vec![]));
        assert_eq!(store.forgets(), None);
        store.answer(&request(op::RELEASEDIR, 3, &[DIR]), now);
        assert!(!store.expire(now));
    }

    #[test]
    fn entries_are_believed_only_for_the_rest_of_their_second() {
        let now = Instant::now();
        let mut store = listed(now);
        let reply = store.answer(&request(op::READDIRPLUS, 2, &[DIR, 0, 160]), now + BELIEVED / 4).unwrap();
        let entry = &reply[OUT_HEADER..];
        assert_eq!((long(entry, 16), word(entry, 32)), (0, 750_000_000));
        assert_eq!((long(entry, 24), word(entry, 36)), (0, 750_000_000));
        assert_eq!(list(&mut store, 100, 4096, now + BELIEVED), None);
        let forgets = store.forgets().unwrap();
        assert_eq!((word(&forgets, IN_HEADER), long(&forgets, IN_HEADER + 8)), (2, 12), "two were never handed out");
        assert_eq!(word(&forgets, 0) as usize, forgets.len());
    }

    #[test]
    fn who_reads_elsewhere_or_closes_is_forgotten_for() {
        let now = Instant::now();
        for (op, words) in
            [(op::READDIRPLUS, vec![DIR, 5, 4096]), (op::READDIR, vec![DIR, 0]), (op::RELEASEDIR, vec![DIR])]
        {
            let mut store = listed(now);
            assert_eq!(store.answer(&request(op, 2, &words), now), None);
            assert_eq!(word(&store.forgets().unwrap(), IN_HEADER), 3);
        }
    }

    #[test]
    fn a_change_by_this_guest_drops_all_also_what_is_on_its_way() {
        let now = Instant::now();
        let content = |store: &mut Store, unique| {
            store.learn(&Ahead { unique, handle: 9, position: 0, what: What::Content }, b"old", now);
            store.answered(unique);
            store.answer(&request(op::READ, 5, &[9, 0, 4096]), now)
        };
        let change = request(op::WRITE, 3, &[9]);
        let mut store = listed(now);
        store.answer(&change, now);
        assert_eq!(list(&mut store, 0, 4096, now), None);

        let mut store = Store::default();
        store.answer(&request(op::OPEN, 1, &[0]), now);
        store.answer(&change, now);
        store.answered(3);
        assert_eq!(content(&mut store, 1), None, "the change came after the question");
        store.answer(&change, now);
        store.answer(&request(op::OPEN, 4, &[0]), now);
        store.answered(3);
        assert_eq!(content(&mut store, 4), None, "the change was under way");
        store.answer(&request(op::OPEN, 6, &[0]), now);
        assert!(content(&mut store, 6).is_some());
        store.answer(&request(op::OPEN, 7, &[u64::from(O_TRUNC)]), now);
        assert!(!store.changing.is_empty());
    }

    #[test]
    fn a_content_is_for_who_reads_at_once() {
        let now = Instant::now();
        let opened = || {
            let mut store = Store::default();
            store.answer(&request(op::OPEN, 1, &[0]), now);
            store.learn(&Ahead { unique: 1, handle: 9, position: 0, what: What::Content }, b"content", now);
            store
        };
        let read = |store: &mut Store, offset, size, now| {
            store.answer(&request(op::READ, 2, &[9, offset, size]), now).map(|reply| reply[OUT_HEADER..].to_vec())
        };
        let mut store = opened();
        assert_eq!(read(&mut store, 0, 4, now).as_deref(), Some(&b"cont"[..]));
        assert_eq!(read(&mut store, 4, 4096, now).as_deref(), Some(&b"ent"[..]));
        assert_eq!(read(&mut store, 0, 4096, now), None, "once");
        assert_eq!(read(&mut opened(), 0, 4096, now + READ_AT_ONCE), None);
        assert_eq!(read(&mut opened(), 8, 4096, now), None);
        let mut store = opened();
        store.answer(&request(op::RELEASE, 2, &[9]), now);
        assert_eq!(read(&mut store, 0, 4096, now), None);
        let mut store = opened();
        store.answer(&request(op::SETLKW, 2, &[9]), now);
        assert_eq!(read(&mut store, 0, 4096, now), None, "who had the lock may have written");
        assert!(opened().expire(now) && !opened().expire(now + READ_AT_ONCE));
    }

    #[test]
    fn what_a_host_says_wrongly_is_an_error_or_of_no_use() {
        let ahead = Ahead { unique: 1, handle: 2, position: 3, what: What::Entries { is_end: false } };
        let bytes = [&ahead.encode()[..], b"rest"].concat();
        assert_eq!(Ahead::parse(&bytes), Ok((ahead, &b"rest"[..])));
        assert!(Ahead::parse(&bytes[..Ahead::LEN - 1]).is_err());
        assert!(Ahead::parse(&[9; Ahead::LEN]).is_err());
        let now = Instant::now();
        let mut store = Store::default();
        store.learn(&ahead, b"not asked for", now);
        store.answer(&request(op::OPENDIR, 1, &[0]), now);
        let mut forged = one(11, 1);
        forged[ENTRY_OUT + 16..][..4].fill(0xff);
        store.learn(&Ahead { handle: DIR, ..ahead }, &forged, now);
        assert_eq!(list(&mut store, 3, 4096, now), None);
    }
}
