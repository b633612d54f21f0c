//! Extended attributes, ACLs among them: names and values pass as they are, the host's kernel decides.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use super::super::labels::names;
use super::super::share::Share;
use super::super::sys::{Errno, Result, xattr};
use super::super::wire::{Args, Reply};
use super::absent;

/// The kernel's own limit of a value and of a list.
const VALUE_MAX: u32 = 64 * 1024;

/// GETXATTR.
pub(crate) fn get(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let size = args.u32()?.min(VALUE_MAX);
    args.skip(4)?;
    let name = args.string()?;
    let fd = share.nodes.fd(&share.nodes.get(node)?)?;
    answer(size, reply, |to| xattr::get(fd.as_fd(), name, to)).inspect_err(|error| {
        reply.absent = absent::after(share, node, name.to_bytes(), *error);
    })
}

/// LISTXATTR.
pub(crate) fn list(share: &Share, node: u64, args: &mut Args<'_>, reply: &mut Reply) -> Result<()> {
    let size = args.u32()? as usize;
    let fd = share.nodes.fd(&share.nodes.get(node)?)?;
    let names = names(fd.as_fd());
    if let Some(error) = absent::of_list(&names) {
        reply.absent = absent::after(share, node, b"", error);
    }
    let names = names?;
    if size == 0 {
        length_alone(names.len(), reply);
    } else if names.len() > size {
        return Err(Errno(libc::ERANGE));
    } else {
        reply.push(&names);
    }
    Ok(())
}

/// The length alone if the guest has no room, else what `read` reads.
fn answer(size: u32, reply: &mut Reply, read: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<()> {
    if size == 0 {
        length_alone(read(&mut [])?, reply);
        return Ok(());
    }
    let len = read(reply.grow(size as usize))?;
    reply.truncate(len);
    Ok(())
}

/// The answer to a guest that asks how much room it needs.
fn length_alone(len: usize, reply: &mut Reply) {
    reply.u32(len as u32);
    reply.u32(0);
}

/// SETXATTR.
pub(crate) fn set(share: &Share, node: u64, args: &mut Args<'_>) -> Result<()> {
    share.writable()?;
    let (size, flags) = (args.u32()?, args.u32()?);
    if size > VALUE_MAX {
        return Err(Errno(libc::E2BIG));
    }
    let name = args.string()?;
    let value = args.data(size as usize)?;
    let fd = share.nodes.fd(&share.nodes.get(node)?)?;
    change(share, || xattr::set(fd.as_fd(), name, value, flags as i32))
}

/// REMOVEXATTR.
pub(crate) fn remove(share: &Share, node: u64, args: &mut Args<'_>) -> Result<()> {
    share.writable()?;
    let name = args.string()?;
    let fd = share.nodes.fd(&share.nodes.get(node)?)?;
    change(share, || xattr::remove(fd.as_fd(), name))
}

/// Changes something, and notes when: what was seen before is not told afterwards.
fn change(share: &Share, work: impl FnOnce() -> Result<()>) -> Result<()> {
    share.changes.fetch_add(1, Ordering::SeqCst);
    let done = work();
    share.changes.fetch_add(1, Ordering::SeqCst);
    done
}
