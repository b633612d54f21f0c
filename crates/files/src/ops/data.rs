//! Data of open files.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use proto::files::MAX_DATA;

use super::super::share::Share;
use super::super::slots::Lent;
use super::super::sys::{self, Errno, Result, io};
use super::super::wire::{Args, Reply};

/// In WRITE: the guest's kernel writes what a mapping has changed, at that offset.
const WRITE_CACHE: u32 = 1;

/// Bulk data passes through a buffer of so many bytes: it stays in the processor's cache between the two copies.
const PIECE: usize = 128 * 1024;

/// One COPY_FILE_RANGE copies so much at most: the guest asks again for the rest, and can be interrupted in between.
const COPY_MAX: usize = 64 * 1024 * 1024;

/// READ.
pub(crate) fn read(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let handle = share.handles.get(args.u64()?, node)?;
    let (offset, size) = (args.offset()?, args.u32()? as usize);
    if size > MAX_DATA || handle.node.is(libc::S_IFDIR) {
        return Err(Errno(libc::EINVAL));
    }
    handle.node.told(|told| told.read_at(sys::now()));
    if size > PIECE
        && let Some((lent, data)) = reply.lent.take()
    {
        if let Some(read) = read_to(handle.fd(), &lent, (offset, size), reply)? {
            reply.in_slot = read;
            return Ok(());
        }
        reply.lent = Some((lent, data));
    }
    let start = reply.len();
    let read = io::pread(handle.fd(), reply.grow(size), offset)?;
    reply.truncate(start + read);
    Ok(())
}

/// Reads to a slot; how many bytes, or `None` if the slot cannot be reached. The buffer of the reply is used and left empty.
fn read_to(fd: BorrowedFd<'_>, slot: &Lent, (offset, size): (i64, usize), reply: &mut Reply) -> Result<Option<usize>> {
    let mut done = 0;
    while done < size {
        let wanted = PIECE.min(size - done);
        let at = offset.checked_add(done as i64).ok_or(Errno(libc::EINVAL))?;
        let piece = reply.grow(wanted);
        let read = io::pread(fd, piece, at)?;
        let is_there = slot.write(done, &piece[..read]).is_ok();
        reply.truncate(0);
        if !is_there {
            return Ok(None);
        }
        done += read;
        if read < wanted {
            break;
        }
    }
    Ok(Some(done))
}

/// WRITE. What is appended never overwrites, whoever else appends.
pub(crate) fn write(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let handle = share.handles.get(args.u64()?, node)?;
    let (offset, size, kind) = (args.offset()?, args.u32()? as usize, args.u32()?);
    args.skip(8)?;
    let flags = args.u32()? as i32;
    args.skip(4)?;
    let appends = flags & libc::O_APPEND != 0 && kind & WRITE_CACHE == 0;
    let fd = if appends { handle.fd() } else { handle.plain()? };
    let put = |data: &[u8], at| match appends && !handle.appends() {
        true => io::append(fd, data),
        false => io::pwrite(fd, data, at),
    };
    handle.written.store(true, Ordering::Relaxed);
    let written = match reply.lent.take() {
        Some((slot, data @ 1..)) if size <= data => {
            // What is appended stays in one piece, and each piece of the others would wait for a disk.
            let is_whole = appends || handle.flags & (libc::O_SYNC | libc::O_DSYNC) != 0;
            write_from(&slot, (offset, size), if is_whole { size } else { PIECE }, reply, put)?
        }
        _ => put(args.data(size)?, offset)?,
    };
    handle.node.past.wrote(handle.is_past);
    reply.u32(written as u32);
    reply.u32(0);
    Ok(())
}

/// Writes `size` bytes of a slot in pieces; how many were written. The buffer of the reply is used and left empty.
fn write_from(
    slot: &Lent,
    (offset, size): (i64, usize),
    piece: usize,
    reply: &mut Reply,
    put: impl Fn(&[u8], i64) -> Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while done < size {
        let wanted = piece.min(size - done);
        let at = offset.checked_add(done as i64).ok_or(Errno(libc::EINVAL))?;
        let data = reply.grow(wanted);
        let written = slot.read(done, data).and_then(|()| put(data, at));
        reply.truncate(0);
        match written {
            Ok(written) if written == wanted => done += written,
            // A disk that is full: as with one write, the next one says so.
            Ok(written) => return Ok(done + written),
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
        }
    }
    Ok(done)
}

/// FALLOCATE.
pub(crate) fn fallocate(share: &Share, node: u64, args: &mut Args<'_>) -> Result<()> {
    share.writable()?;
    let handle = share.handles.get(args.u64()?, node)?;
    let (offset, len, mode) = (args.offset()?, args.offset()?, args.u32()?);
    handle.written.store(true, Ordering::Relaxed);
    io::fallocate(handle.fd(), mode as i32, offset, len)
}

/// LSEEK: data and holes only, the rest needs no host.
pub(crate) fn lseek(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let handle = share.handles.get(args.u64()?, node)?;
    let (offset, whence) = (args.offset()?, args.u32()? as i32);
    if !matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE) || handle.node.is(libc::S_IFDIR) {
        return Err(Errno(libc::EINVAL));
    }
    reply.u64(io::lseek(handle.fd(), offset, whence)?);
    Ok(())
}

/// COPY_FILE_RANGE.
pub(crate) fn copy_file_range(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let from = share.handles.get(args.u64()?, node)?;
    let offset = args.offset()?;
    let to_node = args.u64()?;
    let to = share.handles.get(args.u64()?, to_node)?;
    let (to_offset, len, flags) = (args.offset()?, args.u64()?, args.u64()?);
    let len = usize::try_from(len).unwrap_or(COPY_MAX).min(COPY_MAX);
    let flags = u32::try_from(flags).map_err(|_| Errno(libc::EINVAL))?;
    to.written.store(true, Ordering::Relaxed);
    let copied = io::copy_range(from.fd(), offset, to.fd(), to_offset, len, flags)?;
    reply.u32(copied as u32);
    reply.u32(0);
    Ok(())
}

/// SYNCFS.
pub(crate) fn syncfs(share: &Share, node: u64) -> Result<()> {
    let node = share.nodes.get(node)?;
    if !node.is(libc::S_IFDIR) && !node.is(libc::S_IFREG) {
        return Err(Errno(libc::EINVAL));
    }
    let fd = share.nodes.fd(&node)?;
    io::syncfs(sys::reopen(fd.as_fd(), libc::O_RDONLY)?.as_fd())
}
