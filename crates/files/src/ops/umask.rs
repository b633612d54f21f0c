//! Each thread has an umask of its own, that of the guest's process whose request it does.
//!
//! So the host's kernel applies it, or a directory's default ACL instead, as it does for a process of its own.

use std::cell::Cell;

use super::super::sys::{self, Result};

thread_local! {
    /// This thread's umask, once it is its own.
    static CURRENT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Sets this thread's umask.
pub(crate) fn set(mask: u32) -> Result<()> {
    let mask = mask & 0o777;
    let current = CURRENT.get();
    if current.is_none() {
        sys::own_umask()?;
    }
    if current != Some(mask) {
        sys::umask(mask);
        CURRENT.set(Some(mask));
    }
    Ok(())
}
