//! System calls, with Rust's types. One function is one call of the kernel, unless its name says more.

#![allow(unsafe_code)]

pub(crate) mod io;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod xattr;

use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc::c_int;

/// An error number of the kernel, as the guest gets it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) c_int);

/// What a system call returns.
pub(crate) type Result<T> = std::result::Result<T, Errno>;

impl Errno {
    pub(crate) fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

/// What a call that returns -1 on error has returned.
pub(crate) fn check(rc: c_int) -> Result<c_int> {
    if rc < 0 { Err(Errno::last()) } else { Ok(rc) }
}

/// As [`check`], for counts and offsets.
pub(crate) fn check_long(rc: isize) -> Result<usize> {
    usize::try_from(rc).map_err(|_| Errno::last())
}

/// A descriptor's number as a name below `/proc/self/fd`: there the kernel opens again what the descriptor refers to,
/// whatever its names are now, and checks the user's permissions.
pub(crate) struct FdPath([u8; 32]);

/// Length of the directory's part.
const PROC: &[u8] = b"/proc/self/fd/";

impl FdPath {
    pub(crate) fn new(fd: impl AsRawFd) -> Self {
        let mut bytes = [0; 32];
        bytes[..PROC.len()].copy_from_slice(PROC);
        let mut number = fd.as_raw_fd().unsigned_abs();
        let mut digits = [0; 10];
        let mut count = 0;
        loop {
            digits[count] = b'0' + (number % 10) as u8;
            number /= 10;
            count += 1;
            if number == 0 {
                break;
            }
        }
        for (to, digit) in bytes[PROC.len()..].iter_mut().zip(digits[..count].iter().rev()) {
            *to = *digit;
        }
        Self(bytes)
    }

