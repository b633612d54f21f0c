//! Where slurmstepd's PMIx server is, by the variables that it gives each task, and where the task's command finds it in a VM.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::ffi::OsStrExt;

use super::pmix::Name;

/// The variable that names the server to clients since 4.1, whose wire the runner knows.
const ADDRESS: &str = "PMIX_SERVER_URI41";

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
        let address = variable(ADDRESS).and_then(OsStr::to_str).and_then(address_in);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, rank: &str, local: &str) -> Option<Result<PmixServer, ()>> {
        let variables =
            [("PMIX_NAMESPACE", "slurm.pmix.7.0"), ("PMIX_RANK", rank), (ADDRESS, address), ("SLURM_LOCALID", local)];
        PmixServer::of(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsStr::new(value)))
    }

    #[test]
    fn each_task_of_a_node_finds_the_server_at_an_address_of_its_own_in_the_guest() {
        for (local, there) in [("0", "127.80.0.1:4001"), ("255", "127.80.1.0:4001"), ("", "127.80.0.1:4001")] {
            let found = server("slurm.pmix.7.0.0;tcp4://127.0.0.1:4001", "3", local).unwrap().unwrap();
            assert_eq!(found.in_guest.to_string(), there);
            assert_eq!((found.address.to_string().as_str(), found.name.rank), ("127.0.0.1:4001", 3));
            let told = PmixServer::in_guest(OsStr::new("a.0;tcp4://127.0.0.1:4001"), found.in_guest).unwrap();
            assert_eq!(told, format!("a.0;tcp4://{there}"));
        }
    }

    #[test]
    fn a_server_anywhere_else_is_none_that_the_runner_connects_to() {
        let good = "a.0;tcp4://127.0.0.1:4001";
        for address in
            ["", "a.0;tcp4://10.0.0.1:4001", "a.0;tcp6://[::1]:4001", "a.0;tcp4://127.0.0.1:0", "/run/socket"]
        {
            assert_eq!(server(address, "0", "0"), Some(Err(())), "{address}");
        }
        assert_eq!(server(good, "-1", "0"), Some(Err(())));
        assert_eq!(server(good, "0", "65535"), Some(Err(())));
        assert_eq!(PmixServer::of(|name| (name == ADDRESS).then(|| OsStr::new(good))), None, "no task of PMIx");
    }
}
