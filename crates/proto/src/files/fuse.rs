//! Numbers of the FUSE protocol (7.x) that courier and server need. A guest's kernel may be older or newer than this list.

/// Major version; there is only one.
pub const MAJOR: u32 = 7;
/// Minor version of this list: what it says to the kernel is understood up to here.
pub const MINOR: u32 = 39;

/// Bytes of the header before each request: len u32, opcode u32, unique u64, nodeid u64, uid u32, gid u32, pid u32,
/// padding u32.
pub const IN_HEADER: usize = 40;
/// Bytes of the header before each reply: len u32, error i32, unique u64.
pub const OUT_HEADER: usize = 16;
/// Bytes between a WRITE's header and its data.
pub const WRITE_IN: usize = 40;
/// The node at which a share begins.
pub const ROOT: u64 = 1;

/// The four bytes at `at` as a number; 0 if they are not there.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

/// The eight bytes at `at` as a number; 0 if they are not there.
#[must_use]
pub fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

/// What a request asks for.
pub mod op {
    /// Find a name.
    pub const LOOKUP: u32 = 1;
    /// The kernel has forgotten lookups of a node; no reply.
    pub const FORGET: u32 = 2;
    /// Attributes.
    pub const GETATTR: u32 = 3;
    /// Change attributes.
    pub const SETATTR: u32 = 4;
    /// Where a link leads.
    pub const READLINK: u32 = 5;
    /// Make a link.
    pub const SYMLINK: u32 = 6;
    /// Make a file that is neither a directory nor open.
    pub const MKNOD: u32 = 8;
    /// Make a directory.
    pub const MKDIR: u32 = 9;
    /// Remove a name of a file.
    pub const UNLINK: u32 = 10;
    /// Remove a directory.
    pub const RMDIR: u32 = 11;
    /// Give another name.
    pub const RENAME: u32 = 12;
    /// Give one more name.
    pub const LINK: u32 = 13;
    /// Open a file.
    pub const OPEN: u32 = 14;
    /// Read of an open file.
    pub const READ: u32 = 15;
    /// Write to an open file.
    pub const WRITE: u32 = 16;
    /// State of the file system.
    pub const STATFS: u32 = 17;
    /// An open file is closed for the last time.
    pub const RELEASE: u32 = 18;
    /// Bring a file to the disk.
    pub const FSYNC: u32 = 20;
    /// Set an extended attribute.
    pub const SETXATTR: u32 = 21;
    /// Read an extended attribute.
    pub const GETXATTR: u32 = 22;
    /// List extended attributes.
    pub const LISTXATTR: u32 = 23;
    /// Remove an extended attribute.
    pub const REMOVEXATTR: u32 = 24;
    /// One of several descriptors is closed.
    pub const FLUSH: u32 = 25;
    /// The first request of a mount.
    pub const INIT: u32 = 26;
    /// Open a directory.
    pub const OPENDIR: u32 = 27;
    /// Read entries.
    pub const READDIR: u32 = 28;
    /// Close a directory.
    pub const RELEASEDIR: u32 = 29;
    /// Bring a directory to the disk.
    pub const FSYNCDIR: u32 = 30;
    /// Ask for a lock in the way.
    pub const GETLK: u32 = 31;
    /// Lock, or fail.
    pub const SETLK: u32 = 32;
    /// Lock, or wait.
    pub const SETLKW: u32 = 33;
    /// May this be done?
    pub const ACCESS: u32 = 34;
    /// Make a file and open it.
    pub const CREATE: u32 = 35;
    /// A process that waits for a reply got a signal; no reply.
    pub const INTERRUPT: u32 = 36;
    /// The mount has ended.
    pub const DESTROY: u32 = 38;
    /// Control of an open file.
    pub const IOCTL: u32 = 39;
    /// Many FORGETs; no reply.
    pub const BATCH_FORGET: u32 = 42;
    /// Reserve, or make a hole.
    pub const FALLOCATE: u32 = 43;
    /// Read entries with attributes.
    pub const READDIRPLUS: u32 = 44;
    /// RENAME with flags.
    pub const RENAME2: u32 = 45;
    /// Find data or a hole.
    pub const LSEEK: u32 = 46;
    /// Copy between open files.
    pub const COPY_FILE_RANGE: u32 = 47;
    /// Bring a file system to the disk.
    pub const SYNCFS: u32 = 50;
    /// Make a file without a name.
    pub const TMPFILE: u32 = 51;
    /// Attributes, with the time of birth.
    pub const STATX: u32 = 52;
}

/// What kernel and server agree on in INIT.
pub mod init {
    /// Several READs of one file at once.
    pub const ASYNC_READ: u64 = 1;
    /// The server knows POSIX locks.
    pub const POSIX_LOCKS: u64 = 1 << 1;
    /// OPEN with O_TRUNC truncates.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// WRITEs of more than a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// The server applies the umask.
    pub const DONT_MASK: u64 = 1 << 6;
    /// The server knows flock.
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    /// Data is dropped from the cache when the time of change differs.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// The server knows READDIRPLUS.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// Direct I/O in parts.
    pub const ASYNC_DIO: u64 = 1 << 15;
    /// Several lookups in one directory at once.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// The reply says how many pages a request may have.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// The server removes set-user-id when a file is written; the kernel says when.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// Flags above the 32nd are meant.
    pub const INIT_EXT: u64 = 1 << 30;
    /// A file that is opened without a cache can be mapped shared all the same.
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// Codes of notifications, in the `error` field of a header whose `unique` is 0.
pub mod notify {
    /// Attributes and data of a node have changed: ino u64, offset i64 (negative: attributes only), length i64.
    pub const INVAL_INODE: i32 = 2;
}
