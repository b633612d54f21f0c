//! The files of a share that the guest's kernel knows, by number.
//!
//! A node's number says nothing of the host and is valid in its share only. A node keeps an O_PATH descriptor, with
//! which its file is found whatever its names become. Descriptors are few: one that was not used for long is closed, and
//! opened again by the name where the file was seen last, if that is still the same file; else the node is ESTALE.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::files::fuse::ROOT;

use super::belief::Told;
use super::past::Past;
use super::sys::{Errno, Result, fstat, openat};

/// What makes two names one file.
pub(crate) type Key = (u64, u64);

/// A file as its share knows it. See the module.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) key: Key,
    /// Its type, as in `st_mode`.
    pub(crate) kind: u32,
    /// How many handles are open: its descriptor stays.
    pub(crate) opens: AtomicU32,
    pub(crate) past: Past,
    /// Its descriptor was needed since somebody looked.
    used: AtomicBool,
    /// Its names were removed in the guest: only the descriptor leads to it.
    pinned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Lookups that the guest has not forgotten.
    lookups: u64,
    fd: Option<Arc<OwnedFd>>,
    /// Directory and name where it was seen last.
    place: Option<(u64, CString)>,
    told: Told,
}

impl Node {
    /// What the guest believes of the file.
    pub(crate) fn told<R>(&self, with: impl FnOnce(&mut Told) -> R) -> R {
        with(&mut lock(&self.state).told)
    }

    /// The directory where the file was seen last.
    pub(crate) fn parent(&self) -> Option<u64> {
        lock(&self.state).place.as_ref().map(|(parent, _)| *parent)
    }

    /// Its names were removed: the file goes with its last descriptor, which may take long.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    pub(crate) fn is(&self, kind: u32) -> bool {
        self.kind == kind
    }
}

/// The nodes of all shares together cannot be more.
const NODES_MAX: usize = 4 * 1024 * 1024;

/// Beyond this, listing a directory makes no new ones.
const LISTED_MAX: usize = 1024 * 1024;

/// What all shares of a VM have together.
#[derive(Debug)]
pub(crate) struct Bounds {
    nodes: AtomicUsize,
    nodes_max: usize,
    listed_max: usize,
    /// Descriptors of nodes, per share.
    cached_max: usize,
}

impl Bounds {
    /// Bounds for a process that may have so many descriptors for the nodes of each share.
    pub(crate) fn new(cached_max: usize) -> Self {
        Self { nodes: AtomicUsize::new(0), nodes_max: NODES_MAX, listed_max: LISTED_MAX, cached_max: cached_max.max(4) }
    }
}

/// All nodes of a share.
#[derive(Debug)]
pub(crate) struct Nodes {
    table: Mutex<Table>,
    bounds: Arc<Bounds>,
    root: Arc<Node>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<u64, Arc<Node>>,
    by_key: HashMap<Key, u64>,
    last: u64,
    /// Nodes with a descriptor, the oldest first.
    cached: VecDeque<u64>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(stat: &libc::stat) -> Key {
    (stat.st_dev, stat.st_ino)
}

impl Nodes {
    /// A table with only the root, which `fd` refers to.
    pub(crate) fn new(fd: OwnedFd, bounds: Arc<Bounds>) -> Result<Self> {
        let stat = fstat(fd.as_fd())?;
        let root = Arc::new(node(ROOT, &stat, Some(fd), None));
        let mut table = Table { last: ROOT, ..Table::default() };
        table.by_id.insert(ROOT, Arc::clone(&root));
        table.by_key.insert(root.key, ROOT);
        bounds.nodes.fetch_add(1, Ordering::Relaxed);
        Ok(Self { table: Mutex::new(table), bounds, root })
    }

    /// A node by its number; ESTALE for a number that was never given or is forgotten.
    pub(crate) fn get(&self, id: u64) -> Result<Arc<Node>> {
        lock(&self.table).by_id.get(&id).cloned().ok_or(Errno(libc::ESTALE))
    }

    /// The node of a file that is known already.
    pub(crate) fn known(&self, stat: &libc::stat) -> Option<Arc<Node>> {
        let table = lock(&self.table);
        let node = table.by_key.get(&key(stat)).and_then(|id| table.by_id.get(id))?;
        (node.kind == stat.st_mode & libc::S_IFMT).then(|| Arc::clone(node))
    }

    /// Whether the node has a descriptor.
    pub(crate) fn has_fd(&self, node: &Node) -> bool {
        lock(&node.state).fd.is_some()
    }

