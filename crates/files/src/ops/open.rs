//! Opening and closing files.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::files::What;

use super::super::advance::{Advance, CONTENT_MAX};
use super::super::belief::Belief;
use super::super::nodes::Node;
use super::super::share::Share;
use super::super::sys::{self, Errno, Result, io};
use super::super::wire::{Args, Reply};
use super::{absent, entry, umask};

/// In the reply: the guest's kernel asks for each read and write, and keeps no data.
const FOPEN_DIRECT_IO: u32 = 1;
/// In the reply: the data that the guest has is still true.
const FOPEN_KEEP_CACHE: u32 = 1 << 1;

/// Flags of the guest's open that concern the host's file. Creating is a request of its own; links are followed by the
/// guest; O_DIRECT is about the guest's own memory.
const FLAGS: i32 = libc::O_ACCMODE | libc::O_APPEND | libc::O_TRUNC | libc::O_NOATIME | libc::O_SYNC | libc::O_DSYNC;

/// A file may be removed and made again between two looks at it so many times.
const TRIES: u32 = 8;

fn flags(args: &mut Args<'_>) -> Result<i32> {
    let all = args.u32()? as i32;
    Ok(all & FLAGS | all & libc::O_EXCL)
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0
}

/// Opens the file that a node is.
fn open_node(share: &Share, node: &Arc<Node>, flags: i32) -> Result<OwnedFd> {
    if !node.is(libc::S_IFREG) {
        // The guest opens FIFOs, sockets and devices itself; on the host nothing happens.
        return Err(Errno(if node.is(libc::S_IFLNK) { libc::ELOOP } else { libc::ENXIO }));
    }
    let fd = share.nodes.fd(node)?;
    sys::reopen(fd.as_fd(), flags & FLAGS | libc::O_NOCTTY)
}

/// The end of a reply to a request that has opened a file.
fn answer(share: &Share, node: Arc<Node>, fd: OwnedFd, flags: i32, keep: bool, reply: &mut Reply) -> u64 {
    let is_quiet = share.closes_quietly(node.key.0, fd.as_fd());
    let (handle, is_past) = share.handles.add(node, fd, flags, is_quiet);
    let direct = if is_past { FOPEN_DIRECT_IO } else { 0 };
    reply.u64(handle);
    reply.u32(direct | if keep { FOPEN_KEEP_CACHE } else { 0 });
    reply.u32(0);
    handle
}

/// The content of a small file that was just opened and that the guest has not: who opens a file reads it.
fn content(share: &Share, node: &Node, fd: BorrowedFd<'_>, size: i64, room: usize) -> Option<Vec<u8>> {
    let size = usize::try_from(size).ok().filter(|size| (1..=room.min(CONTENT_MAX)).contains(size))?;
    // One more, to see that it has not grown.
    let mut bytes = vec![0; size + 1];
    // Elsewhere only what is in the host's memory: a server or a tape could take its time.
    let read = match share.closes_quietly(node.key.0, fd) {
        true => io::pread(fd, &mut bytes, 0),
        false => io::pread_cached(fd, &mut bytes),
    };
    bytes.truncate(size);
    (read == Ok(size)).then_some(bytes)
}

/// OPEN. What another has written and closed before is seen from here on.
pub(crate) fn open(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let flags = flags(args)?;
    if writes(flags) {
        share.writable()?;
    }
    let node = share.nodes.get(node)?;
    share.handles.has_room()?;
    let fd = open_node(share, &node, flags)?;
    let seen = share.doubts.load(Ordering::SeqCst);
    let stat = sys::fstat(fd.as_fd())?;
    let now = sys::now();
    let (doubt, belief, has_data) =
        node.told(|told| (told.casts_doubt(&stat, now), told.compare(&stat), told.was_read()));
    if belief == Belief::False {
        reply.stale = Some(node.id);
    }
    let mut bytes = None;
    if doubt {
        share.cast_doubt(reply);
    } else if !has_data && flags & (libc::O_ACCMODE | libc::O_APPEND) == libc::O_RDONLY {
        node.told(|told| {
            told.sent_ahead(now);
            told.read_at(now);
        });
        bytes = content(share, &node, fd.as_fd(), stat.st_size, reply.room);
    }
    let handle = answer(share, node, fd, flags, belief == Belief::True, reply);
    reply.advance = bytes.map(|bytes| Advance { handle, position: 0, what: What::Content, bytes, seen });
    Ok(())
}

