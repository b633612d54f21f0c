//! What every node computes alike from the step: no server gives out addresses, and no node asks another.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::NetworkError;

/// Most nodes of a network: each sends its broadcasts to all others.
pub const NODES_MOST: usize = 512;

/// Most VMs of a network on one node: a bridge has 1,023 ports.
pub(crate) const VMS_ON_NODE_MOST: u32 = 512;

/// Most VMs of a network: the names of all are in one variable.
pub(crate) const VMS_MOST: u32 = 4096;

/// A range of IPv4 addresses, like `100.80.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range4 {
    base: Ipv4Addr,
    prefix: u8,
}

impl Range4 {
    /// Bits of an address that name the network.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// How many VMs can have an address in it.
    pub fn room(self) -> u32 {
        (1 << (32 - u32::from(self.prefix))) - 2
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.base)) >> (32 - u32::from(self.prefix)) == 0
    }

    /// The address of VM number `number` of the network.
    pub fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1 + number)
    }
}

impl FromStr for Range4 {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || {
            NetworkError::new(format!(
                "'{text}': a range of IPv4 addresses is needed, like 100.80.0.0/16, from /8 to /29"
            ))
        };
        let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (base, prefix): (Ipv4Addr, u8) = (base.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        let is_whole = (8..=29).contains(&prefix) && u32::from(base) << prefix == 0;
        if is_whole { Ok(Self { base, prefix }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Range4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// A range of IPv6 addresses, like `fd76:6d00::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range6 {
    base: Ipv6Addr,
    prefix: u8,
}

impl Range6 {
    /// Bits of an address that name the network.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The address of VM number `number` of the network.
    pub fn address(self, number: u32) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.base) + 1 + u128::from(number))
    }
}

impl FromStr for Range6 {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || {
            NetworkError::new(format!(
                "'{text}': a range of IPv6 addresses is needed, like fd76:6d00::/64, from /32 to /96"
            ))
        };
        let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (base, prefix): (Ipv6Addr, u8) = (base.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        let is_whole = (32..=96).contains(&prefix) && u128::from(base) << prefix == 0;
        if is_whole { Ok(Self { base, prefix }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Range6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// The hardware address of VM number `index` on node number `node` of a step.
pub fn mac(node: u32, index: u32) -> [u8; 6] {
    let ([.., a, b], [.., c, d]) = (node.to_be_bytes(), index.to_be_bytes());
    // Administered locally, for one receiver.
    [0x02, 0x76, a, b, c, d]
}

/// The 24-bit number of a step's network. Two steps have the same one in one case of 16 million; then the second to
/// come to a node is refused there.
pub fn number(job: u32, step: u32) -> u32 {
    // A mixer of 64 bits (splitmix64): neighbouring steps get numbers that are far apart.
    let mut x = (u64::from(job) << 32 | u64::from(step)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // 0 is no network of its own.
    ((x ^ (x >> 31)) as u32 & 0x00ff_ffff).max(1)
}

/// Reads Slurm's short form of the number of tasks on each node, like `2(x3),1`.
///
/// # Errors
/// When it is none, or has more nodes than a network.
pub fn tasks_per_node(text: &str) -> Result<Vec<u32>, NetworkError> {
    let wrong = || NetworkError::new(format!("'{text:.60}' does not say how many tasks each node has"));
    let mut tasks = Vec::new();
    for part in text.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')').ok_or_else(wrong)?.parse().map_err(|_| wrong())?),
            None => (part, 1_usize),
        };
        let count: u32 = count.parse().map_err(|_| wrong())?;
        if tasks.len().saturating_add(times) > NODES_MOST {
            return Err(NetworkError::user(format!(
                "--vm-net=job: a network has at most {NODES_MOST} nodes, and this step has more"
            )));
        }
        tasks.extend(std::iter::repeat_n(count, times));
    }
    Ok(tasks)
}

/// What has a VM of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Has {
    /// Each task has so many.
    Task(u32),
    /// Each node has one, for all its tasks. It has an address of its own, and one for each of them.
    Node,
}

impl Has {
    /// VMs on a node with so many tasks.
    pub fn vms(self, tasks: u32) -> u32 {
        match self {
            Self::Task(vms) => tasks.saturating_mul(vms),
            Self::Node => 1,
        }
    }

