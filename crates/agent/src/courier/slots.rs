//! Slots: pages of this process that the file server on the host reads and writes directly.
//!
//! The host knows them by their guest-physical addresses, so they must stay where they are. Locking pages keeps them in
//! memory, but the kernel may still move them. Pages that lie in a pipe are in use, and are not moved.

#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::pipe2;

use proto::files::{MAX_DATA, PAGE, Slots as Announced};

/// Number of slots; each is [`MAX_DATA`] bytes.
const COUNT: usize = 8;

/// How long a request waits for a slot. Without one its data goes over the port, a page at a time, which takes longer than the
/// requests before it should.
const PATIENCE: Duration = Duration::from_millis(200);

/// In an entry of `/proc/self/pagemap`: the page is in memory; its number.
const PRESENT: u64 = 1 << 63;
const NUMBER: u64 = (1 << 55) - 1;

/// The memory, and who has which part of it.
#[derive(Debug)]
pub(super) struct Slots {
    base: NonNull<u8>,
    announced: Announced,
    /// Hold the pages.
    pipes: Vec<(OwnedFd, OwnedFd)>,
    state: Mutex<State>,
    /// One was given back, or there are none any more.
    changed: Condvar,
}

// SAFETY: the pointer is to a mapping that lives as long as this process, and who may use which part of it is a matter of
// `state`.
unsafe impl Send for Slots {}
// SAFETY: as before.
unsafe impl Sync for Slots {}

#[derive(Debug, Default)]
struct State {
    /// How many the host can use.
    usable: usize,
    /// Which are free, the last one next: so as few pages as possible are ever touched in a clone.
    free: Vec<u32>,
    /// One has waited in vain, and none was given back since: the host may hang, and only the first waits for it.
    hangs: bool,
}

/// A slot that belongs to one thread, until it is lent to the host or dropped.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    slots: &'a Slots,
    number: u32,
    is_lent: bool,
}

impl Taken<'_> {
    /// Its bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: within the mapping. Nobody else has this slot, and the host uses only what it was lent.
        unsafe { std::slice::from_raw_parts_mut(self.slots.start(self.number), MAX_DATA) }
    }

    /// Lends it to the host, which gives it back with a reply.
    pub fn lend(mut self) -> u32 {
        self.is_lent = true;
        self.number
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.is_lent {
            self.slots.give_back(self.number);
        }
    }
}

impl Slots {
    /// Makes them.
    ///
    /// # Errors
    /// When this kernel cannot: then there are none.
    pub fn make() -> nix::Result<Self> {
        let bytes = COUNT * MAX_DATA;
        let length = NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        // SAFETY: a new anonymous mapping, which nothing else in this process knows.
        let base = unsafe {
            use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
            let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
            mmap_anonymous(None, length, protection, flags)?.cast::<u8>()
        };
        for offset in (0..bytes).step_by(PAGE) {
            // SAFETY: within the mapping. Each page must be written once, or it would still be the kernel's page of zeros.
            unsafe { base.add(offset).write_volatile(0) };
        }
        let pipes = (0..COUNT).map(|slot| pin(base, slot)).collect::<nix::Result<Vec<_>>>()?;
        let announced = Announced { size: MAX_DATA as u32, pages: addresses(base, bytes / PAGE)? };
        let state = Mutex::default();
        Ok(Self { base, announced, pipes, state, changed: Condvar::new() })
    }

    /// What the host is told.
    pub fn announced(&self) -> &Announced {
        &self.announced
    }

    /// The host can use so many, from the first on. All are free.
    pub fn set_usable(&self, count: u32) {
        let usable = (count as usize).min(COUNT);
        *self.state() = State { usable, free: (0..usable as u32).rev().collect(), hangs: false };
        self.changed.notify_all();
    }

