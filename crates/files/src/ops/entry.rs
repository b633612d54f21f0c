//! From names to nodes.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::super::nodes::Node;
use super::super::share::Share;
use super::super::sys::{self, Errno, Result};
use super::super::wire::{Args, Reply};

/// A file may be replaced between two looks at it so many times.
const TRIES: u32 = 8;

/// LOOKUP.
pub(crate) fn lookup(share: &Share, parent: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let name = args.name()?;
    let dir = share.dir(parent)?;
    answer(share, parent, dir.as_fd(), name, reply).map(drop)
}

/// Finds a name, and tells the guest of it. The node has one lookup more then.
pub(crate) fn answer(
    share: &Share,
    parent: u64,
    dir: BorrowedFd<'_>,
    name: &CStr,
    reply: &mut Reply,
) -> Result<Arc<Node>> {
    let (node, stat) = find(share, parent, dir, name)?;
    tell(share, &node, &stat, reply);
    Ok(node)
}

/// Tells the guest of a node that it has looked up.
pub(crate) fn tell(share: &Share, node: &Node, stat: &libc::stat, reply: &mut Reply) {
    note(share, node, stat, reply);
    reply.entry_out(node.id, &node.past.seen(stat, sys::now()), share.ino(stat));
}

/// Notes what the guest is told of a node.
pub(crate) fn note(share: &Share, node: &Node, stat: &libc::stat, reply: &mut Reply) {
    let doubt = node.told(|told| {
        let doubt = told.casts_doubt(stat, sys::now());
        told.tell(stat);
        doubt
    });
    if doubt {
        share.cast_doubt(reply);
    }
}

fn find(share: &Share, parent: u64, dir: BorrowedFd<'_>, name: &CStr) -> Result<(Arc<Node>, libc::stat)> {
    let place = (parent, name);
    for _ in 0..TRIES {
        let stat = sys::fstatat(dir, name)?;
        if share.nodes.known(&stat).is_some_and(|node| share.nodes.has_fd(&node)) {
            return Ok((share.nodes.found(&stat, None, place)?, stat));
        }
        let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        // As a directory: so an automounter mounts what belongs there.
        let kind = if is_dir { libc::O_DIRECTORY } else { 0 };
        match sys::openat(dir, name, libc::O_PATH | libc::O_NOFOLLOW | kind, 0) {
            Ok(fd) => {
                let stat = sys::fstat(fd.as_fd())?;
                return Ok((share.nodes.found(&stat, Some(fd), place)?, stat));
            }
            Err(Errno(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {}
            // What cannot be mounted can still be seen.
            Err(_) if is_dir => return Ok((share.nodes.found(&stat, None, place)?, stat)),
            Err(error) => return Err(error),
        }
    }
    let stat = sys::fstatat(dir, name)?;
    Ok((share.nodes.found(&stat, None, place)?, stat))
}

/// Before a name goes: the guest may go on using the file behind it, so its node gets a descriptor.
pub(crate) fn pin(share: &Share, dir: BorrowedFd<'_>, name: &CStr) {
    let Ok(stat) = sys::fstatat(dir, name) else { return };
    let Some(node) = share.nodes.known(&stat) else { return };
    if node.is(libc::S_IFREG) && share.keeps_names(&stat, dir) {
        return share.nodes.let_go(&node);
    }
    if stat.st_nlink <= 1 || node.is(libc::S_IFDIR) {
        share.nodes.pin(&node);
    }
    if share.nodes.has_fd(&node) {
        return;
    }
    let Ok(fd) = sys::openat(dir, name, libc::O_PATH | libc::O_NOFOLLOW, 0) else { return };
    if sys::fstat(fd.as_fd()).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == node.key) {
        share.nodes.keep(&node, fd);
    }
}

/// After a name was given: the node behind it, if the guest knows it, is there now.
pub(crate) fn settle(share: &Share, parent: u64, dir: BorrowedFd<'_>, name: &CStr) {
    let Ok(stat) = sys::fstatat(dir, name) else { return };
    if let Some(node) = share.nodes.known(&stat) {
        share.nodes.moved(&node, (parent, name));
    }
}

/// FORGET.
pub(crate) fn forget(share: &Share, node: u64, args: &mut Args<'_>) -> Result<()> {
    share.nodes.forget(node, args.u64()?);
    Ok(())
}

/// BATCH_FORGET.
pub(crate) fn batch_forget(share: &Share, args: &mut Args<'_>) -> Result<()> {
    let count = args.u32()?;
    args.skip(4)?;
    // The bytes end before a forged count does.
    for _ in 0..count {
        let (node, lookups) = (args.u64()?, args.u64()?);
        share.nodes.forget(node, lookups);
    }
    Ok(())
}