    /// Addresses on a node with so many tasks, and what they are for.
    fn addresses(self, tasks: u32) -> u64 {
        match self {
            Self::Task(vms) => u64::from(tasks) * u64::from(vms),
            Self::Node => u64::from(tasks) + 1,
        }
    }
}

/// Checks that a step with so many tasks on each node has room in its network.
///
/// # Errors
/// Says what is too much, and how much there may be.
pub fn check_size(tasks: &[u32], has: Has, range: Range4) -> Result<(), NetworkError> {
    let addresses = |tasks: &u32| has.addresses(*tasks);
    let (all, most): (u64, u64) = (tasks.iter().map(addresses).sum(), tasks.iter().map(addresses).max().unwrap_or(0));
    let what = match has {
        Has::Task(_) => "VMs",
        Has::Node => "tasks and nodes",
    };
    let room = range.room().min(VMS_MOST);
    if all > u64::from(room) {
        return Err(NetworkError::user(format!(
            "--vm-net=job: {all} {what}, and a network has room for {room} ('job_network' = {range}): start fewer"
        )));
    }
    // Of a node's VM, each task has an address.
    let most = if has == Has::Node { most - 1 } else { most };
    if most > u64::from(VMS_ON_NODE_MOST) {
        let what = if has == Has::Node { "tasks" } else { what };
        return Err(NetworkError::user(format!(
            "--vm-net=job: {most} {what} on one node, and a network has at most {VMS_ON_NODE_MOST} there: use more nodes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_each_vm_an_address() {
        let range: Range4 = "100.80.0.0/16".parse().unwrap();
        assert_eq!(
            (range.address(0).to_string(), range.address(299).to_string()),
            ("100.80.0.1".into(), "100.80.1.44".into())
        );
        assert_eq!((range.room(), range.to_string().as_str()), (65534, "100.80.0.0/16"));
        assert!(range.contains([100, 80, 255, 1].into()) && !range.contains([100, 81, 0, 1].into()));
        let range: Range6 = "fd76:6d00::/64".parse().unwrap();
        assert_eq!(range.address(299).to_string(), "fd76:6d00::12c");
        for bad in ["", "100.80.0.0", "100.80.0.1/16", "100.80.0.0/7", "100.80.0.0/30", "x/16", "100.80.0.0/-1"] {
            assert!(bad.parse::<Range4>().is_err(), "{bad}");
        }
        for bad in ["fd76::1/64", "fd76::/31", "fd76::/97", "fd76::", "1.2.3.4/64"] {
            assert!(bad.parse::<Range6>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tasks_are_read_as_slurm_writes_them() {
        let read = |text| tasks_per_node(text).ok();
        assert_eq!(read("2(x3),1"), Some(vec![2, 2, 2, 1]));
        assert_eq!(read("4"), Some(vec![4]));
        for bad in ["", "x", "2(x)", "2(x3", "-1", "1(x513)", "1(x99999999999)", "1(x500),1(x500)"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn too_many_vms_are_refused_with_the_numbers() {
        let range = "100.80.0.0/28".parse().unwrap();
        check_size(&[7, 7], Has::Task(1), range).unwrap();
        let error = check_size(&[7, 8], Has::Task(1), range).unwrap_err().to_string();
        assert_eq!(
            error,
            "--vm-net=job: 15 VMs, and a network has room for 14 ('job_network' = 100.80.0.0/28): start fewer"
        );
        let error = check_size(&[10], Has::Task(64), "10.0.0.0/8".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("640 VMs on one node"), "{error}");
        // A VM of a node has an address more than tasks.
        check_size(&[6, 6], Has::Node, range).unwrap();
        let error = check_size(&[6, 7], Has::Node, range).unwrap_err().to_string();
        assert!(error.contains(": 15 tasks and nodes, and a network has room for 14"), "{error}");
        let error = check_size(&[1, 640], Has::Node, "10.0.0.0/8".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("640 tasks on one node"), "{error}");
        assert_eq!((Has::Task(3).vms(2), Has::Node.vms(2)), (6, 1));
    }

    #[test]
    fn neighbouring_steps_have_other_numbers_and_every_vm_another_address() {
        let mut numbers: Vec<u32> = (1..200).flat_map(|job| (0..20).map(move |step| number(job, step))).collect();
        assert!(numbers.iter().all(|&number| (1..1 << 24).contains(&number)));
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 199 * 20);
        assert_eq!(mac(258, 3), [2, 0x76, 1, 2, 0, 3]);
        assert_ne!(mac(0, 1), mac(1, 0));
    }
}
