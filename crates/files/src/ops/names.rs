//! Making, renaming and removing names.

use std::os::fd::AsFd;

use super::super::share::Share;
use super::super::sys::{self, Errno, Result, from_wire_device};
use super::super::wire::{Args, Reply};
use super::{entry, umask};

/// Type and permissions of a mode.
const MODE: u32 = libc::S_IFMT | 0o7777;

/// MKNOD: the host's kernel refuses devices.
pub(crate) fn mknod(share: &Share, parent: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let (mode, device, mask) = (args.u32()?, args.u32()?, args.u32()?);
    args.skip(4)?;
    let name = args.name()?;
    let dir = share.dir(parent)?;
    umask::set(mask)?;
    sys::mknod(dir.as_fd(), name, mode & MODE, from_wire_device(device))?;
    entry::answer(share, parent, dir.as_fd(), name, reply).map(drop)
}

/// MKDIR.
pub(crate) fn mkdir(share: &Share, parent: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let (mode, mask) = (args.u32()?, args.u32()?);
    let name = args.name()?;
    let dir = share.dir(parent)?;
    umask::set(mask)?;
    sys::mkdir(dir.as_fd(), name, mode & 0o7777)?;
    entry::answer(share, parent, dir.as_fd(), name, reply).map(drop)
}

/// SYMLINK.
pub(crate) fn symlink(share: &Share, parent: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let name = args.name()?;
    let target = args.string()?;
    let dir = share.dir(parent)?;
    sys::symlink(target, dir.as_fd(), name)?;
    entry::answer(share, parent, dir.as_fd(), name, reply).map(drop)
}

/// LINK.
pub(crate) fn link(share: &Share, parent: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let old = share.nodes.get(args.u64()?)?;
    let name = args.name()?;
    if old.is(libc::S_IFDIR) {
        return Err(Errno(libc::EPERM));
    }
    let fd = share.nodes.fd(&old)?;
    let dir = share.dir(parent)?;
    sys::link(fd.as_fd(), dir.as_fd(), name)?;
    let stat = sys::fstat(fd.as_fd())?;
    let node = share.nodes.found(&stat, None, (parent, name))?;
    entry::tell(share, &node, &stat, reply);
    Ok(())
}

/// UNLINK, and RMDIR with AT_REMOVEDIR.
pub(crate) fn unlink(share: &Share, parent: u64, args: &mut Args<'_>, flags: i32) -> Result<()> {
    share.writable()?;
    let name = args.name()?;
    let dir = share.dir(parent)?;
    share.closing.wait();
    entry::pin(share, dir.as_fd(), name);
    sys::unlink(dir.as_fd(), name, flags)
}

/// RENAME, and RENAME2 if it has flags.
pub(crate) fn rename(share: &Share, parent: u64, args: &mut Args<'_>, has_flags: bool) -> Result<()> {
    share.writable()?;
    let new_parent = args.u64()?;
    let flags = if has_flags { args.u32()? } else { 0 };
    if has_flags {
        args.skip(4)?;
    }
    let (name, new_name) = (args.name()?, args.name()?);
    let (from, to) = (share.dir(parent)?, share.dir(new_parent)?);
    share.closing.wait();
    entry::pin(share, to.as_fd(), new_name);
    sys::rename(from.as_fd(), name, to.as_fd(), new_name, flags)?;
    entry::settle(share, new_parent, to.as_fd(), new_name);
    if flags & libc::RENAME_EXCHANGE != 0 {
        entry::settle(share, parent, from.as_fd(), name);
    }
    Ok(())
}
