//! Messages about links and what is behind them (`rtnetlink(7)`, `linux/if_link.h`, `linux/neighbour.h`).

use std::net::Ipv4Addr;

use crate::message::{APPEND, CREATE, EXCLUSIVE, Message};

const RTM_NEWLINK: u16 = 16;
const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

const IFLA_BR_MCAST_SNOOPING: u16 = 23;

const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT_RANGE: u16 = 10;
const IFLA_VXLAN_PORT: u16 = 15;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const AF_BRIDGE: u8 = 7;
const IFF_UP: u32 = 1;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
const NTF_MASTER: u8 = 0x04;

/// Ports that a tunnel sends from: only root can, so the firewall of the receiver knows the sender as root.
pub(crate) const SENDS_FROM: (u16, u16) = (512, 1023);

/// `struct ifinfomsg`.
fn link(family: u8, index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// `struct ndmsg`.
fn neighbour(index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = AF_BRIDGE;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes[10] = flags;
    bytes
}

/// A bridge that runs. It treats frames to groups as those to all: what guests join would only be one more table.
pub(crate) fn new_bridge(name: &str) -> Message {
    Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, &link(0, 0, IFF_UP)).with_text(IFLA_IFNAME, name).with_nest(
        IFLA_LINKINFO,
        |info| {
            info.with_text(IFLA_INFO_KIND, "bridge")
                .with_nest(IFLA_INFO_DATA, |data| data.with(IFLA_BR_MCAST_SNOOPING, &[0]))
        },
    )
}

/// A tunnel from `local` with this number and port, in the network namespace behind a descriptor. Its packets go through the
/// namespace in which the message is sent.
pub(crate) fn new_tunnel(name: &str, namespace: i32, number: u32, local: Ipv4Addr, port: u16) -> Message {
    let (low, high) = SENDS_FROM;
    let range = [low.to_be_bytes(), high.to_be_bytes()].concat();
    Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, &link(0, 0, 0))
        .with_text(IFLA_IFNAME, name)
        .with(IFLA_NET_NS_FD, &namespace.to_ne_bytes())
        .with_nest(IFLA_LINKINFO, |info| {
            info.with_text(IFLA_INFO_KIND, "vxlan").with_nest(IFLA_INFO_DATA, |data| {
                data.with(IFLA_VXLAN_ID, &number.to_ne_bytes())
                    .with(IFLA_VXLAN_LOCAL, &local.octets())
                    .with(IFLA_VXLAN_LEARNING, &[0])
                    .with(IFLA_VXLAN_PORT_RANGE, &range)
                    .with(IFLA_VXLAN_PORT, &port.to_be_bytes())
            })
        })
}

/// Makes a link a port of a bridge and lets it run.
pub(crate) fn join(index: u32, bridge: u32, mtu: u32) -> Message {
    Message::new(RTM_NEWLINK, 0, &link(0, index, IFF_UP))
        .with(IFLA_MTU, &mtu.to_ne_bytes())
        .with(IFLA_MASTER, &bridge.to_ne_bytes())
}

/// A port of a bridge that learns nothing from what comes in, and gets only frames to its own addresses and to all.
pub(crate) fn strict_port(index: u32) -> Message {
    Message::new(RTM_SETLINK, 0, &link(AF_BRIDGE, index, 0))
        .with_nest(IFLA_PROTINFO, |port| port.with(IFLA_BRPORT_LEARNING, &[0]).with(IFLA_BRPORT_UNICAST_FLOOD, &[0]))
}

/// Frames to `mac` leave a bridge through this port.
pub(crate) fn behind_port(index: u32, mac: [u8; 6]) -> Message {
    Message::new(RTM_NEWNEIGH, CREATE, &neighbour(index, NUD_NOARP, NTF_MASTER)).with(NDA_LLADDR, &mac)
}

/// Frames to `mac` leave a tunnel to this node.
pub(crate) fn behind_tunnel(index: u32, mac: [u8; 6], node: Ipv4Addr) -> Message {
    Message::new(RTM_NEWNEIGH, CREATE, &neighbour(index, NUD_NOARP | NUD_PERMANENT, NTF_SELF))
        .with(NDA_LLADDR, &mac)
        .with(NDA_DST, &node.octets())
}

/// Frames to all leave a tunnel to this node too.
pub(crate) fn flooded_to(index: u32, node: Ipv4Addr) -> Message {
    Message::new(RTM_NEWNEIGH, CREATE | APPEND, &neighbour(index, NUD_NOARP | NUD_PERMANENT, NTF_SELF))
        .with(NDA_LLADDR, &[0; 6])
        .with(NDA_DST, &node.octets())
}
