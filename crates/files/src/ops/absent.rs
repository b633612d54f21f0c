//! What the guest is told of extended attributes that files do not have.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use proto::files::{Absent, PROBED};

use super::super::share::Share;
use super::super::sys::{Errno, Result, xattr};
use super::xattr::names;

/// Looking ahead takes no longer: on some file systems each look is a question to a server.
const TIME_MAX: Duration = Duration::from_millis(3);

/// What to tell the guest after a GETXATTR of `name` for `node` that failed with `error`, or a LISTXATTR without a name.
pub(crate) fn after(share: &Share, node: u64, name: &[u8], error: Errno) -> Vec<Absent> {
    let Some(name) = PROBED.iter().position(|probed| *probed == name).filter(|_| is_absent(error)) else {
        return Vec::new();
    };
    look(share, name, &share.ahead.after(name, node, Instant::now()))
}

/// What the guest is told of an empty list.
pub(crate) fn of_list(names: &Result<Vec<u8>>) -> Option<Errno> {
    match names {
        Ok(names) => names.is_empty().then_some(Errno(libc::ENODATA)),
        Err(error) => Some(*error),
    }
}

/// What to tell the guest of files that it has just listed.
pub(crate) fn more(share: &Share) -> Vec<Absent> {
    let now = Instant::now();
    (0..PROBED.len()).flat_map(|name| look(share, name, &share.ahead.more(name, now))).collect()
}

/// A file that was just made has no capabilities. The guest's kernel asks before the first write.
pub(crate) fn made(node: u64) -> Absent {
    Absent { name: 0, errno: libc::ENODATA as u32, nodes: vec![node] }
}

fn is_absent(error: Errno) -> bool {
    matches!(error, Errno(libc::ENODATA | libc::EOPNOTSUPP))
}

fn look(share: &Share, name: usize, nodes: &[u64]) -> Vec<Absent> {
    let mut found: Vec<Absent> = Vec::new();
    let Ok(text) = std::ffi::CString::new(PROBED[name]) else { return found };
    let begun = Instant::now();
    for id in nodes {
        if begun.elapsed() > TIME_MAX {
            break;
        }
        let Ok(node) = share.nodes.get(*id) else { continue };
        let Ok(fd) = share.nodes.fd(&node) else { continue };
        let error = match text.is_empty() {
            true => of_list(&names(fd.as_fd())),
            false => xattr::get(fd.as_fd(), &text, &mut []).err(),
        };
        if let Some(error) = error.filter(|error| is_absent(*error)) {
            let errno = error.0 as u32;
            match found.iter_mut().find(|absent| absent.errno == errno) {
                Some(absent) => absent.nodes.push(*id),
                None => found.push(Absent { name: name as u32, errno, nodes: vec![*id] }),
            }
        }
    }
    found
}
