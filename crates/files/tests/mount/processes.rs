//! Starting the server as the runner does, and the few calls that need `unsafe`.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

/// The server's process, in the child.
pub fn serve() -> ExitCode {
    match files::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the server; it finds its descriptors where the runner puts them.
pub fn start_server(control: UnixStream, port: UnixStream, descriptors: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("serve").env_clear().stdin(Stdio::from(OwnedFd::from(control)));
    let port_number = port.as_raw_fd();
    assert!(port_number > files::PORT_FD);
    let prepare = move || {
        if let Some(limit) = descriptors {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: the limit lives until the call returns.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        }
        // SAFETY: numbers only.
        match unsafe { libc::dup2(port_number, files::PORT_FD) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: what it calls is allowed between fork and exec, and the port is open until then.
    unsafe { command.pre_exec(prepare) };
    command.spawn().unwrap()
}

/// A shared mapping of a file.
pub struct Mapping {
    address: *mut u8,
    len: usize,
}

impl Mapping {
    pub fn new(file: &File, len: usize) -> io::Result<Self> {
        let how = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, how, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { address: address.cast(), len })
        }
    }

    pub fn write(&self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.len);
        // SAFETY: within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.address.add(at), data.len()) };
    }

    pub fn sync(&self) {
        // SAFETY: the whole mapping.
        assert_eq!(unsafe { libc::msync(self.address.cast(), self.len, libc::MS_SYNC) }, 0);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nobody uses any more.
        unsafe { libc::munmap(self.address.cast(), self.len) };
    }
}

/// A POSIX lock of this process: `wait` or not.
pub fn posix_lock(file: &File, kind: i32, (start, len): (i64, i64), wait: bool) -> io::Result<()> {
    let mut lock = new_lock(kind, start, len);
    let command = if wait { libc::F_SETLKW } else { libc::F_SETLK };
    // SAFETY: the lock lives until the call returns.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A lock in the way: its kind, start, length and process.
pub fn lock_in_the_way(file: &File, kind: i32) -> (i32, i64, i64, i32) {
    let mut lock = new_lock(kind, 0, 0);
    // SAFETY: the lock lives until the call returns.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) }, 0);
    (i32::from(lock.l_type), lock.l_start, lock.l_len, lock.l_pid)
}

fn new_lock(kind: i32, start: i64, len: i64) -> libc::flock {
    // SAFETY: all zeros is a lock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence) = (kind as i16, libc::SEEK_SET as i16);
    (lock.l_start, lock.l_len) = (start, len);
    lock
}

/// `umask` of this process: only for what runs alone.
pub fn with_umask<R>(mask: u32, run: impl FnOnce() -> R) -> R {
    // SAFETY: this thread gets a working directory and an umask of its own.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_FS) }, 0);
    // SAFETY: umask takes any number.
    let old = unsafe { libc::umask(mask) };
    let result = run();
    // SAFETY: as above.
    unsafe { libc::umask(old) };
    result
}

/// `flock` of an open file.
pub trait Flock {
    /// LOCK_EX, LOCK_SH, LOCK_UN, with LOCK_NB or without.
    fn flock(&self, operation: i32) -> io::Result<()>;

    fn exclusive(&self) -> io::Result<()> {
        self.flock(libc::LOCK_EX)
    }

    fn try_exclusive(&self) -> io::Result<()> {
        self.flock(libc::LOCK_EX | libc::LOCK_NB)
    }

    fn try_shared(&self) -> io::Result<()> {
        self.flock(libc::LOCK_SH | libc::LOCK_NB)
    }

    fn release(&self) -> io::Result<()> {
        self.flock(libc::LOCK_UN)
    }
}

impl Flock for File {
    fn flock(&self, operation: i32) -> io::Result<()> {
        // SAFETY: numbers only.
        if unsafe { libc::flock(self.as_raw_fd(), operation) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
