//! `--vm-net=job`: taps on the step's own network, which the plugin had made, and what the guests are told of the others on it.
//!
//! A VM has the address of its number in the network: its task's rank, and its place within the slot. A VM of a whole
//! node has the addresses of all its tasks' ranks, and one of its own behind them: so a rank has the same address in
//! both cases, and no node must know which ranks are on the others.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::error::{Blame, Context, Fault, RunError, ensure};
use crate::names::{name_of_node_vm, name_of_vm};
use crate::slot::Slot;
use network::plan::{Range4, Range6, mac};
use proto::{Inet, Interface, MoreAddresses, ToGuest};
use qemu::{Accel, Nic, Peer, Tap, TapFds};
use request::OfNode;

/// The kernel's own device for taps: packets need not pass through QEMU.
const VHOST: &str = "/dev/vhost-net";

/// Bytes of lines of `/etc/hosts` that are sent at once at most.
const LINES_MOST: usize = 64 << 10;

/// Bytes of the names of all VMs that a variable has room for: Linux lets one have 128 KiB with its name.
const NAMES_MOST: usize = 127 << 10;

/// The VMs of a task on their step's network.
#[derive(Debug)]
pub(crate) struct JobNetwork {
    taps: Vec<OwnedFd>,
    mtu: u16,
    node: u32,
    /// Number on the node of the first of these VMs.
    first: u32,
    rank: u32,
    ranks: u32,
    vms: u32,
    job: u32,
    range: Range4,
    range6: Range6,
    of_node: Option<OfNode>,
}

impl JobNetwork {
    /// Takes the taps that this process has inherited.
    ///
    /// # Errors
    /// When there are none: outside of Slurm, or where the plugin made none.
    pub(crate) fn take(slot: &Slot) -> Result<Self, RunError> {
        let (Some(made), Some(job)) = (&slot.job_network, &slot.job) else {
            return Err(RunError::user("--vm-net=job: only steps of Slurm have a network of their own"));
        };
        let vms = slot.asked.vms();
        ensure!(made.taps.len() == vms as usize, Fault::System, "--vm-net=job: not as many taps as VMs were made");
        let taps = made.taps.iter().map(|&fd| inherited(fd)).collect::<Result<_, _>>();
        let request::NetworkPart { mtu, node, first, rank, ranks, .. } = *made;
        let (range, range6) = (slot.config.job_network, slot.config.job_network_v6);
        let of_node = made.of_node.clone();
        Ok(Self { taps: taps?, mtu, node, first, rank, ranks, vms, job: job.id, range, range6, of_node })
    }

    /// The same for a task whose VM another process has: it keeps no tap.
    ///
    /// # Errors
    /// As [`JobNetwork::take`].
    pub(crate) fn of_member(slot: &Slot) -> Result<Self, RunError> {
        Ok(Self { taps: Vec::new(), ..Self::take(slot)? })
    }

    /// A VM's tap: again for each attempt to start it. Where the user may open the kernel's own device for taps, which is as for
    /// `/dev/kvm`, a guest that KVM executes gets that too.
    pub(crate) fn open(&self, index: usize, accel: Accel) -> Result<Tap, RunError> {
        let tap = self.taps[index].try_clone().blame(Fault::System).context("a tap")?;
        let vhost = || File::options().read(true).write(true).open(VHOST).map(OwnedFd::from);
        let vhost =
            if accel == Accel::Kvm { vhost().map_err(|error| tracing::debug!("{VHOST}: {error}")).ok() } else { None };
        Ok(Tap { tap, vhost })
    }

