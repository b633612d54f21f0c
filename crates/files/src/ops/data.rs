//! Data of open files.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use proto::files::MAX_DATA;

use super::super::share::Share;
use super::super::sys::{self, Errno, Result, io};
use super::super::wire::{Args, Reply};

/// In WRITE: the guest's kernel writes what a mapping has changed, at that offset.
const WRITE_CACHE: u32 = 1;

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
    let start = reply.len();
    let read = io::pread(handle.fd(), reply.grow(size), offset)?;
    reply.truncate(start + read);
    Ok(())
}

/// WRITE. What is appended never overwrites, whoever else appends.
pub(crate) fn write(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let handle = share.handles.get(args.u64()?, node)?;
    let (offset, size, kind) = (args.offset()?, args.u32()? as usize, args.u32()?);
    args.skip(8)?;
    let flags = args.u32()? as i32;
    args.skip(4)?;
    let data = args.data(size)?;
    handle.written.store(true, Ordering::Relaxed);
    let appends = flags & libc::O_APPEND != 0 && kind & WRITE_CACHE == 0;
    let written = match (appends, handle.appends()) {
        (true, false) => io::append(handle.fd(), data)?,
        (true, true) => io::pwrite(handle.fd(), data, offset)?,
        (false, _) => io::pwrite(handle.plain()?, data, offset)?,
    };
    reply.u32(written as u32);
    reply.u32(0);
    Ok(())
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
