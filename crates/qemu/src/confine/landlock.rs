//! Landlock, the kernel's way for a process to give up rights for itself and all that it executes (Linux 5.13 and newer).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Rights on files and directories, by the kernel's numbers.
pub(super) mod access {
    /// To execute a file.
    pub(crate) const EXECUTE: u64 = 1;
    /// To open a file for writing.
    pub(crate) const WRITE: u64 = 1 << 1;
    /// To open a file for reading.
    pub(crate) const READ: u64 = 1 << 2;
    /// To list a directory.
    pub(crate) const LIST: u64 = 1 << 3;
    /// To cut off a file.
    pub(crate) const TRUNCATE: u64 = 1 << 14;
    /// To control a device.
    pub(crate) const IOCTL: u64 = 1 << 15;
}

/// What release after release of the interface can forbid: rights on files, on the network, and on processes outside.
const RELEASES: [(u32, Rights); 8] = [
    // All that was there at first.
    (1, Rights { files: (1 << 13) - 1, network: 0, outside: 0 }),
    // Moves between directories.
    (2, Rights { files: 1 << 13, network: 0, outside: 0 }),
    (3, Rights { files: access::TRUNCATE, network: 0, outside: 0 }),
    // TCP: own ports, and connections.
    (4, Rights { files: 0, network: 0b11, outside: 0 }),
    (5, Rights { files: access::IOCTL, network: 0, outside: 0 }),
    // Abstract sockets of others, and signals to them.
    (6, Rights { files: 0, network: 0, outside: 0b11 }),
    // Sockets with a name. Between: how denials are logged, and threads.
    (9, Rights { files: 1 << 16, network: 0, outside: 0 }),
    // UDP like TCP.
    (10, Rights { files: 0, network: 0b1100, outside: 0 }),
];

/// Sets of rights; the kernel's `landlock_ruleset_attr`. An older kernel takes a longer one if its end is zero.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rights {
    files: u64,
    network: u64,
    outside: u64,
}

impl Rights {
    /// All that a kernel of this release of the interface can forbid.
    fn of(abi: u32, forbid_network: bool) -> Self {
        let known = RELEASES.into_iter().filter(|(since, _)| *since <= abi);
        let mut all = known.fold(Self::default(), |all, (_, more)| Self {
            files: all.files | more.files,
            network: all.network | more.network,
            outside: all.outside | more.outside,
        });
        if !forbid_network {
            all.network = 0;
        }
        all
    }
}

/// The kernel's `landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    fd: RawFd,
}

/// The release of the interface that this kernel has.
///
/// # Errors
/// When it has none, or it is switched off (`lsm=`), or a filter of system calls forbids it.
pub(super) fn abi() -> io::Result<u32> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: without a structure the call only returns a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Rights>(), 0_usize, VERSION) };
    u32::try_from(abi).map_err(|_| io::Error::last_os_error())
}

/// What a process will still be able to do.
#[derive(Debug)]
pub(crate) struct Ruleset {
    fd: OwnedFd,
    handled: u64,
}

impl Ruleset {
    /// One that allows nothing that this release of the interface can forbid; the network only if that is said.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(abi: u32, forbid_network: bool) -> io::Result<Self> {
        let rights = Rights::of(abi, forbid_network);
        let size = size_of::<Rights>();
        // SAFETY: the structure lives during the call, which reads that many bytes of it.
        let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const rights, size, 0) };
        let Ok(fd @ 0..) = RawFd::try_from(fd) else { return Err(io::Error::last_os_error()) };
        // SAFETY: the call has just made this descriptor, which is closed at exec.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, handled: rights.files })
    }

    /// Allows these rights on a file, or on everything below a directory; those that this kernel cannot forbid are there anyway.
    ///
    /// # Errors
    /// The system's: `EBADFD` if the file is in none of the file systems that are mounted. Such files are never forbidden.
    pub(super) fn allow(&self, fd: BorrowedFd<'_>, allowed: u64) -> io::Result<()> {
        const PATH_BENEATH: libc::c_int = 1;
        let rule = Beneath { allowed: allowed & self.handled, fd: fd.as_raw_fd() };
        let set = self.fd.as_raw_fd();
        // SAFETY: the structure lives during the call, which reads it.
        let rc = unsafe { libc::syscall(libc::SYS_landlock_add_rule, set, PATH_BENEATH, &raw const rule, 0) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Holds this thread and whatever it executes to it, for ever. It makes system calls only.
    ///
    /// # Errors
    /// The system's: `E2BIG` within too many rulesets of others.
    pub(crate) fn enter(&self) -> io::Result<()> {
        // Otherwise a program that gains privileges at exec would be held to rules that it does not know.
        // SAFETY: prctl with integers only.
        let sealed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        // SAFETY: a call with integers only; it takes rights from this thread alone.
        let entered = || unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), 0) };
        if sealed == 0 && entered() == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_asked_for_nothing_that_is_younger_than_it() {
        let rights = |abi| Rights::of(abi, true);
        assert_eq!(rights(1), Rights { files: 0x1fff, network: 0, outside: 0 });
        assert_eq!(rights(3), Rights { files: 0x7fff, network: 0, outside: 0 });
        // Linux 6.12.
        assert_eq!(rights(6), Rights { files: 0xffff, network: 3, outside: 3 });
        assert_eq!(rights(8), rights(6));
        assert_eq!(rights(99), Rights { files: 0x1_ffff, network: 15, outside: 3 });
        assert_eq!(Rights::of(99, false), Rights { network: 0, ..rights(99) });
    }

    #[test]
    fn this_kernel_takes_what_it_is_asked_for() {
        // One that has none refuses, and takes nothing.
        let (release, takes) = (abi().unwrap_or(1), abi().is_ok());
        assert_eq!([true, false].map(|network| Ruleset::new(release, network).is_ok()), [takes; 2]);
    }
}
