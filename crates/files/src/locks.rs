//! Locks that hold between guests and host.
//!
//! A POSIX lock belongs to an owner, which is a process of the guest: each owner has a descriptor of its own for each file
//! that it locks, and the locks are those of that open file (OFD locks). They conflict with POSIX locks of the host's
//! processes and of other guests. They are gone when the descriptor is closed: with the owner's first close of the
//! file, or with this process.
//!
//! A wait for a lock has a thread of its own, which only a lock or an interrupt ends.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::nodes::{Node, lock};
use super::sys::lock::{How, Range, Thread, range, this_thread, wake, whole};
use super::sys::{Errno, Result};

/// The open file that holds an owner's locks of one file.
#[derive(Debug)]
pub(crate) struct Holder {
    fd: OwnedFd,
    /// The guest's process that locked last.
    pid: u32,
    /// The open file is a handle's too, so closing this descriptor does not unlock.
    is_shared: bool,
    /// Keeps the node's descriptor.
    _node: Arc<Node>,
}

/// All POSIX locks of a share: by node and owner.
#[derive(Debug)]
pub(crate) struct Locks {
    holders: Mutex<HashMap<(u64, u64), Arc<Holder>>>,
    all: Arc<AtomicUsize>,
    max: usize,
}

impl Locks {
    /// An empty table; `all` counts the holders of all shares, of which there can be `max`.
    pub(crate) fn new(all: Arc<AtomicUsize>, max: usize) -> Self {
        Self { holders: Mutex::default(), all, max }
    }

    /// The holder of this owner's locks. `open` opens the file for one, and says whether that is a handle's open file too.
    pub(crate) fn holder(
        &self,
        node: &Arc<Node>,
        owner: u64,
        pid: u32,
        open: impl FnOnce() -> Result<(OwnedFd, bool)>,
    ) -> Result<Arc<Holder>> {
        if let Some(holder) = lock(&self.holders).get(&(node.id, owner)) {
            return Ok(Arc::clone(holder));
        }
        if self.all.load(Ordering::Relaxed) >= self.max {
            return Err(Errno(libc::ENOLCK));
        }
        let (fd, is_shared) = open()?;
        let holder = Arc::new(Holder { fd, pid, is_shared, _node: Arc::clone(node) });
        let mut holders = lock(&self.holders);
        let entry = holders.entry((node.id, owner));
        if let std::collections::hash_map::Entry::Vacant(_) = entry {
            self.all.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Arc::clone(entry.or_insert(holder)))
    }

    /// The holder of this owner's locks, if there is one.
    pub(crate) fn existing(&self, node: u64, owner: u64) -> Option<Arc<Holder>> {
        lock(&self.holders).get(&(node, owner)).cloned()
    }

    /// The guest's process whose lock is in the way of `wanted`; `None` if it is none of this guest's.
    pub(crate) fn pid_in_the_way(&self, node: u64, owner: u64, wanted: Range) -> Option<u32> {
        let others: Vec<_> = {
            let holders = lock(&self.holders);
            let others = holders.iter().filter(|((id, other), _)| *id == node && *other != owner);
            others.map(|(_, holder)| Arc::clone(holder)).collect()
        };
        // The one that nothing stops from taking the whole lock is the one that has it.
        let holds = |holder: &Arc<Holder>| {
            let mut probe = Range { kind: libc::F_WRLCK as i16, ..wanted };
            range(holder.fd.as_fd(), How::Ask, &mut probe).is_ok() && probe.kind == libc::F_UNLCK as i16
        };
        others.iter().find(|holder| holds(holder)).map(|holder| holder.pid)
    }

    /// Drops all locks of this owner in a file.
    pub(crate) fn release(&self, node: u64, owner: u64) {
        let holder = lock(&self.holders).remove(&(node, owner));
        if holder.is_some() {
            self.all.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Holder {
    /// Locks, unlocks or asks. A lock for which the holder is not open gets EBADF.
    pub(crate) fn range(&self, how: How, wanted: &mut Range) -> Result<()> {
        range(self.fd.as_fd(), how, wanted)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if self.is_shared {
            let mut all = Range { kind: libc::F_UNLCK as i16, start: 0, len: 0, pid: 0 };
            // An error would leave the locks until the handle is closed.
            let _ = self.range(How::Try, &mut all);
        }
    }
}

/// What a thread waits for.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// A range of an owner's.
    Range(Arc<Holder>, Range),
    /// A whole file, for an open one.
    Whole(Arc<super::handles::Handle>, i32),
}

/// Threads that wait for locks, by the request that began it.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    table: Mutex<HashMap<(u16, u64), Waiting>>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    thread: Option<Thread>,
    interrupted: bool,
}

/// So many threads can wait at once.
const WAITS_MAX: usize = 1024;

/// After this time a thread is woken again: the first signal may have come just before its system call.
const AGAIN: Duration = Duration::from_millis(5);

/// One that is woken so often and does not wake hangs in a file system, which signals do not end.
const WAKES: u32 = 5;

impl Waits {
    /// Notes a request that may have to wait, before the next request is read: so its interrupt always finds it.
    pub(crate) fn expect(&self, share: u16, unique: u64) {
        lock(&self.table).insert((share, unique), Waiting::default());
    }

    /// The request did not have to wait, or has ended.
    pub(crate) fn end(&self, share: u16, unique: u64) {
        lock(&self.table).remove(&(share, unique));
        self.ended.notify_all();
    }

    /// Whether one more thread may wait.
    pub(crate) fn has_room(&self) -> bool {
        lock(&self.table).len() <= WAITS_MAX
    }

