//! A table of nftables (`linux/netfilter/nf_tables.h`) that lives as long as the socket that made it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use crate::links::SENDS_FROM;
use crate::message::{APPEND, CREATE, Message};
use crate::netlink::Netlink;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFNL_SUBSYS_NFTABLES << 8`.
const TABLES: u16 = 10 << 8;
const NEWTABLE: u16 = TABLES;
const NEWCHAIN: u16 = TABLES | 3;
const NEWRULE: u16 = TABLES | 6;

/// `NFPROTO_INET`: both versions of IP.
const INET: u8 = 1;

/// `NFT_TABLE_F_OWNER`: the table is the socket's, and ends with it. Linux 5.12.
const OWNED: u32 = 2;

/// `NF_INET_LOCAL_IN`: what is for this node, and whole.
const HOOK_INPUT: u32 = 1;
/// Before the site's own rules.
const PRIORITY: i32 = -300;

const REG: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const EQUAL: u32 = 0;
const LESS: u32 = 2;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const IPV4: u8 = 2;
const UDP: u8 = 17;

/// Lets packets of a tunnel in only from these nodes, and there only from root: whoever may send from low ports.
///
/// # Errors
/// When the kernel has no such tables.
pub(crate) fn guard(name: &str, port: u16, number: u32, peers: &[Ipv4Addr]) -> io::Result<OwnedFd> {
    let mut netlink = Netlink::netfilter()?;
    let mut messages = vec![Message::unanswered(BATCH_BEGIN, &batch())];
    messages.push(Message::new(NEWTABLE, CREATE, &family()).with_text(1, name).with(2, &OWNED.to_be_bytes()));
    messages.push(chain(name));
    let of_tunnel = [
        meta(META_L4PROTO),
        compare(EQUAL, &[UDP]),
        payload(TRANSPORT_HEADER, 2, 2),
        compare(EQUAL, &port.to_be_bytes()),
        // Behind the ports, length and checksum of UDP, the number is in the second half of VXLAN's header.
        payload(TRANSPORT_HEADER, 12, 3),
        compare(EQUAL, &number.to_be_bytes()[1..]),
    ];
    for peer in peers {
        let from_peer = [
            meta(META_NFPROTO),
            compare(EQUAL, &[IPV4]),
            payload(NETWORK_HEADER, 12, 4),
            compare(EQUAL, &peer.octets()),
            payload(TRANSPORT_HEADER, 0, 2),
            compare(LESS, &(SENDS_FROM.1 + 1).to_be_bytes()),
            verdict(ACCEPT),
        ];
        messages.push(rule(name, of_tunnel.iter().chain(&from_peer)));
    }
    messages.push(rule(name, of_tunnel.iter().chain(&[verdict(DROP)])));
    let last = messages.len();
    messages.push(Message::unanswered(BATCH_END, &batch()));
    netlink.batch(messages, |place| place > 0 && place < last)?;
    Ok(netlink.into_socket())
}

/// `struct nfgenmsg`.
fn family() -> [u8; 4] {
    [INET, 0, 0, 0]
}

fn batch() -> [u8; 4] {
    [0, 0, 0, 10]
}

fn chain(table: &str) -> Message {
    Message::new(NEWCHAIN, CREATE, &family())
        .with_text(1, table)
        .with_text(3, "input")
        .with_nest(4, |hook| hook.with(1, &HOOK_INPUT.to_be_bytes()).with(2, &PRIORITY.to_be_bytes()))
        .with(5, &ACCEPT.to_be_bytes())
        .with_text(7, "filter")
}

/// What a rule looks at or does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expression {
    name: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Meta(u32),
    Payload { base: u32, offset: u32, length: u32 },
    Compare { how: u32, with: Vec<u8> },
    Verdict(i32),
}

fn meta(key: u32) -> Expression {
    Expression { name: "meta", kind: Kind::Meta(key) }
}

fn payload(base: u32, offset: u32, length: u32) -> Expression {
    Expression { name: "payload", kind: Kind::Payload { base, offset, length } }
}

fn compare(how: u32, with: &[u8]) -> Expression {
    Expression { name: "cmp", kind: Kind::Compare { how, with: with.to_vec() } }
}

fn verdict(code: i32) -> Expression {
    Expression { name: "immediate", kind: Kind::Verdict(code) }
}

impl Expression {
    fn put(&self, list: Message) -> Message {
        list.with_nest(1, |element| {
            element.with_text(1, self.name).with_nest(2, |data| match &self.kind {
                Kind::Meta(key) => data.with(1, &REG.to_be_bytes()).with(2, &key.to_be_bytes()),
                Kind::Payload { base, offset, length } => data
                    .with(1, &REG.to_be_bytes())
                    .with(2, &base.to_be_bytes())
                    .with(3, &offset.to_be_bytes())
                    .with(4, &length.to_be_bytes()),
                Kind::Compare { how, with } => data
                    .with(1, &REG.to_be_bytes())
                    .with(2, &how.to_be_bytes())
                    .with_nest(3, |value| value.with(1, with)),
                // Register 0 is the verdict's.
                Kind::Verdict(code) => data
                    .with(1, &0_u32.to_be_bytes())
                    .with_nest(2, |value| value.with_nest(2, |verdict| verdict.with(1, &code.to_be_bytes()))),
            })
        })
    }
}

fn rule<'a>(table: &str, expressions: impl Iterator<Item = &'a Expression>) -> Message {
    Message::new(NEWRULE, CREATE | APPEND, &family())
        .with_text(1, table)
        .with_text(2, "input")
        .with_nest(4, |list| expressions.fold(list, |list, expression| expression.put(list)))
}
