//! The number of the session, in memory that agent and courier share: the agent need not wait for the courier to begin one.

#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

/// 0 while there is no session.
#[derive(Debug, Clone)]
pub(super) struct Number(NonNull<AtomicU64>);

// SAFETY: the pointer is to a mapping that lives as long as this process, and what it holds is atomic.
unsafe impl Send for Number {}
// SAFETY: as before.
unsafe impl Sync for Number {}

impl Number {
    /// A new one, which children of this process share.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn shared() -> nix::Result<Self> {
        let length = NonZeroUsize::MIN.saturating_add(size_of::<AtomicU64>() - 1);
        let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping of zeros, which nothing else knows. It is a whole page, so it is large enough and aligned.
        unsafe { mmap_anonymous(None, length, protection, flags).map(|page| Self(page.cast())) }
    }

    pub fn get(&self) -> u64 {
        self.cell().load(Ordering::Acquire)
    }

    pub fn set(&self, session: u64) {
        self.cell().store(session, Ordering::Release);
    }

    fn cell(&self) -> &AtomicU64 {
        // SAFETY: the mapping is never removed, and zero bytes are an atomic number.
        unsafe { self.0.as_ref() }
    }
}
