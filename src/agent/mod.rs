//! The guest's side: `/init` of the boot kit's initramfs, PID 1 for the life of the VM.
//!
//! ```text
//! boot      mounts, modules, root = image + overlay, switch root        boot, modules, rootfs
//! port      find the runner's virtio-serial port, wait for HELLO        devices, port
//! session   collect the task, start it, relay, report how it ended      session, task, exec, pump
//! machine   what a session does to the guest as a whole                 machine, guest, memory, shares, accounts, traces
//! ```
//!
//! Started as any other process, the same binary is a few small programs: see [`applet`].
//!
//! Invariants:
//! - One thread, one poll loop. Nothing sleeps; every wait for the guest's own devices has a deadline.
//! - It depends on [`crate::proto`] and [`crate::archive`] alone and trusts its peer: the runner is the host's side.
//! - `unsafe` is in `sys` (system calls nix lacks) and `exec` (the child before it executes the command), nowhere else.
//! - A boot that fails still answers the runner's HELLO with a sentence, if there is a port at all.
//! - A session never signals more than its task unless it runs as PID 1 of a guest.

mod accounts;
mod applet;
mod boot;
mod cmdline;
mod devices;
mod error;
mod exec;
mod files;
mod guest;
mod hostkeys;
mod kmsg;
mod machine;
mod memory;
mod modules;
mod net;
mod oom;
mod port;
mod pump;
mod rootfs;
mod session;
mod shares;
mod sys;
mod task;
mod traces;

use std::process::ExitCode;

use crate::proto::{BootTimes, PORT_NAME};

use devices::Devices;
use error::AgentError;
use guest::Guest;
use port::Port;
use session::Session;

/// Boots the guest and serves the runner until the VM is killed.
///
/// It returns only when there is nobody to talk to. The kernel then panics for want of an init,
/// and a VM started with `panic=-1` ends at once instead of at the runner's deadline.
pub fn main() -> ExitCode {
    if std::process::id() != 1 {
        return applet::main();
    }
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            kmsg::emergency(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<std::convert::Infallible, AgentError> {
    let mut times = BootTimes { agent_ms: sys::uptime_ms(), ..BootTimes::default() };
    boot::mount_kernel_file_systems()?;
    let devices = Devices::watch()?;
    let outcome = boot::bring_up(&devices, &mut times);
    if let Err(error) = &outcome {
        kmsg::emergency(&error.to_string());
    }
    let mut port = Port::new(devices.open_port(PORT_NAME)?);
    times.ready_ms = sys::uptime_ms();
    let mut guest = Guest::new(times, outcome.err())?;
    loop {
        Session::new(&mut port, &mut guest).serve()?;
        port.wait_for_host()?;
    }
}
