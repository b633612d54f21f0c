//! A network of a step's own: all its VMs on one Ethernet, across nodes, isolated from everything else.
//!
//! [`plan`] is what every node computes alike from the step: addresses, names, the network's number. [`make`] makes a
//! node's part of it, as root, in a process of its own:
//!
//! ```text
//! the node's network          │ a network namespace without a name or an address
//!                             │
//!  UDP ◄── a table for the  ──┼─► vxlan ─┬─ bridge ─┬─ tap ─► QEMU of VM 0
//!          firewall: peers    │          │          └─ tap ─► QEMU of VM 1
//! ```
//!
//! **Nothing has a name outside of it, so nothing is left over.** The namespace lives as long as a tap of it is open,
//! and with it die the bridge, the taps and the tunnel. The table lives as long as the netlink socket that made it.
//! Slurmstepd and the QEMUs hold these descriptors: however they end, the kernel takes everything back.
//!
//! **Why nobody gets in or out.** The namespace has no address, no route and no device of the node's, so a guest has
//! nobody to talk to but its bridge. The bridge learns no addresses: it knows where each one is from the plan, so a
//! guest that forges some fills no table and catches no frames. VXLAN has no sender's proof, and any user of any node
//! can send UDP. So the tunnel sends from ports below 1024, which only root can (a node on which others can, too, has
//! no tunnels), and the table refuses everything for the network's number that comes from other ports, or not from a
//! node of the step.

// println! and eprintln! panic if the reader has closed the pipe.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod error;
mod firewall;
mod links;
pub mod make;
mod message;
mod netlink;
pub mod plan;
mod sys;
pub mod trial;

pub use error::NetworkError;
pub use sys::ends_with_this_thread;
