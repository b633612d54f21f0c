//! The tables. Each script is run by bash after `prelude.sh`, with `$VM` set to the options of the step.

mod allocations;
mod batch;
mod case;
mod devices;
mod environment;
mod exit;
mod files;
mod identity;
mod inherited;
mod placement;
mod shared;
mod signals;
mod slots;
mod stdio;
mod terminal;

pub use case::Case;
use case::{by_root, differs, same};

/// Those that take seconds.
pub fn short() -> Vec<&'static Case> {
    let tables = [
        stdio::CASES,
        terminal::CASES,
        exit::CASES,
        signals::CASES,
        environment::CASES,
        identity::CASES,
        inherited::CASES,
        files::CASES,
        placement::CASES,
        slots::CASES,
        shared::CASES,
        batch::CASES,
        allocations::CASES,
        devices::CASES,
    ];
    tables.into_iter().flatten().collect()
}

/// Those that move much data or wait for Slurm's clocks.
pub fn long() -> Vec<&'static Case> {
    // Cases that mostly wait come first, so that they run beside cases that compute.
    [batch::LONG, stdio::LONG, signals::LONG, exit::LONG, files::LONG].into_iter().flatten().collect()
}
