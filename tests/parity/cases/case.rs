//! A row of the tables.

/// One thing that must not surprise a user.
pub struct Case {
    pub area: &'static str,
    pub name: &'static str,
    pub script: &'static str,
    /// Why a VM step shows something else here, if it does.
    pub differs: Option<&'static str>,
    /// Submitted by root, because Slurm lets nobody else do it.
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