    /// The node of the file that was found at `place`, with one lookup more. `fd` becomes its descriptor if it has none.
    pub(crate) fn found(&self, stat: &libc::stat, fd: Option<OwnedFd>, place: (u64, &CStr)) -> Result<Arc<Node>> {
        self.insert(stat, fd, place, self.bounds.nodes_max)
    }

    /// As [`Self::found`] without a descriptor, for the entries of a listing: fails earlier.
    pub(crate) fn listed(&self, stat: &libc::stat, place: (u64, &CStr)) -> Result<Arc<Node>> {
        self.insert(stat, None, place, self.bounds.listed_max)
    }

    fn insert(
        &self,
        stat: &libc::stat,
        fd: Option<OwnedFd>,
        (parent, name): (u64, &CStr),
        nodes_max: usize,
    ) -> Result<Arc<Node>> {
        let mut closed = Vec::new();
        let mut table = lock(&self.table);
        let known = table.by_key.get(&key(stat)).and_then(|id| table.by_id.get(id)).cloned();
        if let Some(node) = known.filter(|node| node.kind == stat.st_mode & libc::S_IFMT) {
            let mut state = lock(&node.state);
            state.lookups = state.lookups.saturating_add(1);
            if node.id != ROOT && state.place.as_ref().is_none_or(|place| place.0 != parent || *place.1 != *name) {
                state.place = Some((parent, name.to_owned()));
            }
            let is_new = state.fd.is_none() && fd.is_some();
            state.fd = state.fd.take().or_else(|| fd.map(Arc::new));
            drop(state);
            if is_new {
                table.cache(&node, self.bounds.cached_max, &mut closed);
            }
            return Ok(node);
        }
        if self.bounds.nodes.load(Ordering::Relaxed) >= nodes_max {
            return Err(Errno(libc::ENFILE));
        }
        self.bounds.nodes.fetch_add(1, Ordering::Relaxed);
        table.last += 1;
        let has_fd = fd.is_some();
        let node = Arc::new(node(table.last, stat, fd, Some((parent, name.to_owned()))));
        table.by_id.insert(node.id, Arc::clone(&node));
        table.by_key.insert(node.key, node.id);
        if has_fd {
            table.cache(&node, self.bounds.cached_max, &mut closed);
        }
        drop(table);
        // Descriptors are closed after the lock is given back.
        Ok(node)
    }

    /// Takes `count` lookups from a node; a guest that forgets more than it looked up harms only itself.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        let mut table = lock(&self.table);
        let Some(node) = table.by_id.get(&id).cloned().filter(|node| node.id != ROOT) else { return };
        let mut state = lock(&node.state);
        state.lookups = state.lookups.saturating_sub(count);
        if state.lookups > 0 {
            return;
        }
        drop(state);
        table.by_id.remove(&id);
        if table.by_key.get(&node.key) == Some(&id) {
            table.by_key.remove(&node.key);
        }
        if table.cached.len() > 2 * table.by_id.len() + 64 {
            let Table { by_id, cached, .. } = &mut *table;
            cached.retain(|id| by_id.contains_key(id));
        }
        self.bounds.nodes.fetch_sub(1, Ordering::Relaxed);
        drop(table);
    }

    /// The file is at `place` from now on.
    pub(crate) fn moved(&self, node: &Node, (parent, name): (u64, &CStr)) {
        if node.id != ROOT {
            lock(&node.state).place = Some((parent, name.to_owned()));
        }
    }

    /// The node's descriptor.
    pub(crate) fn fd(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        node.used.store(true, Ordering::Relaxed);
        if let Some(fd) = &lock(&node.state).fd {
            return Ok(Arc::clone(fd));
        }
        self.resolve(node)
    }

