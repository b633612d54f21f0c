//! The tables. Each script is run by bash after `prelude.sh`, with `$VM` set to the options of the step.

mod batch;
mod environment;
mod exit;
mod files;
mod identity;
mod placement;
mod signals;
mod slots;
mod stdio;
mod terminal;

/// One thing that must not surprise.
pub struct Case {
    pub area: &'static str,
    pub name: &'static str,
    pub script: &'static str,
    /// Why a VM step shows something else here, where it does.
    pub differs: Option<&'static str>,
    /// Submitted by root: what Slurm lets nobody else do.
    pub by_root: bool,
}

const fn same(area: &'static str, name: &'static str, script: &'static str) -> Case {
    Case { area, name, script, differs: None, by_root: false }
}

const fn differs(area: &'static str, name: &'static str, script: &'static str, reason: &'static str) -> Case {
    Case { area, name, script, differs: Some(reason), by_root: false }
}

const fn by_root(area: &'static str, name: &'static str, script: &'static str) -> Case {
    Case { area, name, script, differs: None, by_root: true }
}

/// Those that take seconds.
pub fn short() -> Vec<&'static Case> {
    let tables = [
        stdio::CASES,
        terminal::CASES,
        exit::CASES,
        signals::CASES,
        environment::CASES,
        identity::CASES,
        files::CASES,
        placement::CASES,
        slots::CASES,
        batch::CASES,
    ];
    tables.into_iter().flatten().collect()
}

/// Those that move much data or wait for Slurm's clocks.
pub fn long() -> Vec<&'static Case> {
    // Those that mostly wait come first, beside those that work.
    [batch::LONG, stdio::LONG, signals::LONG, exit::LONG, files::LONG].into_iter().flatten().collect()
}
