//! Names that do not exist. Who looks for one after the other in a directory is told of all that it has: then the guest
//! knows the others that it has not.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use proto::files::{NAMES_MAX, What, name_mark};

use super::super::advance::Advance;
use super::super::share::Share;
use super::super::sys;
use super::super::wire::Reply;
use super::directory::names;

/// After a LOOKUP of a name that does not exist.
pub(crate) fn after(share: &Share, dir: u64, reply: &mut Reply) {
    let now = Instant::now();
    if !share.missing.again(dir, now) {
        return;
    }
    let seen = share.doubts.load(Ordering::SeqCst);
    match marks(share, dir) {
        Some(bytes) => {
            reply.advance = Some(Advance { handle: dir, position: 0, what: What::Names, bytes, seen });
        }
        None => share.missing.leave_alone(dir, now),
    }
}

/// The marks of all names, where a name that is not listed does not exist.
fn marks(share: &Share, dir: u64) -> Option<Vec<u8>> {
    let node = share.nodes.get(dir).ok()?;
    let fd = share.nodes.fd(&node).ok()?;
    let fd = sys::reopen(fd.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY).ok()?;
    // Elsewhere a directory may have names that it does not list, and listing it may take long.
    if !share.closes_quietly(node.key.0, fd.as_fd()) {
        return None;
    }
    let (mut found, mut probe) = (HashSet::new(), None);
    names(fd.as_fd(), NAMES_MAX, |name| {
        found.insert(name_mark(name.to_bytes()));
        let other = flipped(name.to_bytes()).and_then(|name| std::ffi::CString::new(name).ok());
        probe = probe.take().or(other);
    })?;
    // Some directories find a name in another case too.
    if let Some(probe) = probe
        && !found.contains(&name_mark(probe.to_bytes()))
        && sys::fstatat(fd.as_fd(), &probe).is_ok()
    {
        return None;
    }
    Some(found.iter().flat_map(|mark| mark.to_le_bytes()).collect())
}

/// The name in the other case; `None` if it has none.
fn flipped(name: &[u8]) -> Option<Vec<u8>> {
    let flip = |byte: &u8| if byte.is_ascii_alphabetic() { byte ^ 0x20 } else { *byte };
    let other: Vec<u8> = name.iter().map(flip).collect();
    (other != name).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_case_of_a_name_has_all_its_letters() {
        assert_eq!(flipped(b"Makefile.1"), Some(b"mAKEFILE.1".to_vec()));
        assert_eq!(flipped(b"12"), None);
    }
}
