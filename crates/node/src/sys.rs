//! The few calls to the kernel that the standard library lacks. All `unsafe` of this crate is here.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Takes the lock of a file if nobody holds it; returns whether it did. Closing the file releases it.
///
/// # Errors
/// When the file system has no locks.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: a descriptor that is open for the time of the call.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            error => Err(error),
        },
    }
}

/// Opens `name`, one file name, in the open directory `dir`, without following a link and without waiting for
/// the other end of a pipe.
pub(crate) fn open_in(dir: &File, name: &OsStr, writable: bool) -> io::Result<File> {
    let name = CString::new(name.as_bytes())?;
    let access = if writable { libc::O_RDWR } else { libc::O_RDONLY };
    let flags = access | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: openat only reads the NUL-terminated name.
    match unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a descriptor that was opened just now and that nobody else has.
        fd => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

/// Reports when somebody closes or removes the file behind a descriptor.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// Watches `file` itself, even if its name changes.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        // SAFETY: inotify_init1 has no preconditions.
        let fd = match unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) } {
            -1 => return Err(io::Error::last_os_error()),
            // SAFETY: a descriptor that was opened just now and that nobody else has.
            fd => unsafe { OwnedFd::from_raw_fd(fd) },
        };
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let events = libc::IN_CLOSE_WRITE | libc::IN_CLOSE_NOWRITE | libc::IN_ATTRIB | libc::IN_DELETE_SELF;
        // SAFETY: inotify_add_watch only reads the NUL-terminated path.
        match unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), events) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(Self(fd)),
        }
    }

    /// Waits until something is reported or `other` can be read, at most `limit`. An early return is no error.
    pub(crate) fn wait(&self, other: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut entries = [entry(self.0.as_raw_fd()), entry(other.as_raw_fd())];
        // Rounded up, so that the last part of a millisecond is not spent polling.
        let millis = libc::c_int::try_from(limit.as_millis() + 1).unwrap_or(libc::c_int::MAX);
        // SAFETY: two valid entries, borrowed for the time of the call.
        if unsafe { libc::poll(entries.as_mut_ptr(), 2, millis) } == -1 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        self.drain();
        Ok(())
    }

    /// Reads the reports and drops them: the state is looked up anyway.
    fn drain(&self) {
        let mut buf = [0_u8; 4096];
        // SAFETY: the buffer is writable for its length.
        while unsafe { libc::read(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) } > 0 {}
    }
}

/// A file system as statfs(2) describes it.
pub(crate) struct Statfs {
    /// Its kind.
    pub(crate) magic: u32,
    /// Bytes of a block.
    pub(crate) block: u64,
    /// Blocks that it has.
    pub(crate) blocks: u64,
    /// Blocks that users may still fill.
    pub(crate) available: u64,
}

/// The file system of an open file.
pub(crate) fn statfs(file: &File) -> io::Result<Statfs> {
    let mut at = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: fstatfs writes the structure it is given.
    if unsafe { libc::fstatfs(file.as_raw_fd(), at.as_mut_ptr()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatfs succeeded and has filled it.
    let at = unsafe { at.assume_init() };
    // The number is a word of the processor: 32 bits of it count. The types differ between processors.
    #[allow(clippy::unnecessary_cast)]
    let (magic, block) = (at.f_type as u64 as u32, u64::try_from(at.f_frsize).unwrap_or(0));
    let block = if block == 0 { u64::try_from(at.f_bsize).unwrap_or(0) } else { block };
    Ok(Statfs { magic, block, blocks: at.f_blocks, available: at.f_bavail })
}

/// The attribute that holds an access control list.
const ACL: &CStr = c"system.posix_acl_access";

/// Whether the file has an access control list: its group permissions are then only the most that the list can allow, and
/// the list may exclude somebody.
pub fn has_acl(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return true };
    // SAFETY: both texts end with NUL; of a buffer of length 0 nothing is written.
    unsafe { libc::lgetxattr(path.as_ptr(), ACL.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Sets the time of access of a file; its time of modification stays.
pub(crate) fn set_accessed(file: &File, to: SystemTime) -> io::Result<()> {
    file.set_times(std::fs::FileTimes::new().set_accessed(to))
}

/// Gives a file or directory an access control list that excludes one user.
#[cfg(test)]
pub(crate) fn exclude_somebody(path: &Path) -> io::Result<()> {
    // Version 2; then owner, user 65534, group, mask and others: kind, permissions, number (linux/posix_acl_xattr.h).
    let entries =
        [(0x01_u16, 7_u16, u32::MAX), (0x02, 0, 65534), (0x04, 5, u32::MAX), (0x10, 5, u32::MAX), (0x20, 5, u32::MAX)];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (kind, permissions, number) in entries {
        value.extend(kind.to_le_bytes().into_iter().chain(permissions.to_le_bytes()).chain(number.to_le_bytes()));
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both texts end with NUL, and the value is readable for its length.
    match unsafe { libc::lsetxattr(path.as_ptr(), ACL.as_ptr(), value.as_ptr().cast(), value.len(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the list away.
#[cfg(test)]
pub(crate) fn include_all(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: both texts end with NUL.
    unsafe { libc::lremovexattr(path.as_ptr(), ACL.as_ptr()) };
}

/// Runs `work` with its own umask, in parallel with other tests.
#[cfg(test)]
pub(crate) fn with_umask<T: Send>(mask: libc::mode_t, work: impl FnOnce() -> T + Send) -> T {
    let alone = || {
        // SAFETY: neither has preconditions; the first gives this thread a umask of its own.
        unsafe {
            assert_eq!(libc::unshare(libc::CLONE_FS), 0);
            libc::umask(mask);
        }
        work()
    };
    std::thread::scope(|scope| scope.spawn(alone).join().unwrap())
}

/// Runs `work` where a user's file system is mounted on `place`, unseen by everybody else. It does not answer: who enters it waits.
/// Returns whether it could do so: an ordinary user cannot.
#[cfg(test)]
pub(crate) fn with_mount(place: &Path, work: impl FnOnce() + Send) -> bool {
    let place = CString::new(place.as_os_str().as_bytes()).unwrap();
    let Ok(fuse) = File::options().read(true).write(true).open("/dev/fuse") else { return false };
    let options = format!("fd={},rootmode=40000,user_id=65534,group_id=65534,allow_other", fuse.as_raw_fd());
    let options = CString::new(options).unwrap();
    let alone = || {
        let (none, root, kind) = (std::ptr::null::<libc::c_char>(), c"/".as_ptr(), c"fuse".as_ptr());
        // SAFETY: the first gives this thread mounts of its own, the others only read texts that end with NUL.
        unsafe {
            if libc::unshare(libc::CLONE_NEWNS) != 0 {
                return false;
            }
            assert_eq!(libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()), 0);
            assert_eq!(libc::mount(kind, place.as_ptr(), kind, 0, options.as_ptr().cast()), 0);
        }
        work();
        true
    };
    // Without its program the kernel refuses everything there, and a test that waits goes on.
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(20));
        drop(fuse);
    });
    std::thread::scope(|scope| scope.spawn(alone).join().unwrap())
}
