//! The guest's network interfaces. So far there is only the loopback.

use std::os::fd::AsFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::error::{AgentError, Doing};
use super::sys;

/// Brings `lo` up: the programs of a step expect to reach each other by 127.0.0.1.
pub(super) fn loopback_up() -> Result<(), AgentError> {
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .doing(|| "open a socket to configure the network".to_owned())?;
    let mut argument = sys::interface_named("lo");
    argument.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    sys::set_interface_flags(control.as_fd(), &argument).doing(|| "bring lo up".to_owned())
}
