//! The open files and directories of a share, by number.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use proto::files::QUIET_CLOSE;

use super::nodes::{Node, lock};
use super::sys::{self, Errno, Result};

/// An open file or directory.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) node: Arc<Node>,
    fd: OwnedFd,
    /// The guest's cache is not used.
    pub(crate) is_past: bool,
    /// The flags it was opened with.
    pub(crate) flags: i32,
    /// The same file open for writing without O_APPEND, from when it is needed on.
    plain: OnceLock<OwnedFd>,
    /// Whether anything was written since the last flush.
    pub(crate) written: AtomicBool,
    pub(crate) listing: Mutex<Listing>,
}

/// Entries of a directory that were read and not handed out yet.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// `struct linux_dirent64`, one after the other.
    pub(crate) entries: Vec<u8>,
    /// Where the next one begins.
    pub(crate) at: usize,
    /// The position in the directory at which that one is.
    pub(crate) position: u64,
}

impl Handle {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn can_write(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    pub(crate) fn appends(&self) -> bool {
        self.flags & libc::O_APPEND != 0
    }

    /// A descriptor that writes where it is told to, even if the file was opened for appending.
    pub(crate) fn plain(&self) -> Result<BorrowedFd<'_>> {
        if !self.appends() {
            return Ok(self.fd());
        }
        if let Some(fd) = self.plain.get() {
            return Ok(fd.as_fd());
        }
        let fd = sys::reopen(self.fd(), libc::O_WRONLY)?;
        Ok(self.plain.get_or_init(|| fd).as_fd())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.node.past.closed(self.is_past);
        self.node.opens.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All handles of a share.
#[derive(Debug)]
pub(crate) struct Handles {
    table: Mutex<(u64, HashMap<u64, Arc<Handle>>)>,
    /// Handles of all shares.
    all: Arc<AtomicUsize>,
    max: usize,
}

impl Handles {
    /// An empty table; `all` counts the handles of all shares, of which there can be `max`.
    pub(crate) fn new(all: Arc<AtomicUsize>, max: usize) -> Self {
        Self { table: Mutex::default(), all, max }
    }

    /// ENFILE if there are too many: asked before a file is opened or made.
    pub(crate) fn has_room(&self) -> Result<()> {
        if self.all.load(Ordering::Relaxed) < self.max { Ok(()) } else { Err(Errno(libc::ENFILE)) }
    }

    /// A number for the open file `fd`, and whether the guest's cache is not used. Closing it `is_quiet` if no error comes up
    /// there.
    pub(crate) fn add(&self, node: Arc<Node>, fd: OwnedFd, flags: i32, is_quiet: bool) -> (u64, bool) {
        let is_past = node.past.goes_past(flags);
        node.opens.fetch_add(1, Ordering::Relaxed);
        node.past.opened(is_past);
        let (plain, written, listing) = (OnceLock::new(), AtomicBool::new(false), Mutex::default());
        let handle = Arc::new(Handle { node, fd, is_past, flags, plain, written, listing });
        self.all.fetch_add(1, Ordering::Relaxed);
        let mut table = lock(&self.table);
        table.0 += 1;
        let id = table.0 | if is_quiet { QUIET_CLOSE } else { 0 };
        table.1.insert(id, handle);
        (id, is_past)
    }

    /// The handle with this number, if it is one of that node; EBADF for others.
    pub(crate) fn get(&self, id: u64, node: u64) -> Result<Arc<Handle>> {
        let handle = lock(&self.table).1.get(&id).cloned();
        handle.filter(|handle| handle.node.id == node).ok_or(Errno(libc::EBADF))
    }

    /// Gives a number back. The file is closed when nobody uses it any more.
    pub(crate) fn remove(&self, id: u64, node: u64) -> Result<Arc<Handle>> {
        let mut table = lock(&self.table);
        if table.1.get(&id).is_none_or(|handle| handle.node.id != node) {
            return Err(Errno(libc::EBADF));
        }
        let handle = table.1.remove(&id).ok_or(Errno(libc::EBADF))?;
        self.all.fetch_sub(1, Ordering::Relaxed);
        Ok(handle)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        lock(&self.table).1.len()
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.all.fetch_sub(lock(&self.table).1.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use proto::files::fuse::ROOT;

    use super::super::nodes::{Bounds, Nodes};
    use super::*;

    #[test]
    fn a_handle_is_its_node_s_and_its_number_is_never_used_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let nodes = Nodes::new(file.as_file().try_clone().unwrap().into(), Arc::new(Bounds::new(9))).unwrap();
        let all = Arc::new(AtomicUsize::new(0));
        let handles = Handles::new(Arc::clone(&all), 2);
        let add =
            || handles.add(Arc::clone(nodes.root()), file.as_file().try_clone().unwrap().into(), libc::O_RDWR, false).0;
        let (one, two) = (add(), add());
        assert_eq!(handles.has_room(), Err(Errno(libc::ENFILE)));
        assert_eq!(handles.get(one, ROOT + 1).unwrap_err(), Errno(libc::EBADF));
        assert_eq!(handles.remove(one, ROOT + 1).unwrap_err(), Errno(libc::EBADF));
        assert_eq!(nodes.root().opens.load(Ordering::Relaxed), 2);
        drop(handles.remove(one, ROOT).unwrap());
        assert_eq!(handles.get(one, ROOT).unwrap_err(), Errno(libc::EBADF));
        assert_eq!((nodes.root().opens.load(Ordering::Relaxed), handles.len()), (1, 1));
        assert!(handles.has_room().is_ok() && add() > two);
        drop(handles);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_handle_that_appends_can_also_write_in_place() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"0123").unwrap();
        let nodes = Nodes::new(file.as_file().try_clone().unwrap().into(), Arc::new(Bounds::new(9))).unwrap();
        let handles = Handles::new(Arc::default(), 2);
        let appends = std::fs::File::options().append(true).open(file.path()).unwrap();
        let (id, is_past) =
            handles.add(Arc::clone(nodes.root()), appends.into(), libc::O_WRONLY | libc::O_APPEND, true);
        assert_eq!((id & QUIET_CLOSE, is_past), (QUIET_CLOSE, true));
        let handle = handles.get(id, ROOT).unwrap();
        sys::io::pwrite(handle.fd(), b"end", 0).unwrap();
        sys::io::pwrite(handle.plain().unwrap(), b"x", 1).unwrap();
        sys::io::append(handle.plain().unwrap(), b"!").unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0x23end!");
    }
}
