//! Whether this node can have such networks: everything is made once, in a network namespace that nothing else is in.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::thread;

use crate::error::{Doing, NetworkError};
use crate::firewall;
use crate::links;
use crate::make::{Part, check_ports, first_port_of_users, make};
use crate::netlink::Netlink;
use crate::plan::Range4;

/// What was found out.
#[derive(Debug)]
pub struct Trial {
    /// A network of VMs on this node.
    pub on_a_node: Result<(), NetworkError>,
    /// This node's end of one across nodes; `None` if it was not tried, because not even the other is possible.
    pub across_nodes: Option<Result<(), NetworkError>>,
}

/// Makes networks with addresses of `range` and tunnels on `port`, as root, and lets them go again. Nothing of the
/// node's own network is touched: a thread leaves it first, and ends.
pub fn run(range: Range4, port: u16) -> Trial {
    // Each network has a value of its own; this is the node's.
    let first_of_users = first_port_of_users();
    let tried = thread::spawn(move || {
        let part = Part { job: 0, step: 0, vms: vec![1], node: 0, addresses: Vec::new(), port, range };
        match make(&part) {
            // From here on this thread is where nothing else is, and only therefore may it go on.
            Ok(_made) => {
                let across = check_ports(first_of_users).and_then(|()| tunnel(port));
                Trial { on_a_node: Ok(()), across_nodes: Some(across) }
            }
            Err(error) => Trial { on_a_node: Err(error), across_nodes: None },
        }
    });
    let failed = |_| Trial { on_a_node: Err(NetworkError::new("the trial has failed")), across_nodes: None };
    tried.join().unwrap_or_else(failed)
}

/// A tunnel to nowhere, and what keeps others out of it.
fn tunnel(port: u16) -> Result<(), NetworkError> {
    const NUMBER: u32 = 1;
    let _guard = firewall::guard("spank-vm-trial", port, NUMBER, &[Ipv4Addr::LOCALHOST])
        .doing(|| "nftables with tables of an owner (Linux 5.12)".to_owned())?;
    // That of the thread: the process's own is the node's.
    let here = File::open("/proc/thread-self/ns/net").doing(|| "this network namespace".to_owned())?;
    let new = links::new_tunnel("trial", here.as_raw_fd(), NUMBER, Ipv4Addr::LOCALHOST, port);
    let mut links = Netlink::route().doing(|| "a netlink socket".to_owned())?;
    links.ask(new).making("a tunnel cannot be made", "vxlan")
}
