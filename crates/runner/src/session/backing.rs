//! What stands behind a session: QEMU, or the keeper of a VM that several tasks share.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::channel::Outgoing;
use qemu::{DiskError, MemoryRegion, Monitor, QemuProcess, Written};

/// The far end of a session's channel.
#[derive(Debug)]
pub(super) enum Backing {
    /// A QEMU of this process.
    Qemu(Box<QemuProcess>),
    /// Another process has the VM; what goes through this socket it passes on.
    Keeper(UnixStream),
}

impl Backing {
    pub fn flush(&mut self, out: &mut Outgoing) {
        match self {
            Self::Qemu(process) => out.flush(&mut process.channel),
            Self::Keeper(socket) => out.flush(socket),
        }
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Qemu(process) => process.channel.read(buffer),
            Self::Keeper(socket) => socket.read(buffer),
        }
    }

    pub fn channel(&self) -> BorrowedFd<'_> {
        match self {
            Self::Qemu(process) => process.channel.as_fd(),
            Self::Keeper(socket) => socket.as_fd(),
        }
    }

    /// The other descriptors to poll. A keeper has none: there the channel stands for them.
    pub fn texts(&self) -> [BorrowedFd<'_>; 3] {
        match self {
            Self::Qemu(process) => process.texts(),
            Self::Keeper(socket) => [socket.as_fd(); 3],
        }
    }

    pub fn read_texts(&mut self) {
        if let Self::Qemu(process) = self {
            process.read_texts();
        }
    }

    pub fn monitor(&mut self) -> Option<&mut Monitor> {
        match self {
            Self::Qemu(process) => Some(&mut process.monitor),
            Self::Keeper(_) => None,
        }
    }

    pub fn disk_error(&mut self) -> Option<DiskError> {
        self.monitor()?.disk_error()
    }

    /// Why QEMU has stopped the VM, if KVM could not run its guest any more.
    pub fn kvm_failure(&self) -> Option<String> {
        match self {
            Self::Qemu(process) => process.kvm_failure(),
            Self::Keeper(_) => None,
        }
    }

    pub fn memory(&mut self, bytes: u64) -> Option<Vec<MemoryRegion>> {
        self.monitor()?.memory(bytes)
    }

    /// Whether a clone waits for [`Backing::go`].
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Qemu(process) if process.is_held())
    }

    pub fn go(&mut self) {
        if let Self::Qemu(process) = self {
            process.go();
        }
    }

    /// The pages of its template's memory that a clone has written.
    pub fn written(&self) -> io::Result<Written> {
        match self {
            Self::Qemu(process) => process.written(),
            Self::Keeper(_) => Ok(Written::default()),
        }
    }

    pub fn resumed(&mut self) -> Option<Instant> {
        self.monitor()?.resumed()
    }

    /// QEMU's process number.
    pub fn id(&self) -> u32 {
        match self {
            Self::Qemu(process) => process.id(),
            Self::Keeper(_) => 0,
        }
    }

    pub fn last_words(&self) -> String {
        match self {
            Self::Qemu(process) => process.last_words(),
            Self::Keeper(_) => String::new(),
        }
    }

    /// Why the channel closed, and whether somebody ended QEMU from outside. `has_answered`: the VM has been there.
    pub fn exit_reason(&mut self, has_answered: bool) -> (String, bool) {
        match self {
            Self::Qemu(process) => {
                let why = process.exit_reason();
                (why, process.was_killed())
            }
            Self::Keeper(_) => {
                // A task that comes late may have met another one behind the door, and no keeper.
                let late = if has_answered { "it" } else { "it had waited long enough for this task, or" };
                let why = format!(
                    "the process that keeps the VM of this node's tasks has ended: {late} was killed, by an administrator or for \
                     lack of memory"
                );
                (why, true)
            }
        }
    }

    pub fn is_stopped(&self) -> bool {
        match self {
            Self::Qemu(process) => process.is_stopped(),
            Self::Keeper(_) => false,
        }
    }

    pub fn kill(&mut self) {
        match self {
            Self::Qemu(process) => process.kill(),
            // The keeper ends this task's command, if it runs.
            Self::Keeper(socket) => drop(socket.shutdown(Shutdown::Both)),
        }
    }

    pub fn finish(&mut self) {
        match self {
            Self::Qemu(process) => process.finish(),
            Self::Keeper(_) => self.kill(),
        }
    }
}