    /// The device of a VM.
    pub(crate) fn nic(&self, index: usize, tap: Option<TapFds>) -> Nic<'_> {
        Nic { mac: self.mac(index), peer: tap.map_or(Peer::Nobody, Peer::Tap) }
    }

    fn mac(&self, index: usize) -> [u8; 6] {
        mac(self.node, self.first + index as u32)
    }

    /// A VM's number in the network, by which it has its addresses.
    fn number(&self, rank: u32, index: u32) -> u32 {
        rank * self.vms + index
    }

    /// Both addresses of this number.
    fn addresses(&self, number: u32) -> MoreAddresses {
        MoreAddresses {
            v4: Inet { address: self.range.address(number).octets(), prefix: self.range.prefix(), gateway: None },
            v6: Inet { address: self.range6.address(number).octets(), prefix: self.range6.prefix(), gateway: None },
        }
    }

    /// The messages that tell a guest about the network and all others on it.
    pub(crate) fn introduce(&self, index: usize, mut send: impl FnMut(ToGuest<'_>)) {
        let own = match &self.of_node {
            None => self.number(self.rank, index as u32),
            Some(_) => self.ranks + self.node,
        };
        let MoreAddresses { v4, v6 } = self.addresses(own);
        send(ToGuest::Network(Interface { mac: self.mac(index), mtu: self.mtu, v4: Some(v4), v6: Some(v6) }));
        let ranks = self.of_node.iter().flat_map(|of_node| &of_node.ranks);
        ranks.for_each(|&rank| send(ToGuest::Address(self.addresses(rank))));
        let mut lines = String::new();
        for (number, names) in self.names() {
            let (v4, v6) = (self.range.address(number), self.range6.address(number));
            lines.push_str(&format!("{v4} {names}\n{v6} {names}\n"));
            if lines.len() > LINES_MOST {
                send(ToGuest::Hosts(lines.as_bytes()));
                lines.clear();
            }
        }
        send(ToGuest::Hosts(lines.as_bytes()));
    }

    /// The numbers in the network, and the names that each has.
    fn names(&self) -> Vec<(u32, String)> {
        if let Some(OfNode { nodes, .. }) = self.of_node {
            let ranks = (0..self.ranks).map(|rank| (rank, format!("rank{rank}")));
            let vms = (0..nodes).map(|node| (self.ranks + node, self.name_on(node)));
            return vms.chain(ranks).collect();
        }
        let names = |(rank, index): (u32, u32)| {
            let mut names = self.name_of(rank, index);
            if index == 0 {
                names.push_str(&format!(" rank{rank}"));
            }
            if self.vms > 1 {
                names.push_str(&format!(" rank{rank}-{index}"));
            }
            (self.number(rank, index), names)
        };
        self.everybody().map(names).collect()
    }

    /// The host name of a VM, if it has another one than by its task alone.
    pub(crate) fn own_name(&self) -> Option<String> {
        self.of_node.as_ref().map(|_| self.name_on(self.node))
    }

    /// The names of all VMs, in the order of their ranks or nodes; `None` if no variable has room for them. With more, no program
    /// would start.
    pub(crate) fn hosts(&self) -> Option<String> {
        let names: Vec<String> = match self.of_node {
            Some(OfNode { nodes, .. }) => (0..nodes).map(|node| self.name_on(node)).collect(),
            None => self.everybody().map(|(rank, index)| self.name_of(rank, index)).collect(),
        };
        Some(names.join(",")).filter(|names| names.len() <= NAMES_MOST)
    }

    /// The host name of a task's VM.
    fn name_of(&self, rank: u32, index: u32) -> String {
        name_of_vm(self.job.into(), rank.into(), index, self.vms)
    }

    /// The host name of a node's VM.
    fn name_on(&self, node: u32) -> String {
        name_of_node_vm(self.job.into(), node.into())
    }

    fn everybody(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..self.ranks).flat_map(|rank| (0..self.vms).map(move |index| (rank, index)))
    }
}

