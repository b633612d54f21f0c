//! The network device of a VM, and what is behind it.
//!
//! A template has the device with nothing behind it, so its clones can have any network: QEMU's state of the device does not
//! depend on its peer, and the guest's driver is started anew in each clone.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nic<'a> {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// What is behind it.
    pub peer: Peer<'a>,
}

/// What is behind a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer<'a> {
    /// Nothing.
    Nobody,
    /// QEMU itself, as a router that acts for its user. Ports of the host lead to ports of the guest; with IPv6 if the host has
    /// it.
    User {
        /// Port of the host, port of the guest.
        published: &'a [(u16, u16)],
        /// Whether the guest gets IPv6.
        v6: bool,
    },
    /// A tap of the host.
    Tap(TapFds),
}

/// Open descriptors of a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapFds {
    /// The tap.
    pub tap: RawFd,
    /// The host kernel's own device for it (vhost-net): packets then pass by QEMU.
    pub vhost: Option<RawFd>,
}

/// A tap, with the host kernel's device for it where there is one.
#[derive(Debug)]
pub struct Tap {
    /// The tap.
    pub tap: OwnedFd,
    /// vhost-net, not in use by anybody yet.
    pub vhost: Option<OwnedFd>,
}

impl Tap {
    /// Its descriptors.
    pub fn fds(&self) -> TapFds {
        TapFds { tap: self.tap.as_raw_fd(), vhost: self.vhost.as_ref().map(AsRawFd::as_raw_fd) }
    }
}

impl Nic<'_> {
    /// The address of a template's device; its clones have other ones.
    pub const OF_TEMPLATE: Nic<'static> = Nic { mac: [0x02, 0x76, 0, 0, 0, 0], peer: Peer::Nobody };

    /// Values of `-netdev` and `-device`, for a device on this bus.
    pub(crate) fn options(&self, bus: &str) -> [String; 2] {
        let peer = match self.peer {
            Peer::Nobody => "hubport,id=net,hubid=0".to_owned(),
            Peer::User { published, v6 } => {
                let v6 = if v6 { "on" } else { "off" };
                let ports = published.iter().map(|(host, guest)| format!(",hostfwd=tcp::{host}-:{guest}"));
                format!("user,id=net,ipv4=on,ipv6={v6}{}", ports.collect::<String>())
            }
            Peer::Tap(TapFds { tap, vhost: None }) => format!("tap,id=net,fd={tap}"),
            // If the kernel then refuses, QEMU goes on without it.
            Peer::Tap(TapFds { tap, vhost: Some(vhost) }) => format!("tap,id=net,fd={tap},vhost=on,vhostfd={vhost}"),
        };
        let mac = self.mac.map(|byte| format!("{byte:02x}")).join(":");
        // romfile: nobody boots from the network. A bus without slots for them has none.
        let rom = if bus == "pci" { ",romfile=" } else { "" };
        [peer, format!("virtio-net-{bus},netdev=net,mac={mac}{rom}")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_has_the_device_of_its_template_with_another_peer() {
        let [nobody, device] = Nic::OF_TEMPLATE.options("pci");
        assert_eq!(nobody, "hubport,id=net,hubid=0");
        assert_eq!(device, "virtio-net-pci,netdev=net,mac=02:76:00:00:00:00,romfile=");
        let user = Nic { peer: Peer::User { published: &[(8080, 80), (2222, 22)], v6: false }, ..Nic::OF_TEMPLATE };
        let [peer, same] = user.options("pci");
        assert_eq!(peer, "user,id=net,ipv4=on,ipv6=off,hostfwd=tcp::8080-:80,hostfwd=tcp::2222-:22");
        assert_eq!(same, device);
        let tap = |vhost| Nic { peer: Peer::Tap(TapFds { tap: 7, vhost }), ..Nic::OF_TEMPLATE }.options("pci");
        assert_eq!((tap(None)[0].as_str(), &tap(None)[1]), ("tap,id=net,fd=7", &device));
        assert_eq!((tap(Some(8))[0].as_str(), &tap(None)[1]), ("tap,id=net,fd=7,vhost=on,vhostfd=8", &device));
        assert_eq!(user.options("device")[1], "virtio-net-device,netdev=net,mac=02:76:00:00:00:00");
    }
}