/// CREATE.
pub(crate) fn create(share: &Share, parent: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let flags = flags(args)?;
    let (mode, mask) = (args.u32()? & 0o7777, args.u32()?);
    args.skip(4)?;
    let name = args.name()?;
    let dir = share.dir(parent)?;
    share.handles.has_room()?;
    umask::set(mask)?;
    for _ in 0..TRIES {
        match sys::openat(dir.as_fd(), name, flags & FLAGS | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, mode) {
            Ok(fd) => return made(share, fd, flags, Some((parent, name)), reply),
            Err(Errno(libc::EEXIST)) if flags & libc::O_EXCL == 0 => {}
            Err(error) => return Err(error),
        }
        match existing(share, parent, dir.as_fd(), name, flags, reply) {
            // It was removed in between, or it was replaced.
            Err(Errno(libc::ENOENT | libc::ESTALE)) => reply.truncate(0),
            other => return other,
        }
    }
    Err(Errno(libc::ESTALE))
}

/// Opens what had the name already.
fn existing(share: &Share, parent: u64, dir: BorrowedFd<'_>, name: &CStr, flags: i32, reply: &mut Reply) -> Result<()> {
    let node = entry::answer(share, parent, dir, name, reply)?;
    match open_node(share, &node, flags) {
        Ok(fd) => {
            answer(share, node, fd, flags, false, reply);
            Ok(())
        }
        Err(error) => {
            // The guest gets no entry, so it will not forget the lookup.
            share.nodes.forget(node.id, 1);
            Err(error)
        }
    }
}

/// The reply for a new file that is open already.
fn made(share: &Share, fd: OwnedFd, flags: i32, place: Option<(u64, &CStr)>, reply: &mut Reply) -> Result<()> {
    let stat = sys::fstat(fd.as_fd())?;
    let path = sys::reopen(fd.as_fd(), libc::O_PATH)?;
    // A file without a name is found by its descriptor, which its handle keeps.
    let node = share.nodes.found(&stat, Some(path), place.unwrap_or((0, c"")))?;
    entry::tell(share, &node, &stat, reply);
    reply.absent.push(absent::made(node.id));
    answer(share, node, fd, flags & !libc::O_TRUNC, false, reply);
    Ok(())
}

/// TMPFILE.
pub(crate) fn tmpfile(share: &Share, parent: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let flags = flags(args)?;
    let (mode, mask) = (args.u32()? & 0o7777, args.u32()?);
    let dir = share.dir(parent)?;
    share.handles.has_room()?;
    umask::set(mask)?;
    let kept = flags & (FLAGS | libc::O_EXCL) & !libc::O_TRUNC;
    let fd = sys::openat(dir.as_fd(), c".", kept | libc::O_TMPFILE, mode)?;
    made(share, fd, flags, None, reply)
}

/// FLUSH: a process has closed one of its descriptors. Its POSIX locks in the file go, and errors of writing come now.
pub(crate) fn flush(share: &Share, node: u64, args: &mut Args<'_>) -> Result<()> {
    let handle = args.u64()?;
    args.skip(8)?;
    let owner = args.u64()?;
    share.locks.release(node, owner);
    let handle = share.handles.get(handle, node)?;
    if handle.written.swap(false, Ordering::Relaxed) {
        io::close_a_copy(handle.fd())?;
    }
    Ok(())
}

/// RELEASE and RELEASEDIR.
pub(crate) fn release(share: &Share, node: u64, args: &mut Args<'_>) -> Result<()> {
    share.handles.remove(args.u64()?, node).map(drop)
}

/// FSYNC and FSYNCDIR.
pub(crate) fn fsync(share: &Share, node: u64, args: &mut Args<'_>) -> Result<()> {
    /// Data only.
    const FDATASYNC: u32 = 1;
    let handle = share.handles.get(args.u64()?, node)?;
    if args.u32()? & FDATASYNC != 0 { io::fdatasync(handle.fd()) } else { io::fsync(handle.fd()) }
}
