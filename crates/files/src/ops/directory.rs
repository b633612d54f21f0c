//! Listing directories.

use std::ffi::CStr;
use std::os::fd::AsFd;

use proto::files::MAX_DATA;

use super::super::handles::{Handle, Listing};
use super::super::nodes::lock;
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
    reply.u64(share.handles.add(node, fd, libc::O_RDONLY, false));
    reply.u64(0);
    Ok(())
}

/// READDIR, and READDIRPLUS if the guest wants attributes too.
pub(crate) fn readdir(share: &Share, node: u64, args: &mut Args<'_>, plus: bool, reply: &mut Reply) -> Result<()> {
    let handle = share.handles.get(args.u64()?, node)?;
    let (position, size) = (args.u64()?, args.u32()? as usize);
    if size > MAX_DATA || !handle.node.is(libc::S_IFDIR) {
        return Err(Errno(libc::EINVAL));
    }
    let start = reply.len();
    let mut listing = lock(&handle.listing);
    if listing.position != position || position == 0 {
        io::lseek(handle.fd(), position as i64, libc::SEEK_SET)?;
        *listing = Listing { position, entries: std::mem::take(&mut listing.entries), at: usize::MAX };
    }
    loop {
        if listing.at >= listing.entries.len() && !fill(&handle, &mut listing)? {
            break;
        }
        let Some(entry) = parse(&listing.entries[listing.at..]) else { return Err(Errno(libc::EIO)) };
        let head = if plus { ENTRY_OUT + GUEST_HEAD } else { GUEST_HEAD };
        let padded = (head + entry.name.count_bytes()).next_multiple_of(8);
        if reply.len() - start + padded > size {
            // No room for a single one: the same error as the host's.
            if reply.len() == start {
                return Err(Errno(libc::EINVAL));
            }
            break;
        }
        write(share, &handle, &entry, plus, reply);
        (listing.at, listing.position) = (listing.at + entry.len, entry.next);
    }
    if plus {
        reply.absent = absent::more(share);
    }
    if listing.at >= listing.entries.len() {
        // Handles of large directories do not keep their buffers.
        (listing.entries, listing.at) = (Vec::new(), 0);
    }
    Ok(())
}

/// Reads the next entries; false at the end.
fn fill(handle: &Handle, listing: &mut Listing) -> Result<bool> {
    listing.entries.resize(CHUNK, 0);
    let len = sys::getdents(handle.fd(), &mut listing.entries);
    listing.entries.truncate(*len.as_ref().unwrap_or(&0));
    listing.at = 0;
    Ok(len? > 0)
}

fn parse(bytes: &[u8]) -> Option<Entry<'_>> {
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
    let len = usize::from(u16::from_le_bytes(*bytes.get(16..)?.first_chunk()?));
    let name = CStr::from_bytes_until_nul(bytes.get(HOST_HEAD..len)?).ok()?;
    Some(Entry { ino: word(0)?, next: word(8)?, kind: *bytes.get(18)?, name, len })
}

/// One entry for the guest.
fn write(share: &Share, handle: &Handle, found: &Entry<'_>, plus: bool, reply: &mut Reply) {
    let is_dot = matches!(found.name.to_bytes(), b"." | b"..");
    let mut ino = share.ino_on(handle.node.key.0, found.ino);
    let mut kind = u32::from(found.kind);
    if plus {
        match if is_dot { None } else { look(share, handle, found.name) } {
            Some((node, stat)) => {
                ino = share.ino(&stat);
                kind = stat.st_mode >> 12;
                match node {
                    Some(node) => {
                        share.ahead.listed(node.id);
                        entry::tell(share, &node, &stat, reply);
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

type Looked = (Option<std::sync::Arc<super::super::nodes::Node>>, libc::stat);

fn look(share: &Share, handle: &Handle, name: &CStr) -> Option<Looked> {
    let stat = sys::fstatat(handle.fd(), name).ok()?;
    Some((share.nodes.listed(&stat, (handle.node.id, name)).ok(), stat))
}