/// Takes an open file that this process was started with. From then on, no other program gets it by accident.
fn inherited(fd: RawFd) -> Result<OwnedFd, RunError> {
    let lost = || RunError::new(Fault::System, format!("--vm-net=job: the tap {fd} did not arrive"));
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|_| lost())?;
    ensure!(link.as_os_str() == "/dev/net/tun", Fault::System, "--vm-net=job: descriptor {fd} is no tap");
    // SAFETY: the descriptor is open, and is a tap that the plugin made for this process alone, which takes it once.
    let tap = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: fcntl with F_SETFD touches no memory.
    match unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) } {
        -1 => Err(lost()),
        _ => Ok(tap),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> JobNetwork {
        let (range, range6) = ("100.80.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap());
        let (taps, of_node) = (Vec::new(), None);
        JobNetwork { taps, mtu: 1450, node: 1, first: 2, rank: 1, ranks: 2, vms: 2, job: 7, range, range6, of_node }
    }

    #[test]
    fn the_vm_of_a_node_has_the_addresses_of_its_ranks_and_one_of_its_own() {
        // Ranks 1 and 3 of four are on the second of two nodes.
        let of_node = Some(OfNode { nodes: 2, ranks: vec![1, 3] });
        let network = JobNetwork { first: 0, ranks: 4, vms: 1, of_node, ..network() };
        let (mut found, mut hosts) = (Vec::new(), String::new());
        network.introduce(0, |message| match message {
            ToGuest::Network(interface) => found.push(interface.v4.unwrap().address[3]),
            ToGuest::Address(more) => found.extend([more.v4.address[3], more.v6.address[15]]),
            ToGuest::Hosts(lines) => hosts.push_str(std::str::from_utf8(lines).unwrap()),
            other => panic!("{other:?}"),
        });
        assert_eq!(found, [6, 2, 2, 4, 4]);
        let lines: Vec<&str> = hosts.lines().collect();
        assert_eq!(lines[..4], ["100.80.0.5 vm7-n0", "fd00::5 vm7-n0", "100.80.0.6 vm7-n1", "fd00::6 vm7-n1"]);
        assert_eq!((lines[4], lines[11], lines.len()), ("100.80.0.1 rank0", "fd00::4 rank3", 12));
        assert_eq!(
            (network.hosts().unwrap().as_str(), network.own_name().as_deref()),
            ("vm7-n0,vm7-n1", Some("vm7-n1"))
        );
    }

    #[test]
    fn every_vm_has_an_address_by_its_rank_and_knows_all_names() {
        let mut hosts = String::new();
        let mut interface = None;
        network().introduce(1, |message| match message {
            ToGuest::Network(found) => interface = Some(found),
            ToGuest::Hosts(lines) => hosts.push_str(std::str::from_utf8(lines).unwrap()),
            other => panic!("{other:?}"),
        });
        let interface = interface.unwrap();
        assert_eq!((interface.mac, interface.mtu), ([2, 0x76, 0, 1, 0, 3], 1450));
        assert_eq!(interface.v4.unwrap(), Inet { address: [100, 80, 0, 4], prefix: 16, gateway: None });
        let lines: Vec<&str> = hosts.lines().collect();
        assert_eq!(
            lines[..3],
            ["100.80.0.1 vm7-0-0 rank0 rank0-0", "fd00::1 vm7-0-0 rank0 rank0-0", "100.80.0.2 vm7-0-1 rank0-1"]
        );
        assert_eq!(lines[6..], ["100.80.0.4 vm7-1-1 rank1-1", "fd00::4 vm7-1-1 rank1-1"]);
        assert_eq!(network().hosts().unwrap(), "vm7-0-0,vm7-0-1,vm7-1-0,vm7-1-1");
    }

    #[test]
    fn names_that_no_variable_has_room_for_are_in_the_file_of_hosts_alone() {
        let mut lines = 0;
        let network = JobNetwork { ranks: 16_000, ..network() };
        network.introduce(0, |message| {
            if let ToGuest::Hosts(text) = message {
                lines += std::str::from_utf8(text).unwrap().lines().count();
            }
        });
        assert_eq!((network.hosts(), lines), (None, 64_000));
    }

    #[test]
    fn what_is_no_tap_is_not_taken() {
        assert!(inherited(9999).unwrap_err().to_string().contains("did not arrive"));
        assert!(inherited(0).unwrap_err().to_string().contains("is no tap"));
    }
}
