//! Bulk data: pages of the guest's memory that are reached through QEMU's process.

use std::sync::{Arc, Mutex, RwLock};

use proto::files::{PAGE, Slots, UsableSlots};

use super::control::{Memory, Region};
use super::nodes::lock;
use super::sys::memory::{self, Part};
use super::sys::{Errno, Result};

/// The way to the guest's memory, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Bulk {
    known: Mutex<Known>,
    mapped: RwLock<Option<Arc<Mapped>>>,
}

/// The two halves that make slots usable, in the order in which they come.
#[derive(Debug, Default)]
struct Known {
    memory: Option<Memory>,
    slots: Option<Slots>,
    /// The runner will not say more.
    is_final: bool,
}

/// The slots as ranges of QEMU's memory.
#[derive(Debug)]
struct Mapped {
    pid: i32,
    slots: Vec<Vec<Part>>,
}

impl Bulk {
    /// The runner's word, or that there will be none; what to tell the guest.
    pub(crate) fn memory(&self, memory: Option<Memory>) -> Option<UsableSlots> {
        let mut known = lock(&self.known);
        known.is_final = true;
        known.memory = memory.or_else(|| known.memory.take());
        self.map(&known)
    }

    /// The guest's slots; what to tell it.
    pub(crate) fn slots(&self, slots: Slots) -> Option<UsableSlots> {
        let mut known = lock(&self.known);
        known.slots = Some(slots);
        self.map(&known)
    }

    /// A new session: it has announced no slots.
    pub(crate) fn clear(&self) {
        lock(&self.known).slots = None;
        self.set(None);
    }

    fn set(&self, mapped: Option<Mapped>) {
        *self.mapped.write().unwrap_or_else(std::sync::PoisonError::into_inner) = mapped.map(Arc::new);
    }

    fn get(&self) -> Option<Arc<Mapped>> {
        self.mapped.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn map(&self, known: &Known) -> Option<UsableSlots> {
        let slots = known.slots.as_ref()?;
        if !known.is_final {
            return None;
        }
        let mapped = known.memory.as_ref().map(|memory| Mapped {
            pid: i32::try_from(memory.pid).unwrap_or(-1),
            slots: map_slots(slots, &memory.regions),
        });
        // Only what was reached once is usable: a system that restricts ptrace says so now.
        let mapped = mapped
            .filter(|mapped| mapped.slots.iter().all(|slot| memory::read(mapped.pid, slot, 0, &mut [0; 1]).is_ok()));
        let usable = mapped.as_ref().map_or(0, |mapped| mapped.slots.len() as u32);
        self.set(mapped);
        Some(UsableSlots(usable))
    }

    /// A slot that a request has lent.
    ///
    /// # Errors
    /// EIO if there are none, EINVAL if there is no such one.
    pub(crate) fn lent(&self, slot: u32) -> Result<Lent> {
        let mapped = self.get().ok_or(Errno(libc::EIO))?;
        mapped.slot(slot)?;
        Ok(Lent { mapped, slot })
    }
}

/// See [`Bulk::lent`].
#[derive(Debug)]
pub(crate) struct Lent {
    mapped: Arc<Mapped>,
    slot: u32,
}

impl Lent {
    /// Reads it from the byte `at` on.
    pub(crate) fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        memory::read(self.mapped.pid, self.mapped.slot(self.slot)?, at, to)
    }

    /// Writes to it from the byte `at` on.
    pub(crate) fn write(&self, at: usize, data: &[u8]) -> Result<()> {
        memory::write(self.mapped.pid, self.mapped.slot(self.slot)?, at, data)
    }
}

impl Mapped {
    fn slot(&self, slot: u32) -> Result<&[Part]> {
        self.slots.get(slot as usize).map(Vec::as_slice).ok_or(Errno(libc::EINVAL))
    }
}

/// The slots up to the first that is not in the guest's memory.
fn map_slots(slots: &Slots, regions: &[Region]) -> Vec<Vec<Part>> {
    let pages_each = (slots.size as usize / PAGE).max(1);
    slots.pages.chunks_exact(pages_each).map_while(|pages| map_slot(pages, regions)).collect()
}