    /// Waits in this thread until the lock is there or the request is interrupted.
    pub(crate) fn wait(&self, share: u16, unique: u64, wanted: &mut Wanted) -> Result<()> {
        let thread = this_thread();
        loop {
            {
                let mut table = lock(&self.table);
                let Some(waiting) = table.get_mut(&(share, unique)) else { return Err(Errno(libc::EINTR)) };
                if waiting.interrupted {
                    return Err(Errno(libc::EINTR));
                }
                waiting.thread = Some(thread);
            }
            let result = match wanted {
                Wanted::Range(holder, wanted) => holder.range(How::Wait, wanted),
                Wanted::Whole(handle, operation) => whole(handle.fd(), *operation),
            };
            // A signal that nobody of us sent: look again whether the wait is over.
            if result != Err(Errno(libc::EINTR)) {
                return result;
            }
        }
    }

    /// Ends the wait of a request; nothing for one that does not wait.
    pub(crate) fn interrupt(&self, share: u16, unique: u64) {
        let mut table = lock(&self.table);
        for _ in 0..WAKES {
            let Some(waiting) = table.get_mut(&(share, unique)) else { return };
            waiting.interrupted = true;
            // One that has not begun to wait sees it then.
            let Some(thread) = waiting.thread else { return };
            wake(thread);
            table = self.ended.wait_timeout(table, AGAIN).map_or_else(|error| error.into_inner().0, |(table, _)| table);
        }
    }

    /// Ends all waits.
    pub(crate) fn interrupt_all(&self) {
        let all: Vec<_> = lock(&self.table).keys().copied().collect();
        all.iter().for_each(|(share, unique)| self.interrupt(*share, *unique));
    }
}

#[cfg(test)]
mod tests {
    use super::super::handles::Handles;
    use super::super::nodes::{Bounds, Nodes};
    use super::*;

    const ALL: Range = Range { kind: libc::F_WRLCK as i16, start: 0, len: 0, pid: 0 };

    struct Place {
        file: tempfile::NamedTempFile,
        nodes: Nodes,
        locks: Locks,
    }

    impl Place {
        fn new(max: usize) -> Self {
            let file = tempfile::NamedTempFile::new().unwrap();
            let nodes = Nodes::new(file.as_file().try_clone().unwrap().into(), Arc::new(Bounds::new(9))).unwrap();
            Self { file, nodes, locks: Locks::new(Arc::default(), max) }
        }

        fn open(&self) -> OwnedFd {
            std::fs::File::options().read(true).write(true).open(self.file.path()).unwrap().into()
        }

        fn holder(&self, owner: u64) -> Result<Arc<Holder>> {
            self.locks.holder(self.nodes.root(), owner, owner as u32 + 100, || Ok((self.open(), false)))
        }
    }

    #[test]
    fn owners_are_in_each_other_s_way_until_they_are_released() {
        let place = Place::new(2);
        let (one, two) = (place.holder(1).unwrap(), place.holder(2).unwrap());
        assert_eq!(place.holder(3).unwrap_err(), Errno(libc::ENOLCK));
        one.range(How::Try, &mut ALL.clone()).unwrap();
        assert_eq!(two.range(How::Try, &mut ALL.clone()), Err(Errno(libc::EAGAIN)));
        let mut asked = ALL;
        two.range(How::Ask, &mut asked).unwrap();
        assert_eq!(asked.kind, libc::F_WRLCK as i16);
        assert_eq!(place.locks.pid_in_the_way(1, 2, asked), Some(101));
        drop(one);
        place.locks.release(1, 1);
        two.range(How::Try, &mut ALL.clone()).unwrap();
        assert!(place.locks.existing(1, 1).is_none() && place.holder(3).is_ok());
    }

    #[test]
    fn a_wait_ends_with_the_lock_or_with_its_interrupt_and_each_only_once() {
        super::super::sys::lock::prepare().unwrap();
        let place = Place::new(9);
        let waits = Waits::default();
        for is_interrupted in [true, false] {
            let (one, two) = (place.holder(1).unwrap(), place.holder(2).unwrap());
            one.range(How::Try, &mut ALL.clone()).unwrap();
            waits.expect(0, 7);
            let result = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| {
                    let result = waits.wait(0, 7, &mut Wanted::Range(Arc::clone(&two), ALL));
                    waits.end(0, 7);
                    result
                });
                if is_interrupted {
                    waits.interrupt(0, 7);
                } else {
                    drop(one);
                    place.locks.release(1, 1);
                }
                waiting.join().unwrap()
            });
            assert_eq!(result, if is_interrupted { Err(Errno(libc::EINTR)) } else { Ok(()) });
            place.locks.release(1, 2);
        }
        waits.interrupt(0, 7);
        assert!(waits.has_room() && lock(&waits.table).is_empty());
    }

    #[test]
    fn an_interrupt_that_comes_before_the_wait_is_not_lost() {
        let place = Place::new(9);
        let handles = Handles::new(Arc::default(), 9);
        let (id, _) = handles.add(Arc::clone(place.nodes.root()), place.open(), libc::O_RDWR, false);
        let waits = Waits::default();
        waits.expect(3, 1);
        waits.interrupt(3, 1);
        let mut wanted = Wanted::Whole(handles.get(id, 1).unwrap(), libc::LOCK_EX);
        assert_eq!(waits.wait(3, 1, &mut wanted), Err(Errno(libc::EINTR)));
        waits.end(3, 1);
        assert_eq!(waits.wait(3, 1, &mut wanted), Err(Errno(libc::EINTR)), "nobody asked for it any more");
    }
}
