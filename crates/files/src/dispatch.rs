//! From a request to the function that does it.

use proto::files::QUIET_CLOSE;
use proto::files::fuse::op;

use super::locks::{Waits, Wanted};
use super::ops::{attributes, data, directory, entry, ioctl, locking, missing, names, open, walk, xattr};
use super::share::Share;
use super::sys::{Errno, Result};
use super::wire::{Reply, Request};

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The reply is complete: a body, or an error instead.
    Done(Result<()>),
    /// There is none.
    Silent,
    /// The reply comes when this was had, in another thread.
    Waits(Wanted),
}

/// Whether a request has to be noted before the next one is read.
pub(crate) fn may_wait(request: &Request<'_>) -> bool {
    request.op == op::SETLKW
}

/// Whether nobody waits for a reply. Such a request is done in no time, without asking the host.
pub(crate) fn is_silent(request: &Request<'_>) -> bool {
    matches!(request.op, op::FORGET | op::BATCH_FORGET | op::INTERRUPT | op::DESTROY)
}

/// Whether a request closes a file or directory, which others may have to wait for. The courier has answered it.
pub(crate) fn closes(request: &Request<'_>) -> bool {
    matches!(request.op, op::RELEASE | op::RELEASEDIR)
}

/// Whether that takes no time: on a local file system, where the file does not go with it.
pub(crate) fn closes_at_once(share: &Share, request: Request<'_>) -> bool {
    let Request { node, mut args, .. } = request;
    let handle = if closes(&request) { args.u64().ok() } else { None };
    let quiet = handle.filter(|handle| handle & QUIET_CLOSE != 0);
    quiet.and_then(|handle| share.handles.get(handle, node).ok()).is_some_and(|handle| !handle.node.is_pinned())
}

/// Bytes that are read in no time, if they are in memory.
const SHORT: u32 = 128 * 1024;

/// Whether a request is about names and attributes or a few bytes, which a host's memory mostly has.
pub(crate) fn is_quick(request: &Request<'_>) -> bool {
    let Request { op, mut args, .. } = *request;
    match op {
        op::LOOKUP | op::GETATTR | op::STATX | op::ACCESS | op::READLINK | op::STATFS => true,
        op::GETXATTR | op::LISTXATTR => true,
        op::OPEN | op::CREATE | op::OPENDIR | op::READDIR | op::READDIRPLUS | op::WRITE => true,
        op::MKDIR | op::SYMLINK | op::LINK | op::UNLINK | op::RMDIR | op::RENAME | op::RENAME2 => true,
        op::READ => args.skip(16).and_then(|()| args.u32()).is_ok_and(|size| size <= SHORT),
        _ => false,
    }
}

/// Does what a request asks for.
pub(crate) fn dispatch(share: &Share, number: u16, waits: &Waits, request: Request<'_>, reply: &mut Reply) -> Outcome {
    let Request { op, node, mut args, .. } = request;
    let args = &mut args;
    reply.begin();
    match op {
        op::FORGET | op::BATCH_FORGET | op::INTERRUPT | op::DESTROY => {
            // Nobody hears of an error, and a wrong number is only the guest's loss.
            let _ = match op {
                op::FORGET => entry::forget(share, node, args),
                op::BATCH_FORGET => entry::batch_forget(share, args),
                op::INTERRUPT => args.u64().map(|unique| waits.interrupt(number, unique)),
                _ => Ok(()),
            };
            return Outcome::Silent;
        }
        op::SETLKW => {
            return match locking::setlk(share, node, args, true) {
                Ok(Some(_)) if !waits.has_room() => Outcome::Done(Err(Errno(libc::ENOLCK))),
                Ok(Some(wanted)) => Outcome::Waits(wanted),
                other => Outcome::Done(other.map(drop)),
            };
        }
        _ => {}
    }
    let done = match op {
        op::LOOKUP => entry::lookup(share, node, args, reply),
        op::GETATTR => attributes::getattr(share, node, args, reply),
        op::SETATTR => attributes::setattr(share, node, args, reply),
        op::READLINK => attributes::readlink(share, node, reply),
        op::ACCESS => attributes::access(share, node, args),
        op::STATFS => attributes::statfs(share, node, reply),
        op::STATX => attributes::statx(share, node, args, reply),
        op::SYMLINK => names::symlink(share, node, args, reply),
        op::MKNOD => names::mknod(share, node, args, reply),
        op::MKDIR => names::mkdir(share, node, args, reply),
        op::UNLINK => names::unlink(share, node, args, 0),
        op::RMDIR => names::unlink(share, node, args, libc::AT_REMOVEDIR),
        op::RENAME => names::rename(share, node, args, false),
        op::RENAME2 => names::rename(share, node, args, true),
        op::LINK => names::link(share, node, args, reply),
        op::OPEN => open::open(share, node, args, reply),
        op::CREATE => open::create(share, node, args, reply),
        op::TMPFILE => open::tmpfile(share, node, args, reply),
        op::FLUSH => open::flush(share, node, args),
        op::RELEASE | op::RELEASEDIR => open::release(share, node, args),
        op::FSYNC | op::FSYNCDIR => open::fsync(share, node, args),
        op::READ => data::read(share, node, args, reply),
        op::WRITE => data::write(share, node, args, reply),
        op::FALLOCATE => data::fallocate(share, node, args),
        op::LSEEK => data::lseek(share, node, args, reply),
        op::COPY_FILE_RANGE => data::copy_file_range(share, node, args, reply),
        op::SYNCFS => data::syncfs(share, node),
        op::OPENDIR => directory::opendir(share, node, reply),
        op::READDIR => directory::readdir(share, node, args, false, reply),
        op::READDIRPLUS => directory::readdir(share, node, args, true, reply),
        op::GETXATTR => xattr::get(share, node, args, reply),
        op::LISTXATTR => xattr::list(share, node, args, reply),
        op::SETXATTR => xattr::set(share, node, args),
        op::REMOVEXATTR => xattr::remove(share, node, args),
        op::GETLK => locking::getlk(share, node, args, reply),
        op::SETLK => locking::setlk(share, node, args, false).map(drop),
        op::IOCTL => ioctl::ioctl(share, node, args, reply),
        _ => Err(Errno(libc::ENOSYS)),
    };
    if done.is_err() {
        reply.fail();
    }
    if op == op::LOOKUP && done == Err(Errno(libc::ENOENT)) {
        missing::after(share, node, reply);
    }
    if op == op::OPENDIR && done.is_ok() {
        walk::after(share, node, reply);
    }
    Outcome::Done(done)
}
