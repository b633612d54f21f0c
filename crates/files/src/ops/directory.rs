//! Listing directories.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proto::files::{MAX_DATA, What};

use super::super::advance::{Advance, ENTRIES_MAX, leaves_room};
use super::super::handles::{Handle, Listing};
use super::super::nodes::{Node, lock};
use super::super::share::Share;
use super::super::sys::{self, Errno, Result, io};
use super::super::wire::{Args, Reply};
use super::{absent, entry};

/// Bytes before an entry's name in `struct linux_dirent64`: inode u64, next position u64, length u16, type u8.
const HOST_HEAD: usize = 19;
/// Bytes before an entry's name in `struct fuse_dirent`: inode u64, next position u64, length u32, type u32.
const GUEST_HEAD: usize = 24;
/// Bytes of `fuse_entry_out`.
const ENTRY_OUT: usize = 128;
/// Bytes that are read of a directory at once.
const CHUNK: usize = 32 * 1024;

/// Entries get their attributes for so long. Where each look at a file is a question to a server, names come without them.
const TIME_MAX: Duration = Duration::from_millis(3);

/// One entry, as the host's kernel gave it.
#[derive(Debug)]
struct Entry<'a> {
    ino: u64,
    /// Where the next one is.
    next: u64,
    kind: u8,
    name: &'a CStr,
    /// Bytes in the listing.
    len: usize,
}

/// OPENDIR.
pub(crate) fn opendir(share: &Share, node: u64, reply: &mut Reply) -> Result<()> {
    let node = share.nodes.get(node)?;
    if !node.is(libc::S_IFDIR) {
        return Err(Errno(libc::ENOTDIR));
    }
    share.handles.has_room()?;
    let fd = sys::reopen(share.nodes.fd(&node)?.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY)?;
    share.walk.opens(node.id, node.parent(), Instant::now());
    let (id, is_quiet) = (node.id, share.closes_quietly(node.key.0, fd.as_fd()));
    let (handle, _) = share.handles.add(node, fd, libc::O_RDONLY, is_quiet);
    reply.u64(handle);
    reply.u64(0);
    if let Ok(open) = share.handles.get(handle, id) {
        ahead(share, handle, &open, &mut lock(&open.listing), reply);
        reply.absent = absent::more(share);
    }
    Ok(())
}

/// READDIR, and READDIRPLUS if the guest wants attributes too.
pub(crate) fn readdir(share: &Share, node: u64, args: &mut Args<'_>, plus: bool, reply: &mut Reply) -> Result<()> {
    let id = args.u64()?;
    let handle = share.handles.get(id, node)?;
    let (position, size) = (args.u64()?, args.u32()? as usize);
    if size > MAX_DATA || !handle.node.is(libc::S_IFDIR) {
        return Err(Errno(libc::EINVAL));
    }
    let mut listing = lock(&handle.listing);
    if listing.position != position || position == 0 {
        io::lseek(handle.fd(), position as i64, libc::SEEK_SET)?;
        *listing = Listing { position, entries: std::mem::take(&mut listing.entries), at: usize::MAX };
    }
    let is_end = list(share, &handle, &mut listing, Kind { plus, ahead: false }, size, reply)?;
    if plus {
        if !is_end && leaves_room(reply.len()) {
            ahead(share, id, &handle, &mut listing, reply);
        } else if is_end && reply.len() > 0 {
            // The guest will ask once more.
            let (position, what) = (listing.position, What::Entries { is_end: true });
            let seen = share.doubts.load(Ordering::SeqCst);
            reply.advance = Some(Advance { handle: id, position, what, bytes: Vec::new(), seen });
        }
        reply.absent = absent::more(share);
    }
    if listing.at >= listing.entries.len() {
        // Handles of large directories do not keep their buffers.
        (listing.entries, listing.at) = (Vec::new(), 0);
    }
    Ok(())
}

/// Opens a directory, and lists it in at most `size` bytes, before the guest opens it: its handle, its entries, and whether they
/// are all. `None` where the file system is not local: there each look may take long.
pub(crate) fn opened(share: &Share, node: Arc<Node>, size: usize, more: &mut Reply) -> Option<(u64, bool)> {
    share.handles.has_room().ok()?;
    let fd = sys::reopen(share.nodes.fd(&node).ok()?.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY).ok()?;
    if !share.closes_quietly(node.key.0, fd.as_fd()) {
        return None;
    }
    let id = node.id;
    let (handle, _) = share.handles.add(node, fd, libc::O_RDONLY, true);
    let open = share.handles.get(handle, id).ok()?;
    let kind = Kind { plus: true, ahead: true };
    let listed = list(share, &open, &mut lock(&open.listing), kind, size, more);
    Some((handle, listed.unwrap_or(false)))
}

/// How entries are listed.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// With attributes.
    plus: bool,
    /// Before the guest asks for them.
    ahead: bool,
}