fn map_slot(pages: &[u64], regions: &[Region]) -> Option<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for page in pages {
        let inside = |region: &&Region| {
            page.checked_sub(region.guest).is_some_and(|offset| offset <= region.len.saturating_sub(PAGE as u64))
                && region.len >= PAGE as u64
        };
        let region = regions.iter().find(inside)?;
        let address = region.host.checked_add(page - region.guest)?;
        match parts.last_mut() {
            Some(last) if last.address + last.len as u64 == address => last.len += PAGE,
            _ => parts.push(Part { address, len: PAGE }),
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE as u64;

    fn region(guest: u64, pages: u64, host: u64) -> Region {
        Region { guest, len: pages * P, host }
    }

    #[test]
    fn pages_that_follow_each_other_are_one_part() {
        let regions = [region(0, 4, 0x1000_0000), region(16 * P, 2, 0x2000_0000)];
        let part = |address, pages: usize| Part { address, len: pages * PAGE };
        assert_eq!(map_slot(&[P, 2 * P, 0], &regions), Some(vec![part(0x1000_1000, 2), part(0x1000_0000, 1)]));
        assert_eq!(map_slot(&[3 * P, 16 * P], &regions), Some(vec![part(0x1000_3000, 1), part(0x2000_0000, 1)]));
    }

    #[test]
    fn an_address_outside_the_guest_s_memory_ends_the_slots() {
        let regions = [region(P, 2, 0x1000_0000), region(u64::MAX - P + 1, 1, u64::MAX - P)];
        for outside in [0, 3 * P, 4 * P, u64::MAX / P * P - P] {
            assert_eq!(map_slot(&[outside], &regions), None, "{outside:x}");
        }
        let slots = Slots { size: PAGE as u32, pages: vec![P, 2 * P, 9 * P, P] };
        assert_eq!(map_slots(&slots, &regions).len(), 2);
    }

    #[test]
    fn the_memory_of_a_process_is_read_and_written_as_a_slot() {
        let memory = vec![7_u8; 3 * PAGE];
        let start = (memory.as_ptr() as u64).next_multiple_of(P);
        let bulk = Bulk::default();
        assert_eq!(bulk.slots(Slots { size: PAGE as u32, pages: vec![P, 0] }), None);
        let known = Memory { pid: std::process::id(), regions: vec![Region { guest: 0, len: 2 * P, host: start }] };
        assert_eq!(bulk.memory(Some(known)), Some(UsableSlots(2)));
        let lent = bulk.lent(0).unwrap();
        lent.write(0, b"bulk").unwrap();
        let mut read = [0; 5];
        lent.read(0, &mut read).unwrap();
        assert_eq!(&read, b"bulk\x07");
        lent.write(PAGE - 2, b"!?").unwrap();
        lent.read(PAGE - 5, &mut read).unwrap();
        assert_eq!(&read, b"\x07\x07\x07!?");
        assert_eq!(bulk.lent(2).err(), Some(Errno(libc::EINVAL)));
        let second = bulk.lent(1).unwrap();
        assert_eq!(second.write(0, &[0; PAGE + 1]), Err(Errno(libc::EINVAL)), "more than the slot has");
        assert_eq!(second.write(PAGE, &[0; 1]), Err(Errno(libc::EINVAL)), "behind its end");
        assert_eq!(second.write(usize::MAX, &[0; 1]), Err(Errno(libc::EINVAL)));
        bulk.clear();
        assert_eq!(bulk.lent(0).err(), Some(Errno(libc::EIO)));
        assert_eq!(std::hint::black_box(&memory)[(start - memory.as_ptr() as u64 + P) as usize..][..4], *b"bulk");
    }

    #[test]
    fn without_access_no_slot_is_usable() {
        let slots = || Slots { size: PAGE as u32, pages: vec![0] };
        let bulk = Bulk::default();
        assert_eq!(bulk.memory(None), None);
        assert_eq!(bulk.slots(slots()), Some(UsableSlots(0)));
        let nobody = Memory { pid: u32::MAX, regions: vec![region(0, 1, 0x1000)] };
        assert_eq!(bulk.memory(Some(nobody)), Some(UsableSlots(0)));
        let nothing = Memory { pid: std::process::id(), regions: vec![region(0, 1, 0x1000)] };
        assert_eq!(bulk.memory(Some(nothing)), Some(UsableSlots(0)));
    }
}
