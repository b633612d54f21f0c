//! A row of the tables.

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

pub const fn same(area: &'static str, name: &'static str, script: &'static str) -> Case {
    Case { area, name, script, differs: None, by_root: false }
}

pub const fn differs(area: &'static str, name: &'static str, script: &'static str, reason: &'static str) -> Case {
    Case { area, name, script, differs: Some(reason), by_root: false }
}

pub const fn by_root(area: &'static str, name: &'static str, script: &'static str) -> Case {
    Case { area, name, script, differs: None, by_root: true }
}
