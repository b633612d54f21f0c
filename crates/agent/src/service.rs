//! The agent as a service of a system with an init, a kernel and modules of its own.
//!
//! It finds its port, and serves the runner as it does in a kit boot. It ends in two ways: with success when this is no
//! VM of spank-vm, and with failure when the port breaks. On failure the unit powers the machine off, because the
//! runner notices the end of a VM but not the end of a process in it.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::prctl::set_child_subreaper;

use proto::{BootTimes, PORT_NAME};

use super::devices::Devices;
use super::error::AgentError;
use super::port::Port;
use super::session::serve;
use super::shares::Shares;
use super::system::System;
use super::{kmsg, sys};

/// Drivers that a session needs; most systems load them without help, but some too late.
const DRIVERS: [&str; 3] = ["virtio_console", "virtio_mem", "fuse"];

/// Serves the runner until the VM is killed; returns at once on a machine that has no channel.
pub(super) fn run() -> Result<(), AgentError> {
    let mut times = BootTimes { agent_ms: sys::uptime_ms(), ..BootTimes::default() };
    let devices = Devices::watch()?;
    load_drivers();
    times.modules_ms = sys::uptime_ms();
    let Some(port) = devices.find_port(PORT_NAME)? else {
        kmsg::note("this machine was not started by spank-vm; nothing to do");
        return Ok(());
    };
    prepare_machine();
    let subreaper = set_child_subreaper(true).is_ok();
    if !subreaper {
        kmsg::note("this kernel does not tell of orphans: processes that leave the command's session outlive it");
    }
    let shares = Shares::find(&devices);
    times.ready_ms = sys::uptime_ms();
    let mut system = System::new(times, subreaper, shares)?;
    let mut port = Port::new(port);
    match serve(&mut port, &mut system)? {}
}

fn load_drivers() {
    let mut modprobe = Command::new("/sbin/modprobe");
    modprobe.args(["-a", "-q"]).args(DRIVERS).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // No error: the driver may be built in. If the kernel lacks it, what needs it will fail later.
    if let Err(error) = modprobe.status() {
        kmsg::note(&format!("modprobe: {error}"));
    }
}

/// Settings that make the system fit for a VM of one job.
fn prepare_machine() {
    let set = |path: &str, value: &str| fs::write(path, value).map_err(|error| kmsg::note(&format!("{path}: {error}")));
    // A kernel panic ends the VM and the runner reports it; otherwise the VM would wait for a person to look.
    let _ = set("/proc/sys/kernel/panic", "-1");
    // Plugged memory is used at once; older kernels know only the second word.
    let online = "/sys/devices/system/memory/auto_online_blocks";
    if fs::metadata(online).is_ok() && fs::write(online, "online_kernel").is_err() {
        let _ = set(online, "online");
    }
}
