//! GETLK, SETLK and SETLKW.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::super::handles::Handle;
use super::super::locks::{Holder, Wanted};
use super::super::share::Share;
use super::super::sys::lock::{How, Range, whole};
use super::super::sys::{self, Errno, Result, io};
use super::super::wire::{Args, Reply};

/// The lock is of the whole file and belongs to the open file.
const LK_FLOCK: u32 = 1;

/// A request's arguments.
struct Asked {
    handle: Arc<Handle>,
    owner: u64,
    range: Range,
    pid: u32,
    is_flock: bool,
}

fn parse(share: &Share, node: u64, args: &mut Args<'_>) -> Result<Asked> {
    let handle = share.handles.get(args.u64()?, node)?;
    let owner = args.u64()?;
    let (start, end) = (args.offset()?, args.offset()?);
    let (kind, pid, flags) = (args.u32()?, args.u32()?, args.u32()?);
    if handle.node.is(libc::S_IFDIR) && flags & LK_FLOCK == 0 || end < start || kind > libc::F_UNLCK as u32 {
        return Err(Errno(libc::EINVAL));
    }
    let len = if end == i64::MAX { 0 } else { end - start + 1 };
    let range = Range { kind: kind as i16, start, len, pid: 0 };
    Ok(Asked { handle, owner, range, pid, is_flock: flags & LK_FLOCK != 0 })
}

/// GETLK.
pub(crate) fn getlk(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let mut asked = parse(share, node, args)?;
    let wanted = asked.range;
    holder(share, &asked)?.range(How::Ask, &mut asked.range)?;
    let found = asked.range;
    let mut pid = 0;
    if found.kind != libc::F_UNLCK as i16 {
        let of_guest = share.locks.pid_in_the_way(node, asked.owner, found);
        // The host's processes have no number in the guest.
        pid = of_guest.unwrap_or(0);
    }
    let end = if found.len == 0 { i64::MAX } else { found.start.saturating_add(found.len - 1) };
    let (start, end) = if found.kind == libc::F_UNLCK as i16 { (wanted.start, i64::MAX) } else { (found.start, end) };
    reply.u64(start as u64);
    reply.u64(end as u64);
    reply.u32(found.kind as u32);
    reply.u32(pid);
    Ok(())
}

/// SETLK, and SETLKW if the guest waits. What it waits for, if that is not to be had at once.
pub(crate) fn setlk(share: &Share, node: u64, args: &mut Args<'_>, waits: bool) -> Result<Option<Wanted>> {
    let mut asked = parse(share, node, args)?;
    if asked.is_flock {
        share.closing.wait();
        let operation = match i32::from(asked.range.kind) {
            libc::F_RDLCK => libc::LOCK_SH,
            libc::F_WRLCK => libc::LOCK_EX,
            _ => libc::LOCK_UN,
        };
        return match whole(asked.handle.fd(), operation | libc::LOCK_NB) {
            Err(Errno(libc::EAGAIN)) if waits => Ok(Some(Wanted::Whole(asked.handle, operation))),
            other => other.map(|()| None),
        };
    }
    if asked.range.kind == libc::F_UNLCK as i16 && share.locks.existing(node, asked.owner).is_none() {
        return Ok(None);
    }
    let holder = holder(share, &asked)?;
    match holder.range(How::Try, &mut asked.range) {
        Err(Errno(libc::EAGAIN | libc::EACCES)) if waits => Ok(Some(Wanted::Range(holder, asked.range))),
        other => other.map(|()| None),
    }
}

fn holder(share: &Share, asked: &Asked) -> Result<Arc<Holder>> {
    let handle = &asked.handle;
    share.locks.holder(&handle.node, asked.owner, asked.pid, || open(share, handle))
}

/// An open file of its own for an owner's locks; if the user may no longer open it so, the handle's own.
fn open(share: &Share, handle: &Handle) -> Result<(OwnedFd, bool)> {
    if !share.is_read_only()
        && let Ok(fd) = sys::reopen(handle.fd(), libc::O_RDWR)
    {
        return Ok((fd, false));
    }
    if !handle.can_write()
        && let Ok(fd) = sys::reopen(handle.fd(), libc::O_RDONLY)
    {
        return Ok((fd, false));
    }
    Ok((io::duplicate(handle.fd())?, true))
}