    /// A free one.
    pub fn take(&self) -> Option<Taken<'_>> {
        self.taken(&mut self.state())
    }

    /// A free one, as soon as there is one; `None` if the host has none or gives none back.
    pub fn await_one(&self) -> Option<Taken<'_>> {
        let all_lent = |state: &mut State| state.usable > 0 && state.free.is_empty() && !state.hangs;
        let waited = self.changed.wait_timeout_while(self.state(), PATIENCE, all_lent);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.hangs |= waited.timed_out();
        self.taken(&mut state)
    }

    fn taken(&self, state: &mut State) -> Option<Taken<'_>> {
        state.free.pop().map(|number| Taken { slots: self, number, is_lent: false })
    }

    /// Frees one that the host gave back.
    pub fn give_back(&self, slot: u32) {
        let mut state = self.state();
        if (slot as usize) < state.usable && !state.free.contains(&slot) {
            state.free.push(slot);
            state.hangs = false;
            self.changed.notify_one();
        }
    }

    /// The first `bytes` bytes of a slot whose request the host has just answered; to be given back afterwards.
    pub fn filled(&self, slot: u32, bytes: usize) -> &[u8] {
        // SAFETY: within the mapping. The host writes to a slot only before its reply, and nobody else has it yet.
        unsafe { std::slice::from_raw_parts(self.start(slot), bytes.min(MAX_DATA)) }
    }

    /// The pipe in which a slot's pages lie, from the first on. Nothing may be taken out.
    pub fn pages(&self, slot: u32) -> Option<&OwnedFd> {
        self.pipes.get(slot as usize).map(|(reader, _)| reader)
    }

    fn start(&self, slot: u32) -> *mut u8 {
        let slot = (slot as usize).min(COUNT - 1);
        // SAFETY: within the mapping.
        unsafe { self.base.as_ptr().add(slot * MAX_DATA) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a slot's pages into a pipe.
fn pin(base: NonNull<u8>, slot: usize) -> nix::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(MAX_DATA as i32))?;
    // SAFETY: within the mapping.
    let start = unsafe { base.add(slot * MAX_DATA) };
    let mut part = libc::iovec { iov_base: start.as_ptr().cast(), iov_len: MAX_DATA };
    let mut left = MAX_DATA;
    while left > 0 {
        // SAFETY: the kernel takes references to pages of the mapping; it changes none.
        let taken = unsafe { libc::vmsplice(writer.as_raw_fd(), &raw const part, 1, libc::SPLICE_F_NONBLOCK) };
        let taken = Errno::result(taken)? as usize;
        left -= taken;
        // SAFETY: still within the slot.
        part.iov_base = unsafe { part.iov_base.cast::<u8>().add(taken) }.cast();
        part.iov_len = left;
    }
    Ok((reader, writer))
}

/// Guest-physical addresses of `pages` pages from `base` on.
fn addresses(base: NonNull<u8>, pages: usize) -> nix::Result<Vec<u64>> {
    let read = || {
        let mut entries = vec![0; pages * 8];
        let at = base.as_ptr() as u64 / PAGE as u64 * 8;
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, at)?;
        Ok(entries)
    };
    let entries = read().map_err(|error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let (entries, _) = entries.as_chunks::<8>();
    let address = |entry: &[u8; 8]| {
        let entry = u64::from_le_bytes(*entry);
        // Without the right to know it, the number is 0.
        let number = Some(entry & NUMBER).filter(|&number| entry & PRESENT != 0 && number != 0);
        number.map(|number| number * PAGE as u64).ok_or(Errno::EPERM)
    };
    entries.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_and_given_back_and_the_first_comes_first() {
        let Ok(slots) = Slots::make() else {
            // Pages have no numbers for an ordinary user.
            assert!(!nix::unistd::geteuid().is_root());
            return;
        };
        assert_eq!(slots.announced().count(), COUNT);
        let mut pages = slots.announced().pages.clone();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), COUNT * MAX_DATA / PAGE);
        assert!(slots.take().is_none());
        slots.set_usable(2);
        assert_eq!(slots.take().map(|slot| slot.number), Some(0), "it was dropped, and is the first again");
        let (first, mut second) = (slots.take().unwrap(), slots.take().unwrap());
        assert_eq!((first.number, second.number, slots.take().is_none()), (0, 1, true));
        second.bytes()[MAX_DATA - 1] = 5;
        assert_eq!((first.lend(), second.lend()), (0, 1));
        assert_eq!((slots.filled(0, MAX_DATA)[MAX_DATA - 1], slots.filled(1, MAX_DATA + 1)[MAX_DATA - 1]), (0, 5));
        slots.give_back(7);
        assert!(slots.take().is_none());
        slots.give_back(0);
        slots.give_back(0);
        let first = slots.take();
        assert!(first.is_some() && slots.take().is_none());
        who_finds_none_waits_for_one(&slots);
    }

    /// With two slots, one of them lent and one taken.
    fn who_finds_none_waits_for_one(slots: &Slots) {
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| slots.await_one().map(Taken::lend));
            slots.give_back(1);
            assert_eq!(waits.join().unwrap(), Some(1));
        });
        assert!(slots.await_one().is_none(), "a host that hangs holds nobody up for ever");
        let hangs = || slots.state().hangs;
        assert!(hangs(), "and the next one does not wait");
        slots.give_back(1);
        assert!(!hangs());
        assert_eq!(slots.await_one().map(Taken::lend), Some(1));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| slots.await_one().is_none());
            slots.set_usable(0);
            assert!(waits.join().unwrap(), "the session has ended");
        });
        assert!(slots.await_one().is_none());
    }
}
