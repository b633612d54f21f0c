//! `--vm-net=job`: taps on the step's own network, which the plugin had made, and what the guests are told of the others on it.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::error::{Blame, Context, Fault, RunError, ensure};
use crate::names::name_of_vm;
use crate::slot::Slot;
use network::plan::{Range4, Range6, mac};
use proto::{Inet, Interface, ToGuest};
use qemu::{Nic, Peer};

/// Bytes of lines of `/etc/hosts` that are sent at once at most.
const LINES_MOST: usize = 64 << 10;

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
        let request::JobNetwork { mtu, node, first, rank, ranks, .. } = *made;
        let (range, range6) = (slot.config.job_network, slot.config.job_network_v6);
        Ok(Self { taps: taps?, mtu, node, first, rank, ranks, vms, job: job.id, range, range6 })
    }

    /// A VM's tap: again for each attempt to start it.
    pub(crate) fn open(&self, index: usize) -> Result<OwnedFd, RunError> {
        self.taps[index].try_clone().blame(Fault::System).context("a tap")
    }

    /// The device of a VM.
    pub(crate) fn nic(&self, index: usize, tap: Option<RawFd>) -> Nic<'_> {
        Nic { mac: self.mac(index), peer: tap.map_or(Peer::Nobody, Peer::Tap) }
    }

    fn mac(&self, index: usize) -> [u8; 6] {
        mac(self.node, self.first + index as u32)
    }

    /// A VM's number in the network, by which it has its addresses.
    fn number(&self, rank: u32, index: u32) -> u32 {
        rank * self.vms + index
    }

    /// The messages that tell a guest about the network and all others on it.
    pub(crate) fn introduce(&self, index: usize, mut send: impl FnMut(ToGuest<'_>)) {
        let number = self.number(self.rank, index as u32);
        let v4 = Inet { address: self.range.address(number).octets(), prefix: self.range.prefix(), gateway: None };
        let v6 = Inet { address: self.range6.address(number).octets(), prefix: self.range6.prefix(), gateway: None };
        send(ToGuest::Network(Interface { mac: self.mac(index), mtu: self.mtu, v4: Some(v4), v6: Some(v6) }));
        let mut lines = String::new();
        for (rank, index) in self.everybody() {
            let number = self.number(rank, index);
            let mut names = name_of_vm(self.job.into(), rank.into(), index, self.vms);
            if index == 0 {
                names.push_str(&format!(" rank{rank}"));
            }
            if self.vms > 1 {
                names.push_str(&format!(" rank{rank}-{index}"));
            }
            let (v4, v6) = (self.range.address(number), self.range6.address(number));
            lines.push_str(&format!("{v4} {names}\n{v6} {names}\n"));
            if lines.len() > LINES_MOST {
                send(ToGuest::Hosts(lines.as_bytes()));
                lines.clear();
            }
        }
        send(ToGuest::Hosts(lines.as_bytes()));
    }

    /// The names of all VMs, in the order of their ranks.
    pub(crate) fn hosts(&self) -> String {
        let name = |(rank, index): (u32, u32)| name_of_vm(self.job.into(), rank.into(), index, self.vms);
        self.everybody().map(name).collect::<Vec<_>>().join(",")
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
        JobNetwork { taps: Vec::new(), mtu: 1450, node: 1, first: 2, rank: 1, ranks: 2, vms: 2, job: 7, range, range6 }
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
        assert_eq!(network().hosts(), "vm7-0-0,vm7-0-1,vm7-1-0,vm7-1-1");
    }

    #[test]
    fn what_is_no_tap_is_not_taken() {
        assert!(inherited(9999).unwrap_err().to_string().contains("did not arrive"));
        assert!(inherited(0).unwrap_err().to_string().contains("is no tap"));
    }
}
