//! The guest's side: `/init` of the boot kit's initramfs, PID 1 for the life of the VM; or, with `--service`, a
//! service of an image that boots its own kernel and init.
//!
//! ```text
//! boot      mounts, modules, root = image + overlay, switch root        boot, modules, rootfs
//! service   what there is to do where all that is done already          service
//! port      find the runner's virtio-serial port, wait for HELLO        devices, port
//! session   collect the task, start it, relay, report how it ended      session, task, exec, pump
//! machine   what a session does to the guest as a whole                 machine, identity, shares, memory, traces, walk
//!             as PID 1: guest; as a service: system, processes
//! ```
//!
//! Started as any other process, the same binary is a few small programs: see [`applet`].
//!
//! Invariants:
//! - One thread, one poll loop. Nothing sleeps in a session; every wait for the guest's own devices has a deadline.
//! - It depends on `proto` and `archive` alone and trusts its peer: the runner is the host's side.
//! - `unsafe` is in `sys` and `detached` (system calls nix lacks), `exec` (the child before it executes the command), and
//!   `courier`.
//! - A boot that fails still answers the runner's HELLO with a sentence, if there is a port at all.
//! - A session never signals more than its task unless it runs as PID 1 of a guest.
//! - As a service it runs on kernels since 3.2 (what its C library needs), and does without newer system calls.

// println! and eprintln! panic when the reader has left.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod accounts;
mod applet;
mod boot;
mod children;
mod clock;
mod cmdline;
mod courier;
mod derived;
mod detached;
mod devices;
mod error;
mod exec;
mod files;
mod fixtures;
mod guest;
mod hostkeys;
mod identity;
mod kmsg;
mod machine;
mod memory;
mod modules;
mod net;
mod oom;
mod port;
mod processes;
mod pump;
mod rootfs;
mod service;
mod session;
mod shares;
mod socket;
mod sys;
mod system;
mod task;
mod traces;
mod walk;
mod zone;

use std::convert::Infallible;
use std::process::ExitCode;

use proto::{BootTimes, PORT_NAME};

use devices::Devices;
use error::AgentError;
use guest::Guest;
use port::Port;
use session::serve;

/// The argument that makes it a service.
const SERVICE: &str = "--service";

/// Serves the runner until the VM is killed: as PID 1 after booting the guest, else as a service.
///
/// As PID 1 it returns only when there is no channel to the runner. The kernel then panics because it
/// has no init, and a VM started with `panic=-1` ends at once instead of at the runner's deadline.
fn main() -> ExitCode {
    let as_service = std::env::args_os().nth(1).is_some_and(|argument| argument == SERVICE);
    let outcome = match (std::process::id(), as_service) {
        (1, _) => run().map(|never| match never {}),
        (_, true) => service::run(),
        (_, false) => return applet::main(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            kmsg::emergency(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Infallible, AgentError> {
    let mut times = BootTimes { agent_ms: sys::uptime_ms(), ..BootTimes::default() };
    boot::mount_kernel_file_systems()?;
    let devices = Devices::watch()?;
    let outcome = boot::bring_up(&devices, &mut times);
    if let Err(error) = &outcome {
        kmsg::emergency(&error.to_string());
    }
    let mut port = Port::new(devices.open_port(PORT_NAME)?);
    let shares = shares::Shares::find(&devices);
    times.ready_ms = sys::uptime_ms();
    let mut guest = Guest::new(times, outcome.err(), shares)?;
    serve(&mut port, &mut guest)
}
