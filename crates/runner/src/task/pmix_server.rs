//! Where slurmstepd's PMIx server is, by the variables that it gives each task, and where the task's command finds it in a VM.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::ffi::OsStrExt;

use super::pmix::Name;

/// Variables that name the server, for clients of different releases; the newest first.
const ADDRESSES: [&str; 5] =
    ["PMIX_SERVER_URI41", "PMIX_SERVER_URI4", "PMIX_SERVER_URI3", "PMIX_SERVER_URI21", "PMIX_SERVER_URI2"];

/// How an address begins, after the server's own name.
const KIND: &str = "tcp4://";

/// Connections that the processes of a command may have at a time. A rank has one.
pub(super) const CONNECTIONS: u8 = 4;

/// A task's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PmixServer {
    /// On the node: a port of 127.0.0.1.
    pub address: SocketAddrV4,
    /// In the VM. Each task of a node has an address of its own there, of those that never leave a machine, so
    /// that connections of tasks that share a VM are told apart.
    pub in_guest: SocketAddrV4,
    /// Who the task is.
    pub name: Name,
}

impl PmixServer {
    /// The server of the task with these variables: `None` if it has none.
    ///
    /// # Errors
    /// It is not where a runner could connect to.
    pub fn of<'a>(variable: impl Fn(&str) -> Option<&'a OsStr>) -> Option<Result<Self, ()>> {
        let namespace = variable("PMIX_NAMESPACE")?.as_bytes().to_vec();
        let number = |name| variable(name)?.to_str()?.parse::<u32>().ok();
        let address = ADDRESSES.iter().find_map(|name| variable(name)).and_then(OsStr::to_str).and_then(address_in);
        let parts = || {
            let address = address.filter(|address| address.ip().is_loopback() && address.port() > 0)?;
            let local = u16::try_from(number("SLURM_LOCALID").unwrap_or(0)).ok()?.checked_add(1)?;
            let [high, low] = local.to_be_bytes();
            let in_guest = SocketAddrV4::new(Ipv4Addr::new(127, 80, high, low), address.port());
            Some(Self { address, in_guest, name: Name { namespace, rank: number("PMIX_RANK")? } })
        };
        Some(parts().ok_or(()))
    }

    /// What a variable with the server's address says in the VM.
    pub fn in_guest(value: &OsStr, there: SocketAddrV4) -> Option<String> {
        let (server, _) = value.to_str()?.split_once(KIND)?;
        Some(format!("{server}{KIND}{there}"))
    }
}

fn address_in(value: &str) -> Option<SocketAddrV4> {
    value.split_once(KIND)?.1.parse().ok()
}
