//! `--vm-net=user`: QEMU's own network, a router that makes each connection of the guest as the user.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;

use crate::error::{Blame, Fault, RunError, ensure};
use node::layout::this_node;
use proto::{Inet, Interface, ToGuest};
use qemu::{Nic, Peer, has_user_network};
use request::Published;

/// The addresses that QEMU's network has by itself.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0xf);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);

/// Each VM has a network of its own, so all have the same address.
const MAC: [u8; 6] = [0x02, 0x76, 0, 0, 0, 1];

/// A network out of the VM.
#[derive(Debug)]
pub(crate) struct UserNetwork {
    published: Vec<(u16, u16)>,
    v6: bool,
    resolver: String,
    /// Something is behind the device.
    is_connected: bool,
}

impl UserNetwork {
    /// Checks that this QEMU has it and that the ports are free.
    ///
    /// # Errors
    /// What is missing, or which port is taken.
    pub(crate) fn prepare(published: &[Published], vms: u32, qemu: &Path) -> Result<Self, RunError> {
        ensure!(
            published.is_empty() || vms == 1,
            Fault::User,
            "--vm-publish with --vms-per-slot={vms}: a port of the node can lead to one VM only"
        );
        for port in published {
            check_port(port.host)?;
        }
        if !has_user_network(qemu).blame_node()? {
            return Err(RunError::node(format!(
                "--vm-net=user: {} has no user network (slirp): install a QEMU that has it",
                qemu.display()
            )));
        }
        let published = published.iter().map(|port| (port.host, port.guest)).collect();
        let (v6, resolver) = (has_v6_route(), resolver(&of_host("/etc/resolv.conf")));
        Ok(Self { published, v6, resolver, is_connected: true })
    }

    /// One that leads nowhere, which every QEMU has.
    pub(crate) fn without_host() -> Self {
        Self { published: Vec::new(), v6: true, resolver: resolver(""), is_connected: false }
    }

    /// The device of a VM.
    pub(crate) fn nic(&self) -> Nic<'_> {
        let peer = Peer::User { published: &self.published, v6: self.v6 };
        Nic { mac: MAC, peer: if self.is_connected { peer } else { Peer::Nobody } }
    }

    /// The messages that tell a guest about it.
    pub(crate) fn introduce(&self, mut send: impl FnMut(ToGuest<'_>)) {
        let v4 = Inet { address: GUEST.octets(), prefix: 24, gateway: Some(GATEWAY.octets()) };
        let v6 = Inet { address: GUEST6.octets(), prefix: 64, gateway: Some(GATEWAY6.octets()) };
        send(ToGuest::Network(Interface { mac: MAC, mtu: 0, v4: Some(v4), v6: self.v6.then_some(v6) }));
        send(ToGuest::Resolver(self.resolver.as_bytes()));
    }
}

/// Whether this process can listen at a port now. QEMU does so a moment later.
fn check_port(port: u16) -> Result<(), RunError> {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(RunError::user(format!(
            "--vm-publish: port {port} of {} is taken by another program: choose another port",
            this_node()
        ))),
        Err(error) => Err(RunError::user(format!("--vm-publish: port {port} of {}: {error}", this_node()))),
    }
}

/// What the host says in a file; nothing if it cannot be read.
fn of_host(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The guest's resolver is QEMU, which asks the host's; names without dots are completed as on the host.
fn resolver(of_host: &str) -> String {
    let is_kept = |line: &&str| ["search ", "domain ", "options "].iter().any(|word| line.starts_with(word));
    let kept = of_host.lines().filter(is_kept).map(|line| format!("{line}\n"));
    format!("nameserver {RESOLVER}\n{}", kept.collect::<String>())
}

/// Whether the host has a way to the IPv6 network.
fn has_v6_route() -> bool {
    of_host("/proc/net/ipv6_route").lines().any(is_way_out)
}

/// A default route that is not the one to nowhere, on `lo`: destination, its prefix length, …, device.
fn is_way_out(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_default = words.first().is_some_and(|to| to.bytes().all(|b| b == b'0')) && words.get(1) == Some(&"00");
    is_default && words.last() != Some(&"lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_named_with_the_remedy() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check_port(port).unwrap_err();
        assert_eq!(error.fault(), Fault::User);
        let expected = format!("--vm-publish: port {port} of {} is taken by another program", this_node());
        assert!(error.to_string().starts_with(&expected), "{error}");
        drop(taken);
        check_port(port).unwrap();
    }

    #[test]
    fn a_port_for_many_vms_is_refused() {
        let port = Published { host: 8080, guest: 80 };
        let error = UserNetwork::prepare(&[port], 2, Path::new("/none")).unwrap_err().to_string();
        assert!(error.starts_with("--vm-publish with --vms-per-slot=2: "), "{error}");
    }

    #[test]
    fn the_guest_asks_qemu_for_names_and_completes_them_as_the_host_does() {
        let host = "# made by hand\nnameserver 192.168.1.1\nsearch cluster.example\noptions ndots:2\n";
        assert_eq!(resolver(host), "nameserver 10.0.2.3\nsearch cluster.example\noptions ndots:2\n");
    }

    #[test]
    fn a_route_to_nowhere_is_no_way_out() {
        let zero = "00000000000000000000000000000000";
        let line =
            |bits, device| format!("{zero} {bits} {zero} 00 {zero} ffffffff 00000001 00000000 00200200 {device}");
        assert!(is_way_out(&line("00", "eth0")));
        assert!(!is_way_out(&line("00", "lo")) && !is_way_out(&line("40", "eth0")));
    }
}
