//! Mounts that have no place yet: they are made before a guest is saved, and a clone only puts them where they belong.
//!
//! These are the system calls of Linux 5.2. Older kernels answer ENOSYS, and then there are no such mounts.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

// <linux/mount.h>
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOUNT_ATTR_NOSUID: libc::c_uint = 2;
const MOUNT_ATTR_NODEV: libc::c_uint = 4;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

/// A mount without a place. It ends when this is dropped, unless it was put somewhere.
#[derive(Debug)]
pub(super) struct Detached(OwnedFd);

impl Detached {
    /// A mount of this kind without set-user-id programs and devices; an option without a value is a flag.
    ///
    /// # Errors
    /// ENOSYS from kernels that cannot; what the file system refuses.
    pub fn make(kind: &CStr, options: &[(&CStr, Option<&CStr>)]) -> nix::Result<Self> {
        // SAFETY: fsopen reads a string and returns a descriptor.
        let context = unsafe { descriptor(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC)) }?;
        for (key, value) in options {
            configure(
                &context,
                if value.is_some() { FSCONFIG_SET_STRING } else { FSCONFIG_SET_FLAG },
                Some(key),
                *value,
            )?;
        }
        configure(&context, FSCONFIG_CMD_CREATE, None, None)?;
        let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        // SAFETY: fsmount takes integers and returns a descriptor.
        let mount =
            unsafe { descriptor(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes)) }?;
        Ok(Self(mount))
    }

    /// Puts it at `place`, where it then stays.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put(self, place: &Path) -> nix::Result<()> {
        let place = CString::new(place.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        let (from, to, flags) = (self.0.as_raw_fd(), libc::AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH);
        // SAFETY: move_mount reads two strings, which live through the call.
        let rc = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, place.as_ptr(), flags) };
        Errno::result(rc).map(drop)
    }

    /// The number of its file system, as `/sys/class/bdi` names it. Its files are not asked.
    pub fn device(&self) -> nix::Result<String> {
        device(self.0.as_raw_fd())
    }
}

fn configure(context: &OwnedFd, command: libc::c_uint, key: Option<&CStr>, value: Option<&CStr>) -> nix::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: fsconfig reads the two strings that the command takes; both live through the call.
    let rc =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, pointer(key), pointer(value), 0) };
    Errno::result(rc).map(drop)
}

fn device(mount: RawFd) -> nix::Result<String> {
    // SAFETY: statx is a C structure of numbers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: `found` lives through the call, which writes one statx.
    let rc = unsafe { libc::syscall(libc::SYS_statx, mount, c"".as_ptr(), flags, libc::STATX_TYPE, &raw mut found) };
    Errno::result(rc)?;
    Ok(format!("{}:{}", found.stx_dev_major, found.stx_dev_minor))
}

/// # Safety
/// `result` is what a system call returned that makes a new descriptor.
unsafe fn descriptor(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: by this function's contract nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `number`, as an option's value.
pub(super) fn number(number: BorrowedFd<'_>) -> CString {
    // Digits have no zero byte.
    CString::new(number.as_raw_fd().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_nowhere_until_it_is_put_somewhere() {
        let made = match Detached::make(c"tmpfs", &[(c"size", Some(c"64k"))]) {
            // Only root may; a sandbox may forbid it.
            Err(Errno::EPERM | Errno::ENOSYS) => return,
            made => made.unwrap(),
        };
        let device = made.device().unwrap();
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts().contains(&format!(" {device} ")), "{device}");
        let dir = tempfile::tempdir().unwrap();
        made.put(dir.path()).unwrap();
        assert!(mounts().contains(&format!(" {device} / {} rw,nosuid,nodev", dir.path().display())));
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert_eq!(Detached::make(c"no-such-kind", &[]).unwrap_err(), Errno::ENODEV);
    }
}
