//! One share: a tree of the host, as one mount in the guest.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::ahead::Ahead;
use super::closing::Closing;
use super::control::{Share as Described, Shares};
use super::error::ServeError;
use super::handles::{Handle, Handles};
use super::locks::Locks;
use super::missing::Missing;
use super::nodes::{Bounds, Node, Nodes, lock};
use super::sys::{self, Errno, Result};
use super::walk::Walk;
use super::wire::Reply;

/// Cached descriptors are at most so many, whatever the limit is: each holds a file of the host in memory.
const CACHED_MAX: usize = 64 * 1024;

/// After a request that took long so many of its share are done by other threads than the port's reader.
const SLOW: u32 = 256;

/// One share.
#[derive(Debug)]
pub(crate) struct Share {
    read_only: bool,
    pub(crate) nodes: Nodes,
    pub(crate) handles: Handles,
    pub(crate) locks: Locks,
    pub(crate) closing: Closing,
    pub(crate) ahead: Ahead,
    pub(crate) missing: Missing,
    pub(crate) walk: Walk,
    /// Counts beginnings and ends of changes of extended attributes.
    pub(crate) changes: AtomicU64,
    /// Counts how often something that was sent ahead became doubtful.
    pub(crate) doubts: AtomicU64,
    /// How many requests are not believed to be quick, because one was not.
    slow: AtomicU32,
    /// The root's file system.
    device: u64,
    /// File systems that keep the name of a file that is removed while it is open, as far as they are known.
    keeping: Mutex<HashMap<u64, bool>>,
    /// File systems on which a close never fails.
    quiet: Mutex<HashMap<u64, bool>>,
}

/// Opens all shares, before anything of the guest is read.
///
/// # Errors
/// [`ServeError::Share`] for the first that cannot be opened.
pub(crate) fn open_all(shares: &Shares) -> std::result::Result<Vec<Share>, ServeError> {
    let limit = sys::descriptor_limit();
    let count = shares.0.len().max(1);
    let bounds = Arc::new(Bounds::new((limit / 4 / count).min(CACHED_MAX)));
    let (handles, holders) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let open = |share: &Described| {
        let fail = |errno: Errno| ServeError::Share {
            path: share.path.clone(),
            source: io::Error::from_raw_os_error(errno.0),
        };
        let path = CString::new(share.path.as_os_str().as_bytes()).map_err(|_| fail(Errno(libc::EINVAL)))?;
        let root = open_root(&path).map_err(fail)?;
        let device = sys::fstat(root.as_fd()).map_err(fail)?.st_dev;
        Ok(Share {
            read_only: share.read_only,
            nodes: Nodes::new(root, Arc::clone(&bounds)).map_err(fail)?,
            // The node of an open file keeps its descriptor too.
            handles: Handles::new(Arc::clone(&handles), limit / 8 * 3),
            locks: Locks::new(Arc::clone(&holders), limit / 8),
            closing: Closing::default(),
            ahead: Ahead::default(),
            missing: Missing::default(),
            walk: Walk::default(),
            changes: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            slow: AtomicU32::new(0),
            device,
            keeping: Mutex::default(),
            quiet: Mutex::default(),
        })
    };
    shares.0.iter().map(open).collect()
}

/// A directory is opened as one, so that an automounter mounts what belongs there.
fn open_root(path: &CStr) -> Result<OwnedFd> {
    match sys::open(path, libc::O_PATH | libc::O_DIRECTORY) {
        Err(Errno(libc::ENOTDIR)) => sys::open(path, libc::O_PATH),
        other => other,
    }
}

impl Share {
    /// EROFS where nothing may be written. Each change asks, and the guest believes nothing of before then.
    pub(crate) fn writable(&self) -> Result<()> {
        self.walk.end();
        if self.read_only { Err(Errno(libc::EROFS)) } else { Ok(()) }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether the share has answered quickly of late.
    pub(crate) fn was_quick(&self) -> bool {
        self.slow.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }

    /// It has not.
    pub(crate) fn was_slow(&self) {
        self.slow.store(SLOW, Ordering::Relaxed);
    }

    /// What was sent ahead of this share is not true any more: the guest drops it before it sees `reply`.
    pub(crate) fn cast_doubt(&self, reply: &mut Reply) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
        reply.doubt = true;
    }

    /// The number of a file that programs see. File systems below the share number their files on their own, so theirs
    /// are made different.
    pub(crate) fn ino(&self, stat: &libc::stat) -> u64 {
        self.ino_on(stat.st_dev, stat.st_ino)
    }

    pub(crate) fn ino_on(&self, device: u64, ino: u64) -> u64 {
        if device == self.device { ino } else { ino ^ device.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 40 }
    }

    /// Whether a file that is removed while somebody has it open stays in its directory under another name: so does
    /// NFS. `dir` is where it is.
    pub(crate) fn keeps_names(&self, stat: &libc::stat, dir: BorrowedFd<'_>) -> bool {
        if let Some(keeps) = lock(&self.keeping).get(&stat.st_dev) {
            return *keeps;
        }
        let Ok(found) = sys::fstatfs(dir) else { return false };
        let keeps = found.f_type == libc::NFS_SUPER_MAGIC;
        lock(&self.keeping).insert(stat.st_dev, keeps);
        keeps
    }

    /// Whether closing a file of this device never reports an error: so it is on local file systems.
    pub(crate) fn closes_quietly(&self, device: u64, file: BorrowedFd<'_>) -> bool {
        if let Some(quiet) = lock(&self.quiet).get(&device) {
            return *quiet;
        }
        let Ok(found) = sys::fstatfs(file) else { return false };
        let local = [libc::EXT4_SUPER_MAGIC, libc::XFS_SUPER_MAGIC, libc::BTRFS_SUPER_MAGIC, libc::TMPFS_MAGIC];
        let quiet = local.contains(&found.f_type);
        lock(&self.quiet).insert(device, quiet);
        quiet
    }

    /// A directory's node and its descriptor.
    pub(crate) fn dir(&self, id: u64) -> Result<Arc<OwnedFd>> {
        let node = self.nodes.get(id)?;
        if !node.is(libc::S_IFDIR) {
            return Err(Errno(libc::ENOTDIR));
        }
        self.nodes.fd(&node)
    }

    /// The descriptor for a request that may name a handle.
    pub(crate) fn by_handle(&self, node: u64, handle: Option<u64>) -> Result<Target> {
        if let Some(handle) = handle {
            // A handle that is gone is no reason to fail: the node is named too.
            if let Ok(handle) = self.handles.get(handle, node) {
                return Ok(Target::Handle(handle));
            }
        }
        let node = self.nodes.get(node)?;
        Ok(Target::Node(self.nodes.fd(&node)?, node))
    }
}

/// What a request is about.
#[derive(Debug)]
pub(crate) enum Target {
    /// An open file.
    Handle(Arc<Handle>),
    /// A file, with its O_PATH descriptor.
    Node(Arc<OwnedFd>, Arc<Node>),
}

impl Target {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Handle(handle) => handle.fd(),
            Self::Node(fd, _) => fd.as_fd(),
        }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        match self {
            Self::Handle(handle) => &handle.node,
            Self::Node(_, node) => node,
        }
    }
}
