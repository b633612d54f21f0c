//! How fast the processor's time stamp counter counts.
//!
//! QEMU gives emulated guests the host's own counter. A guest's kernel that measures its rate counts how far it gets while
//! an emulated timer runs. If the host takes the processor from QEMU in the middle of that, the rate is wrong, and the clock of
//! that guest, and of all clones of it, runs several times too fast or too slow. Here two readings of the counter are taken
//! with the host's clock, which no interruption between them can spoil.

#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use qemu::Accel;

/// Between the two readings. An error of 100 ns in one of them is 5 millionths of it.
const APART: Duration = Duration::from_millis(20);

/// Tries to read counter and clock at the same moment: the one that took least counts.
const TRIES: usize = 10;

/// Rates that are possible, in kHz: one outside is not told to a guest.
const POSSIBLE_KHZ: std::ops::Range<u64> = 100_000..20_000_000;

/// The rate in kHz that a guest's kernel should be told, if it has to be told one: under KVM it asks KVM. Measured once
/// in a process, which takes 20 ms.
pub(crate) fn khz(accel: Accel) -> Option<u32> {
    static MEASURED: OnceLock<Option<u32>> = OnceLock::new();
    match accel {
        Accel::Kvm => None,
        Accel::Tcg => *MEASURED.get_or_init(measure),
    }
}

fn measure() -> Option<u32> {
    let first = reading()?;
    thread::sleep(APART);
    rate(first, reading()?)
}

/// The counter at a moment, and that moment in ns of the host's clock that nobody sets.
type Reading = (u64, u64);

/// kHz from two readings.
fn rate((count_before, ns_before): Reading, (count, ns): Reading) -> Option<u32> {
    let (counts, ns) = (count.checked_sub(count_before)?, ns.checked_sub(ns_before)?);
    let khz = (u128::from(counts) * 1_000_000).checked_div(u128::from(ns))?;
    u32::try_from(khz).ok().filter(|&khz| POSSIBLE_KHZ.contains(&u64::from(khz)))
}

fn reading() -> Option<Reading> {
    let mut best: Option<(u64, Reading)> = None;
    for _ in 0..TRIES {
        let before = now()?;
        let count = counter()?;
        let took = now()?.saturating_sub(before);
        if best.is_none_or(|(least, _)| took < least) {
            best = Some((took, (count, before + took / 2)));
        }
    }
    best.map(|(_, reading)| reading)
}

fn now() -> Option<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).ok()?;
    Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

#[cfg(target_arch = "x86_64")]
fn counter() -> Option<u64> {
    // SAFETY: every processor of this architecture has the instruction; it touches no memory. A process that forbids it
    // to itself (PR_SET_TSC) is not this one.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_counts_through_time_and_an_impossible_one_is_none() {
        assert_eq!(rate((5, 1_000), (5 + 52_000_000, 20_001_000)), Some(2_600_000));
        assert_eq!(rate((5, 1_000), (5 + 52_000, 20_001_000)), None);
        assert_eq!(rate((5, 1_000), (5, 1_000)), None);
        assert_eq!(rate((5, 1_000), (4, 2_000)), None);
        assert_eq!(rate((0, 0), (u64::MAX, 1)), None);
    }

    #[test]
    fn the_same_rate_is_measured_again_whatever_else_the_machine_does() {
        let first = f64::from(measure().unwrap());
        let busy: Vec<_> = (0..8).map(|_| thread::spawn(|| (0..10_000_000_u64).fold(0, |a, b| a ^ b))).collect();
        for _ in 0..5 {
            let again = f64::from(measure().unwrap());
            assert!((again / first - 1.0).abs() < 1e-3, "{first} and {again} kHz");
        }
        busy.into_iter().for_each(|thread| drop(thread.join()));
    }

    #[test]
    fn a_guest_with_kvm_is_told_nothing() {
        assert_eq!(khz(Accel::Kvm), None);
        assert!(khz(Accel::Tcg).is_some());
    }
}
