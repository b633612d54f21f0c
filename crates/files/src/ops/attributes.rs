//! Attributes of files and of the file system.

use std::os::fd::AsFd;

use super::super::belief::Told;
use super::super::share::{Share, Target};
use super::super::sys::{self, Errno, Result};
use super::super::wire::{Args, Reply};
use super::entry;

/// In GETATTR: a handle is given.
const GETATTR_FH: u32 = 1;

/// Bits of SETATTR: what is to be set.
mod valid {
    pub(super) const MODE: u32 = 1;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const FH: u32 = 1 << 6;
    pub(super) const ATIME_NOW: u32 = 1 << 7;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
}

/// Longest target of a link.
const LINK_MAX: usize = 4096;

/// GETATTR.
pub(crate) fn getattr(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let flags = args.u32()?;
    args.skip(4)?;
    let handle = args.u64()?;
    let target = share.by_handle(node, (flags & GETATTR_FH != 0).then_some(handle))?;
    let stat = sys::fstat(target.fd())?;
    entry::note(share, target.node(), &stat, reply);
    reply.attr_out(&target.node().past.seen(&stat, sys::now()), share.ino(&stat));
    Ok(())
}

/// STATX.
pub(crate) fn statx(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let flags = args.u32()?;
    args.skip(4)?;
    let handle = args.u64()?;
    let (sync, mask) = (args.u32()?, args.u32()?);
    let target = share.by_handle(node, (flags & GETATTR_FH != 0).then_some(handle))?;
    let stat = sys::statx(target.fd(), sync as i32, mask & (libc::STATX_BASIC_STATS | libc::STATX_BTIME))?;
    if target.node().told(|told| told.is_ahead(sys::now())) {
        share.cast_doubt(reply);
    }
    let device = libc::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    let ino = share.ino_on(device, stat.stx_ino);
    [1, 0].iter().for_each(|word| reply.u64(*word));
    [0, 0].iter().for_each(|word| reply.u64(*word));
    [stat.stx_mask, stat.stx_blksize].iter().for_each(|word| reply.u32(*word));
    reply.u64(stat.stx_attributes);
    [stat.stx_nlink, stat.stx_uid, stat.stx_gid, u32::from(stat.stx_mode)].iter().for_each(|word| reply.u32(*word));
    [ino, stat.stx_size, stat.stx_blocks, stat.stx_attributes_mask].iter().for_each(|word| reply.u64(*word));
    for time in [stat.stx_atime, stat.stx_btime, stat.stx_ctime, stat.stx_mtime] {
        reply.u64(time.tv_sec as u64);
        reply.u32(time.tv_nsec);
        reply.u32(0);
    }
    let devices = [stat.stx_rdev_major, stat.stx_rdev_minor, stat.stx_dev_major, stat.stx_dev_minor];
    devices.iter().for_each(|word| reply.u32(*word));
    [0; 14].iter().for_each(|word| reply.u64(*word));
    Ok(())
}

/// SETATTR: in the order in which nothing that comes later undoes what came before.
pub(crate) fn setattr(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    share.writable()?;
    let set = args.u32()?;
    args.skip(4)?;
    let handle = args.u64()?;
    let size = args.u64()?;
    args.skip(8)?;
    let (atime, mtime) = (args.u64()?, args.u64()?);
    args.skip(8)?;
    let (atime_part, mtime_part) = (args.u32()?, args.u32()?);
    args.skip(4)?;
    let mode = args.u32()?;
    args.skip(4)?;
    let (uid, gid) = (args.u32()?, args.u32()?);
    let has = |bit: u32| set & bit != 0;

    let target = share.by_handle(node, has(valid::FH).then_some(handle))?;
    let fd = target.fd();
    if has(valid::UID | valid::GID) {
        let id = |bit, id| if has(bit) { id } else { u32::MAX };
        sys::chown(fd, id(valid::UID, uid), id(valid::GID, gid))?;
    }
    if has(valid::MODE) {
        sys::chmod(fd, mode & 0o7777)?;
    }
    if has(valid::SIZE) {
        let size = i64::try_from(size).map_err(|_| Errno(libc::EINVAL))?;
        truncate(&target, size)?;
    }
    if has(valid::ATIME | valid::MTIME) {
        let time = |bit, now, seconds: u64, part| libc::timespec {
            tv_sec: seconds as i64,
            tv_nsec: match () {
                () if !has(bit) => libc::UTIME_OMIT,
                () if has(now) => libc::UTIME_NOW,
                () => i64::from(part),
            },
        };
        let times = [
            time(valid::ATIME, valid::ATIME_NOW, atime, atime_part),
            time(valid::MTIME, valid::MTIME_NOW, mtime, mtime_part),
        ];
        sys::utimens(fd, &times)?;
    }
    let stat = sys::fstat(fd)?;
    // The guest's kernel takes the new times over without asking whether its data is as old.
    target.node().told(Told::forget);
    reply.attr_out(&stat, share.ino(&stat));
    Ok(())
}

fn truncate(target: &Target, size: i64) -> Result<()> {
    if !target.node().is(libc::S_IFREG) {
        return Err(Errno(libc::EINVAL));
    }
    match target {
        Target::Handle(handle) if handle.can_write() => sys::io::ftruncate(handle.fd(), size),
        other => sys::truncate(other.fd(), size),
    }
}

/// READLINK. The guest follows it, in its own tree.
pub(crate) fn readlink(share: &Share, node: u64, reply: &mut Reply) -> Result<()> {
    let node = share.nodes.get(node)?;
    if !node.is(libc::S_IFLNK) {
        return Err(Errno(libc::EINVAL));
    }
    let fd = share.nodes.fd(&node)?;
    let len = sys::readlink(fd.as_fd(), reply.grow(LINK_MAX))?;
    reply.truncate(len);
    Ok(())
}

/// ACCESS: the host's kernel says what the user may do.
pub(crate) fn access(share: &Share, node: u64, args: &mut Args<'_>) -> Result<()> {
    let mask = args.u32()? as i32 & (libc::R_OK | libc::W_OK | libc::X_OK);
    let node = share.nodes.get(node)?;
    if mask & libc::W_OK != 0 && share.is_read_only() {
        return Err(Errno(libc::EROFS));
    }
    sys::access(share.nodes.fd(&node)?.as_fd(), mask)
}

/// STATFS.
pub(crate) fn statfs(share: &Share, node: u64, reply: &mut Reply) -> Result<()> {
    // The mount's own number is 0 for some kernels.
    let node = share.nodes.get(node).unwrap_or_else(|_| std::sync::Arc::clone(share.nodes.root()));
    let stat = sys::fstatfs(share.nodes.fd(&node)?.as_fd())?;
    for word in [stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree] {
        reply.u64(word);
    }
    let fragment = if stat.f_frsize == 0 { stat.f_bsize } else { stat.f_frsize };
    for word in [stat.f_bsize as u32, stat.f_namelen as u32, fragment as u32, 0, 0, 0, 0, 0, 0, 0] {
        reply.u32(word);
    }
    Ok(())
}