    /// Opens a node whose descriptor was closed, and the directories above it where they were.
    fn resolve(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        let mut way = vec![Arc::clone(node)];
        let mut fd = loop {
            let last = way.last().unwrap_or(node);
            let place = lock(&last.state).place.clone();
            let parent = self.get(place.ok_or(Errno(libc::ESTALE))?.0)?;
            if let Some(fd) = &lock(&parent.state).fd {
                break Arc::clone(fd);
            }
            if way.len() > DEPTH_MAX {
                return Err(Errno(libc::ESTALE));
            }
            way.push(parent);
        };
        for node in way.iter().rev() {
            let place = lock(&node.state).place.clone();
            let (_, name) = place.ok_or(Errno(libc::ESTALE))?;
            let kind = if node.is(libc::S_IFDIR) { libc::O_DIRECTORY } else { 0 };
            let opened = openat(fd.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW | kind, 0);
            let opened = opened.map_err(|error| match error {
                // Another file has the name now, or none.
                Errno(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Errno(libc::ESTALE),
                other => other,
            })?;
            let stat = fstat(opened.as_fd())?;
            if key(&stat) != node.key || stat.st_mode & libc::S_IFMT != node.kind {
                return Err(Errno(libc::ESTALE));
            }
            fd = self.keep(node, opened);
        }
        Ok(fd)
    }

    /// Gives a node this descriptor unless it has one; the one that it has then.
    pub(crate) fn keep(&self, node: &Arc<Node>, fd: OwnedFd) -> Arc<OwnedFd> {
        let mut closed = Vec::new();
        let mut table = lock(&self.table);
        let mut state = lock(&node.state);
        if let Some(fd) = &state.fd {
            return Arc::clone(fd);
        }
        let fd = Arc::new(fd);
        state.fd = Some(Arc::clone(&fd));
        drop(state);
        table.cache(node, self.bounds.cached_max, &mut closed);
        drop(table);
        fd
    }

    /// The node's names go; its descriptor stays.
    pub(crate) fn pin(&self, node: &Node) {
        node.pinned.store(true, Ordering::Relaxed);
    }

    /// Closes the node's descriptor, unless it is open or only that leads to it.
    pub(crate) fn let_go(&self, node: &Node) {
        let can_go = node.id != ROOT && !node.pinned.load(Ordering::Relaxed) && node.opens.load(Ordering::Relaxed) == 0;
        let fd = if can_go { lock(&node.state).fd.take() } else { None };
        drop(fd);
    }

    /// Closes the descriptors of files that were not used since the last sweep: a file that is removed on the host keeps
    /// its space as long as one is open.
    pub(crate) fn sweep(&self) {
        let mut table = lock(&self.table);
        let Table { by_id, cached, .. } = &mut *table;
        let mut idle = Vec::new();
        cached.retain(|id| {
            let Some(node) = by_id.get(id) else { return false };
            let stays = !node.is(libc::S_IFREG) || node.used.swap(false, Ordering::Relaxed);
            if !stays {
                idle.push(Arc::clone(node));
            }
            stays || node.pinned.load(Ordering::Relaxed) || node.opens.load(Ordering::Relaxed) > 0
        });
        drop(table);
        for node in idle {
            self.let_go(&node);
            if self.has_fd(&node) {
                // It was opened in between.
                lock(&self.table).cached.push_back(node.id);
            }
        }
    }

    /// The share's root.
    pub(crate) fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// How many nodes there are.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn len(&self) -> usize {
        lock(&self.table).by_id.len()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.bounds.nodes.fetch_sub(lock(&self.table).by_id.len(), Ordering::Relaxed);
    }
}

/// No path of the host has more components that are not in use.
const DEPTH_MAX: usize = 64 * 1024;

/// How many candidates are looked at when a descriptor has to be closed.
const CANDIDATES: usize = 32;

impl Table {
    /// Notes that `node` has a descriptor, and takes the descriptors of others if there are too many.
    fn cache(&mut self, node: &Node, max: usize, closed: &mut Vec<Arc<OwnedFd>>) {
        self.cached.push_back(node.id);
        for _ in 0..CANDIDATES {
            if self.cached.len() <= max {
                break;
            }
            let Some(id) = self.cached.pop_front() else { break };
            let Some(old) = self.by_id.get(&id).filter(|old| old.id != ROOT) else { continue };
            if id == node.id || old.opens.load(Ordering::Relaxed) > 0 || old.used.swap(false, Ordering::Relaxed) {
                self.cached.push_back(id);
                continue;
            }
            closed.extend(lock(&old.state).fd.take());
        }
    }
}

fn node(id: u64, stat: &libc::stat, fd: Option<OwnedFd>, place: Option<(u64, CString)>) -> Node {
    let state = State { lookups: 1, fd: fd.map(Arc::new), place, told: Told::default() };
    let (used, pinned, opens) = (AtomicBool::new(true), AtomicBool::new(false), AtomicU32::new(0));
    let (past, state) = (Past::default(), Mutex::new(state));
    Node { id, key: key(stat), kind: stat.st_mode & libc::S_IFMT, opens, past, used, pinned, state }
}

#[cfg(test)]
mod tests;
