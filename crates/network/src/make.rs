//! Makes a node's part of a step's network. As root, in a process that does nothing else: it leaves its network namespace.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::{Doing, NetworkError};
use crate::firewall;
use crate::links;
use crate::message::Message;
use crate::netlink::Netlink;
use crate::plan::{self, Range4};
use crate::sys;

/// Longest packet of a network that is on one node only.
const USUAL_MTU: u32 = 1500;

/// What a tunnel adds to each packet: an Ethernet header inside, and VXLAN, UDP and IPv4 around it.
const TUNNEL_BYTES: u32 = 14 + 8 + 8 + 20;

/// The least that IPv6 needs.
const LEAST_MTU: u32 = 1280;

/// Messages that are sent at once at most: the kernel's answers must fit into a socket.
const AT_ONCE: usize = 64;

const BRIDGE: &str = "br";
const TUNNEL: &str = "vx";

/// A node's part of a step's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The job.
    pub job: u32,
    /// The step of the job.
    pub step: u32,
    /// VMs on each node of the step, in Slurm's order.
    pub vms: Vec<u32>,
    /// Which of these nodes this is.
    pub node: usize,
    /// Addresses of the nodes in the same order; not needed if there is one.
    pub addresses: Vec<Ipv4Addr>,
    /// UDP port of the tunnel.
    pub port: u16,
    /// Addresses of the VMs.
    pub range: Range4,
}

/// What was made. It lasts as long as one of the taps is open, and needs the guard.
#[derive(Debug)]
pub struct Made {
    /// The taps of the VMs on this node.
    pub taps: Vec<OwnedFd>,
    /// What keeps others out of the tunnel, if there is one.
    pub guard: Option<OwnedFd>,
    /// Longest packet in bytes.
    pub mtu: u32,
}

/// Makes it.
///
/// # Errors
/// What this node lacks; nothing is left then.
pub fn make(part: &Part) -> Result<Made, NetworkError> {
    let overlapping = sys::addresses().doing(|| "the node's addresses".to_owned())?;
    if let Some((name, address)) = overlapping.into_iter().find(|(_, address)| part.range.contains(*address)) {
        return Err(NetworkError::new(format!(
            "the node has the address {address} ({name}) in the range of VMs, {}: the administrator must set another range \
             ('job_network')",
            part.range
        )));
    }
    let across = part.vms.len() > 1;
    if across {
        check_ports(first_port_of_users())?;
    }
    let mtu = if across { mtu(part)? } else { USUAL_MTU };
    let underlay = Netlink::route().doing(|| "a netlink socket".to_owned())?;
    let guard = if across { Some(guard(part)?) } else { None };
    sys::leave_network().doing(|| "a network namespace cannot be made (is slurmd root?)".to_owned())?;
    // Nobody here speaks IP; a kernel without IPv6 has no such files.
    for of in ["all", "default"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6"), "1");
    }
    let mut links = Netlink::route().doing(|| "a netlink socket".to_owned())?;
    links.ask(links::new_bridge(BRIDGE)).making("a bridge cannot be made", "bridge")?;
    let bridge = sys::interface_index(BRIDGE).doing(|| "the bridge".to_owned())?;
    let mut taps = Vec::new();
    for index in 0..part.vms[part.node] {
        let name = format!("tap{index}");
        let tap = sys::make_tap(&name).making("a tap cannot be made (/dev/net/tun)", "tun")?;
        let port = sys::interface_index(&name).doing(|| name)?;
        let mac = plan::mac(part.node as u32, index);
        let messages = vec![links::join(port, bridge, mtu), links::strict_port(port), links::behind_port(port, mac)];
        links.ask_all(messages).doing(|| "a tap cannot join the bridge".to_owned())?;
        taps.push(tap);
    }
    if across {
        tunnel(part, underlay, &mut links, bridge, mtu)?;
    }
    Ok(Made { taps, guard, mtu })
}

/// The first port from which this node's users may send. A kernel that does not know it has 1024.
pub(crate) fn first_port_of_users() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

