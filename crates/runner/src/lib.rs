//! The runner: the host process that becomes the Slurm task and owns the VMs of its slot.
//!
//! ```text
//! slot ─► plan (memory, processors) ─► shares ─► start: accelerator ─► template ─► for each VM: scratch ─► qemu
//!      ─► relay (poll loop: stdio, signals, channel of each vm) ─► how it ended
//! ```
//!
//! With `--vm-scope=node` the tasks of a node attach to one VM, which a process of its own keeps (`keeper`).
//!
//! One thread does all that concerns VMs. What it waits for before it has any, locks, copies and other programs, has a
//! deadline; from then on every wait is in the relay's poll, with a deadline until the command runs. If this process dies
//! in any way, its VMs die with it (`PR_SET_PDEATHSIG`), and their disks have no name, so nothing is left over.

// println! and eprintln! panic if the reader has closed the pipe.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod conclude;
pub mod config;
pub mod delivery;
mod draft;
pub mod error;
mod file_server;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod helper;
mod install;
mod job;
mod keeper;
pub mod limits;
pub mod log;
mod names;
mod network;
pub mod notice;
mod optimise_disk;
mod plan;
mod prepare;
pub mod progress;
mod relay;
mod rework;
mod save;
mod session;
mod shares;
mod signals;
mod slot;
mod start;
mod task;
pub mod template;
mod timing;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use self::conclude::Report;
use self::config::{AccelChoice, Config};
use self::delivery::{Delivered, Disk};
use self::error::{Blame, Context, Fault, RunError};
use self::prepare::{Prepared, enter_terminal, prepare};
use self::signals::Signals;
use self::start::{Attempt, Outcome, Policy, Started, source};
use image::kit::Kit;
use proto::ExitStatus;
use qemu::{Accel, scratch};
use request::{ImageName, ImageRef};

pub use self::install::{InstallOptions, Installed, image_of_disk, install_agent};
pub use self::keeper::{KEEPER_PROGRAM, Keeper, become_keeper, run_attached};
pub use self::optimise_disk::{DiskFindings, DiskOptions, look_at_disk, optimise_disk};
pub use self::save::SaveAs;
pub use self::signals::die_by;
pub use self::slot::Slot;
pub use self::start::{Prebuilt, WayHere, limits_of_users, prebuild, try_processor, useless_for_users, ways_here};
pub use self::task::Command;

/// Runs the command in the slot's VMs and says how it ended: the highest exit code of all VMs.
///
/// # Errors
/// When a VM could not be started or failed; the text is for the user. Nothing is left over.
pub fn run(slot: &Slot) -> Result<ExitStatus, RunError> {
    run_by(slot, Policy::of).map(|ended| ended.outcome)
}

/// The same with another policy for accelerators; returns how the VMs started, if they did.
fn run_by(slot: &Slot, policy: impl FnOnce(&Config, &Path) -> Policy) -> Result<Started<ExitStatus>, RunError> {
    limits::raise();
    let signals = Signals::watch().context("signals")?;
    let interrupted = |signal| Started { outcome: ExitStatus::Signal(signal), accel: Accel::Tcg, proven: false };
    let mut parts = match prepare(slot, &signals)? {
        Prepared::Parts(parts) => *parts,
        Prepared::Interrupted(signal) => return Ok(interrupted(signal)),
    };
    let terminal = enter_terminal(&mut parts.task)?;
    let report = Report::new(slot);
    let attempt = |attempt: &Attempt<'_>| start::run(slot, &parts, &signals, &report, attempt, None);
    let policy = policy(&slot.config, &parts.qemu);
    let Started { outcome, accel, proven } = policy.start(parts.timeouts, attempt, Outcome::never_came_up)?;
    drop(terminal);
    Ok(match outcome {
        Outcome::Died(signal) => interrupted(signal),
        Outcome::Ended(ends) => Started { outcome: report.conclude(&ends, proven), accel, proven },
    })
}

/// Why this process cannot use KVM, if so: one line with the remedy.
pub fn kvm_refusal() -> Option<String> {
    start::kvm_usable().err().map(|why| why.to_string())
}

/// Why no VM starts on this node where the site demands KVM, if it does. No guest is tried.
pub fn lacks_demanded_kvm(config: &Config) -> Option<String> {
    let why = (config.accel == AccelChoice::Kvm).then(|| start::kvm_usable_for_users().err())??;
    Some(why.under_a_site_that_demands_kvm().to_string())
}

/// Result of a test of KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmTest {
    /// A guest started and ended in this time.
    Runs(Duration),
    /// A guest did not start under KVM, but then started under emulation.
    Broken,
    /// The guest started in neither way, so nothing is known about KVM.
    Unknown,
    /// This process has no permission to use KVM, or there is none; the line says why and what helps.
    Unusable(String),
}

/// Tests whether KVM really runs a guest: the image's own boot, and a command that does nothing. An earlier verdict is
/// ignored, and the new one is stored.
///
/// # Errors
/// When no guest can be started at all.
pub fn try_kvm(config: &Config, image: &ImageName) -> Result<KvmTest, RunError> {
    if let Some(why) = kvm_refusal() {
        return Ok(KvmTest::Unusable(why));
    }
    let slot = Slot::plain(config.clone(), image.clone().into(), vec!["true".into()]);
    let ended = run_by(&slot, Policy::for_test)?;
    Ok(match (ended.accel, ended.proven) {
        (Accel::Kvm, true) => KvmTest::Runs(slot.begin.elapsed()),
        (Accel::Tcg, true) => KvmTest::Broken,
        (_, false) => KvmTest::Unknown,
    })
}

/// Brings an image to this node, as the first job with this image would.
///
/// # Errors
/// When it cannot be used.
pub fn fetch(config: &Config, image: &ImageRef) -> Result<Disk, RunError> {
    let image = config.catalogue().resolve(image)?;
    source::fits_processor(&image)?;
    let signals = Signals::watch().context("signals")?;
    match delivery::deliver(&image, &delivery::CopyTerms::of(config, &signals, None))? {
        Delivered::Disk(disk) => Ok(disk),
        Delivered::Interrupted(signal) => {
            die_by(signal);
            Err(RunError::new(Fault::System, format!("interrupted by {signal}")))
        }
    }
}

/// Tests whether a VM's private disk can be made in the site's directory.
///
/// # Errors
/// Why not.
pub fn try_scratch(kit: &Kit, config: &Config) -> Result<(), RunError> {
    let original = File::open(kit.scratch())?;
    match scratch::create(&original, &config.scratch_dir) {
        Err(error) if source::lacks_room(&error) => Err(error).blame(Fault::User),
        made => made.map(drop).blame(Fault::Node),
    }
}
