//! Finds the guest's devices in sysfs, and waits for those that are not there yet.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

use super::error::{AgentError, Doing};

/// How long a device may take to appear after its driver was loaded. Drivers probe while they are loaded, and the
/// port's name comes a few interrupts later; the long deadline is for an overloaded host.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kernel's multicast group of device events.
const KERNEL_EVENTS: u32 = 1;

/// A watch on the devices of the guest.
#[derive(Debug)]
pub(super) struct Devices {
    events: OwnedFd,
}

/// Device number of a virtio device type, as in `/sys/bus/virtio/devices/*/device`.
pub(super) mod virtio_id {
    pub const NET: u32 = 1;
    pub const MEM: u32 = 24;
}

impl Devices {
    /// Starts watching; opened before any driver is loaded, so that no event is missed.
    pub fn watch() -> Result<Self, AgentError> {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let kind = (AddressFamily::Netlink, SockType::Datagram, SockProtocol::NetlinkKObjectUEvent);
            let events = socket::socket(kind.0, kind.1, flags, kind.2)?;
            socket::bind(events.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_EVENTS))?;
            Ok(events)
        };
        let events = open().map_err(|errno: Errno| AgentError::Os { doing: "listen for devices".to_owned(), errno })?;
        Ok(Self { events })
    }

    /// The disk that carries this serial number, if it is there.
    pub fn disk(&self, serial: &str) -> Option<PathBuf> {
        disk_with_serial(serial)
    }

    /// The disk that carries this serial number, waited for.
    pub fn wait_for_disk(&self, serial: &str) -> Result<PathBuf, AgentError> {
        self.wait(|| self.disk(serial))
            .ok_or_else(|| AgentError::Unfit(format!("the VM has no disk with the serial number '{serial}'")))
    }

    /// Opens the virtio-serial port called `name`, waited for.
    pub fn open_port(&self, name: &str) -> Result<OwnedFd, AgentError> {
        self.find_port(name)?
            .ok_or_else(|| AgentError::Unfit(format!("the VM has no virtio-serial port called '{name}'")))
    }

    /// The same, but it is no error if there is no such port.
    pub fn find_port(&self, name: &str) -> Result<Option<OwnedFd>, AgentError> {
        let Some(port) = self.wait(|| find_by_attribute("/sys/class/virtio-ports", "name", name)) else {
            return Ok(None);
        };
        let path = Path::new("/dev").join(port);
        let open = |path| OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
        open(&path).map(|file| Some(file.into())).doing(|| format!("open {}", path.display()))
    }

    /// The same for a port that a VM may lack, which has another one too. QEMU announces all ports before it names any,
    /// so there is nothing to wait for when the other one is alone.
    pub fn second_port(&self, name: &str) -> Result<Option<OwnedFd>, AgentError> {
        let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().count();
        if ports > 1 { self.find_port(name) } else { Ok(None) }
    }

    /// Device types on the virtio bus.
    pub fn virtio_ids(&self) -> Vec<u32> {
        let devices = fs::read_dir("/sys/bus/virtio/devices").into_iter().flatten().flatten();
        devices
            .filter_map(|entry| fs::read_to_string(entry.path().join("device")).ok())
            .filter_map(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok())
            .collect()
    }

    /// Whether the machine has a PCI bus with something on it.
    pub fn has_pci(&self) -> bool {
        fs::read_dir("/sys/bus/pci/devices").is_ok_and(|mut devices| devices.next().is_some())
    }

    /// Whether the machine announces virtio-mmio slots: through ACPI, or by a device tree.
    pub fn has_mmio(&self) -> bool {
        let devices = fs::read_dir("/sys/bus/platform/devices").into_iter().flatten().flatten();
        devices.map(|entry| entry.file_name()).any(|name| {
            let name = name.to_string_lossy();
            name.starts_with("LNRO0005:") || name.ends_with(".virtio_mmio")
        })
    }

    /// Calls `look` now and after each device event, until it finds something or the deadline passes.
    fn wait<T>(&self, look: impl Fn() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let mut set = [PollFd::new(self.events.as_fd(), PollFlags::POLLIN)];
            // An interrupted poll only looks once more.
            let _ = poll(&mut set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
            self.drain_events();
        }
    }

    /// Reads all events. They only say that something changed; sysfs says what.
    fn drain_events(&self) {
        let mut event = [0; 4096];
        // ENOBUFS (events were lost) is also a change: read on until the queue is empty.
        while matches!(
            socket::recv(self.events.as_raw_fd(), &mut event, MsgFlags::empty()),
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR)
        ) {}
    }
}

/// The disk that carries this serial number, if it is there.
pub(super) fn disk_with_serial(serial: &str) -> Option<PathBuf> {
    find_by_attribute("/sys/block", "serial", serial).map(|name| Path::new("/dev").join(name))
}

/// The entry of `directory` whose `attribute` has this `value`.
fn find_by_attribute(directory: &str, attribute: &str, value: &str) -> Option<std::ffi::OsString> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    entries
        .filter(|entry| fs::read_to_string(entry.path().join(attribute)).is_ok_and(|text| text.trim_end() == value))
        .map(|entry| entry.file_name())
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_attribute_and_not_by_a_prefix_of_it() {
        let dir = tempfile::tempdir().unwrap();
        for (device, serial) in [("vda", "rootless"), ("vdb", "root\n"), ("vdc", "")] {
            fs::create_dir(dir.path().join(device)).unwrap();
            fs::write(dir.path().join(device).join("serial"), serial).unwrap();
        }
        fs::create_dir(dir.path().join("loop0")).unwrap();
        let directory = dir.path().to_str().unwrap();
        assert_eq!(find_by_attribute(directory, "serial", "root"), Some("vdb".into()));
        assert_eq!(find_by_attribute(directory, "serial", "scratch"), None);
        assert_eq!(find_by_attribute("/nonexistent", "serial", "root"), None);
    }
}