/// Refuses tunnels where a user could send what looks as if it came out of one.
///
/// # Errors
/// Says what the administrator has to set.
pub(crate) fn check_ports(first_of_users: u16) -> Result<(), NetworkError> {
    match first_of_users <= links::SENDS_FROM.1 {
        true => Err(NetworkError::new(format!(
            "users of this node may send from ports that tunnels send from, and so forge packets of a VM \
             (net.ipv4.ip_unprivileged_port_start = {first_of_users}): the administrator must set it to 1024"
        ))),
        false => Ok(()),
    }
}

/// The other nodes: their number in the step and their address.
fn peers(part: &Part) -> impl Iterator<Item = (usize, Ipv4Addr)> + '_ {
    part.addresses.iter().copied().enumerate().filter(|(node, _)| *node != part.node)
}

fn guard(part: &Part) -> Result<OwnedFd, NetworkError> {
    let (number, name) = (plan::number(part.job, part.step), format!("spank-vm-{}-{}", part.job, part.step));
    let peers: Vec<Ipv4Addr> = peers(part).map(|(_, address)| address).collect();
    firewall::guard(&name, part.port, number, &peers).doing(|| {
        "this node's kernel cannot keep others out of a network across nodes (nftables with tables of an owner: Linux 5.12)"
            .to_owned()
    })
}

/// The longest packet that fits through the tunnels to all other nodes.
fn mtu(part: &Part) -> Result<u32, NetworkError> {
    let local = part.addresses[part.node];
    let mut least = u32::MAX;
    for (_, peer) in peers(part) {
        if peer == local || peer.is_loopback() {
            return Err(NetworkError::new(format!(
                "nodes of this step have the address {peer} (NodeAddr), which does not lead from one to the other: a network \
                 across nodes needs an address for each"
            )));
        }
        let mtu = sys::mtu_towards(local, peer);
        least = least.min(mtu.doing(|| format!("no way from {local} (this node's NodeAddr) to {peer}"))?);
    }
    let mtu = least.min(65000).saturating_sub(TUNNEL_BYTES);
    match mtu < LEAST_MTU {
        true => Err(NetworkError::new(format!("packets between the nodes have {least} bytes, too few for a tunnel"))),
        false => Ok(mtu),
    }
}

fn tunnel(part: &Part, mut underlay: Netlink, links: &mut Netlink, bridge: u32, mtu: u32) -> Result<(), NetworkError> {
    let here = File::open("/proc/self/ns/net").doing(|| "this network namespace".to_owned())?;
    let number = plan::number(part.job, part.step);
    let new = links::new_tunnel(TUNNEL, here.as_raw_fd(), number, part.addresses[part.node], part.port);
    underlay.ask(new).making("a tunnel cannot be made", "vxlan").map_err(|error| {
        match error.errno() {
            Some(libc::EEXIST) => NetworkError::new(format!(
                "another network on this node has the number {number}, which happens once in 16 million: start the step again"
            )),
            _ => error,
        }
    })?;
    let port = sys::interface_index(TUNNEL).doing(|| "the tunnel".to_owned())?;
    let mut messages: Vec<Message> = peers(part).map(|(_, address)| links::flooded_to(port, address)).collect();
    for (node, address) in peers(part) {
        for index in 0..part.vms[node] {
            let mac = plan::mac(node as u32, index);
            messages.push(links::behind_tunnel(port, mac, address));
        }
    }
    // As a port of the bridge before anything is behind it there.
    messages.extend([links::join(port, bridge, mtu), links::strict_port(port)]);
    for (node, _) in peers(part) {
        messages.extend((0..part.vms[node]).map(|index| links::behind_port(port, plan::mac(node as u32, index))));
    }
    for some in messages.chunks(AT_ONCE) {
        links.ask_all(some.to_vec()).doing(|| "the tunnel cannot be set up".to_owned()).map_err(|error| {
            match error.errno() {
                Some(libc::EADDRINUSE) => NetworkError::new(format!(
                    "another program on this node has UDP port {}, which the tunnel needs: end it, or the administrator sets another \
                     port on all nodes ('job_network_port')",
                    part.port
                )),
                _ => error,
            }
        })?;
    }
    Ok(())
}
