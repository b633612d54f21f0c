//! A task's part of its step's network, as the plugin hands it to the runner.

use std::fmt;
use std::str::FromStr;

/// What was made for the VMs of a task, and where they are in the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPart {
    /// Longest packet in bytes.
    pub mtu: u16,
    /// Number of the node within the step.
    pub node: u32,
    /// Number on the node of the first of these VMs.
    pub first: u32,
    /// Number of the task within the step.
    pub rank: u32,
    /// Tasks of the step.
    pub ranks: u32,
    /// Descriptors that the runner inherits: one tap for each VM.
    pub taps: Vec<i32>,
    /// The VM of a whole node; `None` if each task has VMs of its own.
    pub of_node: Option<OfNode>,
}

/// A VM that all tasks of the step on a node have together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfNode {
    /// Nodes of the step.
    pub nodes: u32,
    /// Numbers of these tasks within the step.
    pub ranks: Vec<u32>,
}

impl fmt::Display for NetworkPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}.{}", self.mtu, self.node, self.first, self.rank, self.ranks)?;
        self.taps.iter().try_for_each(|tap| write!(f, ".{tap}"))?;
        let Some(OfNode { nodes, ranks }) = &self.of_node else { return Ok(()) };
        write!(f, "/{nodes}")?;
        ranks.iter().try_for_each(|rank| write!(f, ".{rank}"))
    }
}

impl FromStr for NetworkPart {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (text, of_node) = match text.split_once('/') {
            Some((text, of_node)) => (text, Some(of_node.parse()?)),
            None => (text, None),
        };
        let mut words = text.split('.');
        let mut next = || words.next().and_then(|word| word.parse::<u32>().ok()).ok_or(());
        let mtu = u16::try_from(next()?).map_err(drop)?;
        let [node, first, rank, ranks] = [next()?, next()?, next()?, next()?];
        let taps = words.map(|word| word.parse().map_err(drop)).collect::<Result<_, ()>>()?;
        Ok(Self { mtu, node, first, rank, ranks, taps, of_node })
    }
}

impl FromStr for OfNode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split('.').map(|word| word.parse::<u32>().map_err(drop));
        let nodes = words.next().ok_or(())??;
        Ok(Self { nodes, ranks: words.collect::<Result<_, ()>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_nothing_else_is_read() {
        let network = NetworkPart { mtu: 1450, node: 1, first: 4, rank: 2, ranks: 3, taps: vec![7, 8], of_node: None };
        assert_eq!(network.to_string(), "1450.1.4.2.3.7.8");
        assert_eq!(network.to_string().parse(), Ok(network.clone()));
        let of_node = Some(OfNode { nodes: 2, ranks: vec![1, 3] });
        let network = NetworkPart { taps: vec![7], of_node, ..network };
        assert_eq!(network.to_string(), "1450.1.4.2.3.7/2.1.3");
        assert_eq!(network.to_string().parse(), Ok(network));
        let bad = ["", "1450", "1450.1.4.2", "66000.1.4.2.3", "1450.1.4.2.3.x", "1450.1.4.2.3.", "-1.1.1.1.1"];
        for bad in bad.into_iter().chain(["1450.1.4.2.3.7/", "1450.1.4.2.3.7/2.", "1450.1.4.2.3.7/2.1/3"]) {
            assert_eq!(bad.parse::<NetworkPart>(), Err(()), "{bad}");
        }
    }
}