/// Writes entries of at most `size` bytes; whether nothing follows them.
fn list(
    share: &Share,
    handle: &Handle,
    listing: &mut Listing,
    kind: Kind,
    size: usize,
    reply: &mut Reply,
) -> Result<bool> {
    let (start, begun) = (reply.len(), Instant::now());
    loop {
        if listing.at >= listing.entries.len() && !fill(handle, listing)? {
            return Ok(true);
        }
        let Some(entry) = parse(&listing.entries[listing.at..]) else { return Err(Errno(libc::EIO)) };
        let head = if kind.plus { ENTRY_OUT + GUEST_HEAD } else { GUEST_HEAD };
        let padded = (head + entry.name.count_bytes()).next_multiple_of(8);
        let is_late = begun.elapsed() > TIME_MAX;
        if reply.len() - start + padded > size {
            // No room for a single one: the same error as the host's.
            return if reply.len() == start { Err(Errno(libc::EINVAL)) } else { Ok(false) };
        }
        if kind.ahead && is_late {
            return Ok(false);
        }
        write(share, handle, &entry, Kind { plus: kind.plus && !is_late, ..kind }, kind.plus, reply);
        (listing.at, listing.position) = (listing.at + entry.len, entry.next);
    }
}

/// Sends the next entries with this reply.
fn ahead(share: &Share, id: u64, handle: &Handle, listing: &mut Listing, reply: &mut Reply) {
    let (seen, position) = (share.doubts.load(Ordering::SeqCst), listing.position);
    let mut more = Reply::default();
    more.begin();
    // An error comes again when the guest asks.
    let kind = Kind { plus: true, ahead: true };
    let is_end = list(share, handle, listing, kind, reply.room.min(ENTRIES_MAX), &mut more).unwrap_or(false);
    let (what, bytes) = (What::Entries { is_end }, more.body().to_vec());
    reply.doubt |= more.doubt;
    if is_end || !bytes.is_empty() {
        reply.advance = Some(Advance { handle: id, position, what, bytes, seen });
    }
}

/// Reads the next entries; false at the end.
fn fill(handle: &Handle, listing: &mut Listing) -> Result<bool> {
    listing.entries.resize(CHUNK, 0);
    let len = sys::getdents(handle.fd(), &mut listing.entries);
    listing.entries.truncate(*len.as_ref().unwrap_or(&0));
    listing.at = 0;
    Ok(len? > 0)
}

/// Calls `each` with all names of a directory that was just opened; `None` if there are more than `most`.
pub(crate) fn names(fd: BorrowedFd<'_>, most: usize, mut each: impl FnMut(&CStr)) -> Option<()> {
    let (mut bytes, mut count) = (vec![0; CHUNK], 0);
    loop {
        let len = sys::getdents(fd, &mut bytes).ok()?;
        if len == 0 {
            return Some(());
        }
        let mut rest = &bytes[..len];
        while !rest.is_empty() {
            let entry = parse(rest)?;
            each(entry.name);
            count += 1;
            rest = rest.get(entry.len..)?;
        }
        if count > most {
            return None;
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Entry<'_>> {
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
    let len = usize::from(u16::from_le_bytes(*bytes.get(16..)?.first_chunk()?));
    let name = CStr::from_bytes_until_nul(bytes.get(HOST_HEAD..len)?).ok()?;
    Some(Entry { ino: word(0)?, next: word(8)?, kind: *bytes.get(18)?, name, len })
}

/// One entry for the guest, with room for attributes if `has_room`.
fn write(share: &Share, handle: &Handle, found: &Entry<'_>, how: Kind, has_room: bool, reply: &mut Reply) {
    let is_dot = matches!(found.name.to_bytes(), b"." | b"..");
    let mut ino = share.ino_on(handle.node.key.0, found.ino);
    let mut kind = u32::from(found.kind);
    if has_room {
        match if is_dot || !how.plus { None } else { look(share, handle, found.name) } {
            Some((node, stat)) => {
                ino = share.ino(&stat);
                kind = stat.st_mode >> 12;
                match node {
                    Some(node) => {
                        share.ahead.listed(node.id);
                        if node.is(libc::S_IFDIR) {
                            share.walk.listed(handle.node.id, node.id);
                        }
                        entry::tell(share, &node, &stat, reply);
                        if how.ahead {
                            node.told(|told| told.sent_ahead(sys::now()));
                        }
                    }
                    None => reply.grow(ENTRY_OUT).fill(0),
                }
            }
            // Without a node the guest looks it up when it needs it.
            None => reply.grow(ENTRY_OUT).fill(0),
        }
    }
    if found.name == c".." && handle.node.id == share.nodes.root().id {
        ino = share.ino_on(handle.node.key.0, handle.node.key.1);
    }
    let name = found.name.to_bytes();
    reply.u64(ino);
    reply.u64(found.next);
    reply.u32(name.len() as u32);
    reply.u32(kind);
    reply.push(name);
    let padding = (GUEST_HEAD + name.len()).next_multiple_of(8) - GUEST_HEAD - name.len();
    reply.grow(padding).fill(0);
}

type Looked = (Option<Arc<Node>>, libc::stat);

fn look(share: &Share, handle: &Handle, name: &CStr) -> Option<Looked> {
    let stat = sys::fstatat(handle.fd(), name).ok()?;
    Some((share.nodes.listed(&stat, (handle.node.id, name)).ok(), stat))
}
