//! The guest's network interfaces.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::error::{AgentError, Doing};
use super::sys;

/// What the runner says about the VM's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NetSetup {
    pub mac: [u8; 6],
    pub address: Ipv4Addr,
    pub prefix: u8,
    /// Unspecified for none.
    pub gateway: Ipv4Addr,
    /// Unspecified leaves the image's resolv.conf alone.
    pub dns: Ipv4Addr,
}

/// Brings `lo` up: programs of one step talk to each other by 127.0.0.1 everywhere else too.
pub(super) fn loopback_up() -> Result<(), AgentError> {
    set_up(control_socket()?.as_fd(), "lo", true)
}

/// Gives the VM's interface its identity and address.
pub(super) fn configure(setup: &NetSetup) -> Result<(), AgentError> {
    let name = first_interface()?;
    let control = control_socket()?;
    let control = control.as_fd();
    // A clone inherits the template's running interface; its address only changes while it is down.
    set_up(control, &name, false)?;
    let mut hardware = sys::interface_named(&name);
    hardware.ifr_ifru.ifru_hwaddr = hardware_address(setup.mac);
    sys::interface_request(control, libc::SIOCSIFHWADDR as libc::Ioctl, &mut hardware)
        .doing(|| format!("set the hardware address of {name}"))?;
    set_up(control, &name, true)?;
    for (request, address) in [(libc::SIOCSIFADDR, setup.address), (libc::SIOCSIFNETMASK, netmask(setup.prefix))] {
        let mut argument = sys::interface_named(&name);
        argument.ifr_ifru.ifru_addr = socket_address(address);
        sys::interface_request(control, request as libc::Ioctl, &mut argument)
            .doing(|| format!("set the address of {name}"))?;
    }
    if !setup.gateway.is_unspecified() {
        let mut route = sys::empty_route();
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(setup.gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        sys::add_route(control, &route).doing(|| format!("route through {}", setup.gateway))?;
    }
    if !setup.dns.is_unspecified() {
        // Often a link into a /run that is empty here: replaced, not followed.
        let _ = fs::remove_file("/etc/resolv.conf");
        fs::write("/etc/resolv.conf", format!("nameserver {}\n", setup.dns))
            .doing(|| "write /etc/resolv.conf".to_owned())?;
    }
    Ok(())
}

/// The one interface that is a device and not software: `eth0`, whatever an image would call it.
fn first_interface() -> Result<String, AgentError> {
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<_> = names
        .filter(|entry| Path::new(&entry.path()).join("device").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into_iter().next().ok_or_else(|| AgentError::Unfit("the VM has no network card".to_owned()))
}

fn control_socket() -> Result<OwnedFd, AgentError> {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .doing(|| "open a socket to configure the network".to_owned())
}

fn set_up(control: BorrowedFd<'_>, name: &str, up: bool) -> Result<(), AgentError> {
    let mut argument = sys::interface_named(name);
    let flag = libc::IFF_UP as libc::c_short;
    argument.ifr_ifru.ifru_flags = if up { flag | libc::IFF_RUNNING as libc::c_short } else { 0 };
    sys::interface_request(control, libc::SIOCSIFFLAGS as libc::Ioctl, &mut argument)
        .doing(|| format!("bring {name} {}", if up { "up" } else { "down" }))
}

fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

/// An IPv4 address as the kernel's generic socket address: port (0), then the four bytes.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn hardware_address(mac: [u8; 6]) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_any_length_is_a_mask() {
        assert_eq!(netmask(24), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(netmask(32), Ipv4Addr::BROADCAST);
        assert_eq!(netmask(0), Ipv4Addr::UNSPECIFIED);
    }
}