    pub(crate) fn path(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

/// `openat`, with O_CLOEXEC.
pub(crate) fn openat(dir: BorrowedFd<'_>, name: &CStr, flags: c_int, mode: u32) -> Result<OwnedFd> {
    // SAFETY: the name is a C string that lives until the call returns.
    let fd = check(unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags | libc::O_CLOEXEC, mode) })?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a path; links are followed.
pub(crate) fn open(path: &CStr, flags: c_int) -> Result<OwnedFd> {
    // SAFETY: as in openat.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })?;
    // SAFETY: as in openat.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens again what `fd` refers to.
pub(crate) fn reopen(fd: BorrowedFd<'_>, flags: c_int) -> Result<OwnedFd> {
    open(FdPath::new(fd).path(), flags)
}

/// Attributes of what `fd` refers to.
pub(crate) fn fstat(fd: BorrowedFd<'_>) -> Result<libc::stat> {
    fstatat(fd, c"")
}

/// Attributes of a name, which is not followed; of `dir` itself for the empty name.
pub(crate) fn fstatat(dir: BorrowedFd<'_>, name: &CStr) -> Result<libc::stat> {
    let mut stat = std::mem::MaybeUninit::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: name and stat live until the call returns.
    check(unsafe { libc::fstatat(dir.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags) })?;
    // SAFETY: the kernel has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// `statx` of what `fd` refers to.
pub(crate) fn statx(fd: BorrowedFd<'_>, flags: c_int, mask: u32) -> Result<libc::statx> {
    let mut stat = std::mem::MaybeUninit::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | flags & libc::AT_STATX_SYNC_TYPE;
    // SAFETY: the empty name and stat live until the call returns.
    check(unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, mask, stat.as_mut_ptr()) })?;
    // SAFETY: the kernel has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// State of the file system that `fd` is on.
pub(crate) fn fstatfs(fd: BorrowedFd<'_>) -> Result<libc::statfs64> {
    let mut stat = std::mem::MaybeUninit::uninit();
    // SAFETY: stat lives until the call returns.
    check(unsafe { libc::fstatfs64(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the kernel has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// Where a link leads; the buffer has room for the longest.
pub(crate) fn readlink(fd: BorrowedFd<'_>, to: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer lives until the call returns and has that length.
    check_long(unsafe { libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), to.as_mut_ptr().cast(), to.len()) })
}

pub(crate) fn symlink(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // SAFETY: both are C strings that live until the call returns; so in all calls below.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

pub(crate) fn mknod(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: u64) -> Result<()> {
    // SAFETY: see symlink.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }).map(drop)
}

pub(crate) fn mkdir(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: see symlink.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// Removes a name; `flags` is 0 or AT_REMOVEDIR.
pub(crate) fn unlink(dir: BorrowedFd<'_>, name: &CStr, flags: c_int) -> Result<()> {
    // SAFETY: see symlink.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) }).map(drop)
}

pub(crate) fn rename(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, new_name: &CStr, flags: u32) -> Result<()> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    if flags == 0 {
        // SAFETY: see symlink.
        return check(unsafe { libc::renameat(from, name.as_ptr(), to, new_name.as_ptr()) }).map(drop);
    }
    // SAFETY: see symlink. By number: not every C library has the function.
    let rc = unsafe { libc::syscall(libc::SYS_renameat2, from, name.as_ptr(), to, new_name.as_ptr(), flags) };
    check(rc as c_int).map(drop)
}

/// Gives what `fd` refers to one more name.
pub(crate) fn link(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let old = FdPath::new(fd);
    let (old, dir) = (old.path().as_ptr(), dir.as_raw_fd());
    // SAFETY: see symlink.
    check(unsafe { libc::linkat(libc::AT_FDCWD, old, dir, name.as_ptr(), libc::AT_SYMLINK_FOLLOW) }).map(drop)
}

/// Changes the mode. `fd` may be O_PATH.
pub(crate) fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    // SAFETY: see symlink.
    check(unsafe { libc::chmod(FdPath::new(fd).path().as_ptr(), mode) }).map(drop)
}

/// Changes owner and group; `u32::MAX` leaves one as it is.
pub(crate) fn chown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: see symlink.
    check(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, flags) }).map(drop)
}

/// Sets the times of access and change. `fd` may be O_PATH.
pub(crate) fn utimens(fd: BorrowedFd<'_>, times: &[libc::timespec; 2]) -> Result<()> {
    // SAFETY: see symlink; the times live until the call returns.
    let rc = unsafe { libc::utimensat(libc::AT_FDCWD, FdPath::new(fd).path().as_ptr(), times.as_ptr(), 0) };
    check(rc).map(drop)
}

/// Changes the length of a file that is not open for writing.
pub(crate) fn truncate(fd: BorrowedFd<'_>, len: i64) -> Result<()> {
    // SAFETY: see symlink.
    check(unsafe { libc::truncate64(FdPath::new(fd).path().as_ptr(), len) }).map(drop)
}

/// Whether the user may do what `mask` says.
pub(crate) fn access(fd: BorrowedFd<'_>, mask: c_int) -> Result<()> {
    // SAFETY: see symlink.
    check(unsafe { libc::access(FdPath::new(fd).path().as_ptr(), mask) }).map(drop)
}

/// Lets this thread have an umask of its own.
pub(crate) fn own_umask() -> Result<()> {
    // SAFETY: affects this thread's working directory and umask only.
    check(unsafe { libc::unshare(libc::CLONE_FS) }).map(drop)
}

/// Sets the umask; of this thread after [`own_umask`].
pub(crate) fn umask(mask: u32) {
    // SAFETY: umask takes any number.
    unsafe { libc::umask(mask) };
}

/// The next entries of a directory as the kernel writes them (`struct linux_dirent64`).
pub(crate) fn getdents(fd: BorrowedFd<'_>, to: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer lives until the call returns and has that length.
    check_long(unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), to.as_mut_ptr(), to.len()) } as isize)
}

/// How many descriptors this process may have open.
pub(crate) fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit of our own.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// A device number as `stat` has it, for the guest; and back.
pub(crate) fn to_wire_device(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// The other way.
pub(crate) fn from_wire_device(device: u32) -> u64 {
    libc::makedev(device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}
