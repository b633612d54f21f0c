//! The guest's network interfaces: the loopback, and the one device that a VM may have.
//!
//! By ioctls, which every kernel has. The device gets its driver anew before it is used: a clone's device has another
//! address and another peer than its template's, and only a driver that starts asks for them.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use proto::{Inet, Interface, MoreAddresses};

use super::devices::virtio_id;
use super::error::{AgentError, Doing};
use super::sys::{self, Request};

const DEVICES: &str = "/sys/bus/virtio/devices";
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";

/// How long the driver may take to make the interface.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);

/// Brings `lo` up: the programs of a step expect to reach each other by 127.0.0.1.
pub(super) fn loopback_up() -> Result<(), AgentError> {
    let control = control(AddressFamily::Inet)?;
    let request = sys::interface_up("lo");
    sys::configure(control.as_fd(), Request::Flags(request)).doing(|| "bring lo up".to_owned())
}

/// Configures the VM's network device.
pub(super) fn bring_up(interface: &Interface) -> Result<(), AgentError> {
    let device = device().ok_or_else(|| AgentError::Unfit("the VM has no network device".to_owned()))?;
    let name = restart_driver(&device)?;
    let control = control(AddressFamily::Inet)?;
    let set = |request, what: &str| {
        sys::configure(control.as_fd(), request).doing(|| format!("set {what} of the network device {name}"))
    };
    set(Request::Mac(sys::interface_mac(&name, interface.mac)), "the hardware address")?;
    if interface.mtu > 0 {
        set(Request::Mtu(sys::interface_mtu(&name, interface.mtu)), "the MTU")?;
    }
    // The addresses are this VM's alone by their plan: to ask for others would only take a second. A guest without IPv6 has no such
    // files.
    for (file, value) in [("accept_dad", "0"), ("dad_transmits", "0"), ("accept_ra", "0"), ("autoconf", "0")] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{file}"), value);
    }
    if let Some(v4) = interface.v4 {
        set(Request::Address(sys::interface_address(&name, v4.address)), "the address")?;
        set(Request::Netmask(sys::interface_address(&name, mask(v4.prefix).to_be_bytes())), "the netmask")?;
    }
    set(Request::Flags(sys::interface_up(&name)), "the state")?;
    if let Some(gateway) = interface.v4.and_then(|v4| v4.gateway) {
        set(Request::Route(sys::default_route(gateway)), "the route")?;
    }
    match interface.v6 {
        Some(v6) if Path::new("/proc/sys/net/ipv6").exists() => add_v6(&name, &v6),
        _ => Ok(()),
    }
}

/// Gives this VM, whose network device is up, further addresses.
///
/// Those of IPv4 are the loopback's: Linux answers on each device for all addresses that it has, and programs that look at the
/// network device see the one address there that the VM's packets come from. Open MPI takes the last one it sees, and refuses
/// connections from another. Neighbour discovery of IPv6 answers for a device's own addresses alone.
pub(super) fn add(more: &MoreAddresses) -> Result<(), AgentError> {
    let lost = || AgentError::Unfit("the VM has no network device that is up".to_owned());
    let name = device().as_deref().and_then(interface_of).ok_or_else(lost)?;
    let [.., high, low] = more.v4.address;
    // By ioctl an interface has one IPv4 address for each of its labels. One is free for each address of a network of
    // 65,536, which is more than a VM has.
    let label = format!("lo:{:x}", u16::from_be_bytes([high, low]));
    let control = control(AddressFamily::Inet)?;
    let set = |request| sys::configure(control.as_fd(), request).doing(|| format!("give {label} an address"));
    set(Request::Address(sys::interface_address(&label, more.v4.address)))?;
    // The loopback takes all addresses of a wider mask for this machine's.
    set(Request::Netmask(sys::interface_address(&label, mask(32).to_be_bytes())))?;
    if Path::new("/proc/sys/net/ipv6").exists() { add_v6(&name, &more.v6) } else { Ok(()) }
}

fn add_v6(name: &str, v6: &Inet<16>) -> Result<(), AgentError> {
    let control = control(AddressFamily::Inet6)?;
    let index = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
    let index = index.doing(|| format!("find the network device {name}"))?.trim().parse().unwrap_or(0);
    let address = sys::address6(index, v6.address, v6.prefix);
    sys::configure(control.as_fd(), Request::Address6(address)).doing(|| format!("set the IPv6 address of {name}"))?;
    let Some(gateway) = v6.gateway else { return Ok(()) };
    let route = sys::default_route6(index, gateway);
    sys::configure(control.as_fd(), Request::Route6(route)).doing(|| format!("set the IPv6 route of {name}"))
}

fn control(family: AddressFamily) -> Result<OwnedFd, AgentError> {
    socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .doing(|| "open a socket to configure the network".to_owned())
}

/// The network device in sysfs. A VM has one at most.
fn device() -> Option<PathBuf> {
    let devices = fs::read_dir(DEVICES).ok()?.flatten();
    devices.map(|device| device.path()).find(|path| {
        let id = fs::read_to_string(path.join("device")).unwrap_or_default();
        u32::from_str_radix(id.trim().trim_start_matches("0x"), 16) == Ok(virtio_id::NET)
    })
}

/// Takes the driver from the device and gives it back; returns the name of the interface.
fn restart_driver(device: &Path) -> Result<String, AgentError> {
    let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !Path::new(DRIVER).exists() {
        return Err(AgentError::Unfit(
            "the guest has no driver for its network device (virtio_net); 'spank-vm kit build' with another kernel \
             mends that"
                .to_owned(),
        ));
    }
    if device.join("driver").exists() {
        fs::write(format!("{DRIVER}/unbind"), &name).doing(|| format!("take the driver from {name}"))?;
    }
    fs::write(format!("{DRIVER}/bind"), &name).doing(|| format!("give {name} its driver"))?;
    let deadline = Instant::now() + APPEARS_WITHIN;
    loop {
        if let Some(interface) = interface_of(device) {
            return Ok(interface);
        }
        if Instant::now() > deadline {
            let within = APPEARS_WITHIN.as_secs();
            return Err(AgentError::Unfit(format!("no network interface appeared within {within} s")));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The name of a device's interface.
fn interface_of(device: &Path) -> Option<String> {
    let interface = fs::read_dir(device.join("net")).ok()?.flatten().next()?;
    Some(interface.file_name().to_string_lossy().into_owned())
}

/// The netmask of a prefix of 1 to 32 bits.
fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - u32::from(prefix.clamp(1, 32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_mask() {
        assert_eq!([8, 16, 24, 32].map(mask), [0xff00_0000, 0xffff_0000, 0xffff_ff00, 0xffff_ffff]);
    }
}
