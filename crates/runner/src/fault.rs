//! Whose fault it is that a VM does not run: the user's, who must change the request, or this node's, where
//! the same request may do on another.

use std::fmt;

/// Marks an error as this node's fault, and says so: `this node (n3) cannot run VMs: …`.
#[derive(Debug)]
pub struct NodeFault;

impl fmt::Display for NodeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this node ({}) cannot run VMs", node())
    }
}

/// Lays the blame for an error on this node.
pub trait BlameNode<T> {
    /// Marks the error with [`NodeFault`].
    ///
    /// # Errors
    /// The same, marked.
    fn blame_node(self) -> anyhow::Result<T>;
}

impl<T, E> BlameNode<T> for Result<T, E>
where
    Result<T, E>: anyhow::Context<T, E>,
{
    fn blame_node(self) -> anyhow::Result<T> {
        anyhow::Context::context(self, NodeFault)
    }
}

/// Whether the error was marked.
pub fn is_node_fault(error: &anyhow::Error) -> bool {
    error.downcast_ref::<NodeFault>().is_some()
}

/// This node's name as Slurm knows it.
pub fn node() -> String {
    node::layout::this_node()
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn blame_is_found_below_other_context_and_says_where() {
        let error = Err::<(), _>(anyhow!("no QEMU")).blame_node().context("a slot").unwrap_err();
        assert!(is_node_fault(&error));
        assert_eq!(format!("{error:#}"), format!("a slot: this node ({}) cannot run VMs: no QEMU", node()));
        assert!(!is_node_fault(&anyhow!("no image 'x'")));
    }
}
