//! The guest's wall clock is the host's.
//!
//! Before the command it is set ([`first`]). While the command runs, the runner asks from time to time whether the guest
//! still answers (PING), and answers the guest's PONG with its own clock. So the agent knows between which of its own times
//! the host's clock was read, as NTP does. A small error is left to the kernel's own control loop, so that time never jumps; a
//! large one (the host slept, somebody set the clock) is corrected at once.

mod first;

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::error::{AgentError, Doing};
use super::sys;
pub(crate) use first::PATIENCE;
use first::{Estimate, QUICK};

/// An error of this size is corrected at once, in nanoseconds.
const STEP: i128 = 100_000_000;

/// The wait for the runner's clock.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// When PONG, ASK-CLOCK or the answer to HELLO was sent, by the guest's monotonic clock: nobody sets that one.
    asked: Option<i128>,
    /// What is known before the command runs.
    first: Estimate,
}

/// What to do about an error.
#[derive(Debug, PartialEq, Eq)]
enum Correction {
    Nothing,
    /// Let the clock run faster or slower until this many nanoseconds are made up for.
    Slew(i64),
    /// Set it to this time.
    Step(u64),
}

impl Follower {
    /// The answer to HELLO is being sent: a clone knows nothing of what its template has asked.
    pub fn greet(&mut self) {
        *self = Self { asked: now(ClockId::CLOCK_MONOTONIC), ..Self::default() };
    }

    /// PONG is being sent. An earlier question may still be open, and its answer comes first.
    pub fn ask(&mut self) {
        self.asked = self.asked.or_else(|| now(ClockId::CLOCK_MONOTONIC));
    }

    /// Whether the time before the command should be asked for once more, which is done now.
    pub fn ask_again(&mut self) -> bool {
        let again = self.first.wants_more();
        if again {
            self.asked = now(ClockId::CLOCK_MONOTONIC);
        }
        again
    }

    /// The host tells the time before the command runs: it is believed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn begin(&mut self, host: u64) -> Result<(), AgentError> {
        let Some(heard) = now(ClockId::CLOCK_MONOTONIC) else { return set(host) };
        let ahead = self.first.hear(self.asked.take(), heard, i128::from(host));
        set(u64::try_from(heard + ahead).unwrap_or(host))
    }

    /// The host's clock has arrived, in nanoseconds since the epoch.
    ///
    /// # Errors
    /// When the kernel refuses to change its clock.
    pub fn hear(&mut self, host: u64) -> Result<(), AgentError> {
        let (Some(heard), Some(by_steady)) = (now(ClockId::CLOCK_REALTIME), now(ClockId::CLOCK_MONOTONIC)) else {
            return Ok(());
        };
        let asked = self.asked.take().map(|asked| heard - (by_steady - asked));
        let done = match correction(asked, heard, host) {
            Correction::Nothing => Ok(()),
            Correction::Slew(nanoseconds) => sys::slew_clock(nanoseconds),
            Correction::Step(time) => return set(time),
        };
        done.doing(|| "adjust the clock".to_owned())
    }
}

/// Sets the wall clock to nanoseconds since the epoch.
///
/// # Errors
/// When the kernel refuses.
fn set(nanoseconds: u64) -> Result<(), AgentError> {
    let time = TimeSpec::from_duration(Duration::from_nanos(nanoseconds));
    clock_settime(ClockId::CLOCK_REALTIME, time).doing(|| "set the clock".to_owned())
}

fn now(clock: ClockId) -> Option<i128> {
    let time = clock_gettime(clock).ok()?;
    Some(i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}

/// The host read its clock between `asked` and `heard`. If nobody asked, it was read some time before `heard`.
fn correction(asked: Option<i128>, heard: i128, host: u64) -> Correction {
    let host = i128::from(host);
    let least = host - heard;
    let error = match asked {
        Some(asked) if heard - asked <= QUICK => least + (heard - asked) / 2,
        // Only what is certain.
        _ if least > 0 => least,
        Some(asked) if host < asked => host - asked,
        _ => return Correction::Nothing,
    };
    match error.abs() {
        0 => Correction::Nothing,
        size if size < STEP => Correction::Slew(error as i64),
        _ => u64::try_from(heard + error).map_or(Correction::Nothing, Correction::Step),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i128 = 1_000_000;
    const NOON: i128 = 1_700_000_000_000 * MS;

    fn told(asked: Option<i128>, heard: i128, host: i128) -> Correction {
        correction(asked, heard, host as u64)
    }

    #[test]
    fn a_quick_answer_tells_the_time_by_the_middle_of_its_way() {
        // The guest is 3 ms behind, each way takes 2 ms.
        assert_eq!(told(Some(NOON), NOON + 4 * MS, NOON + 5 * MS), Correction::Slew(3_000_000));
        assert_eq!(told(Some(NOON), NOON + 4 * MS, NOON - MS), Correction::Slew(-3_000_000));
    }

    #[test]
    fn a_slow_answer_changes_only_what_is_certain() {
        let second = 1000 * MS;
        assert_eq!(told(Some(NOON), NOON + second, NOON + 900 * MS), Correction::Nothing);
        assert_eq!(told(Some(NOON), NOON + second, NOON + second + 20 * MS), Correction::Slew(20_000_000));
        assert_eq!(told(Some(NOON), NOON + second, NOON - 20 * MS), Correction::Slew(-20_000_000));
    }

    #[test]
    fn a_clock_that_is_off_by_much_is_set() {
        let hour = 3_600_000 * MS;
        assert_eq!(told(Some(NOON), NOON + MS, NOON + hour), Correction::Step((NOON + hour + MS / 2) as u64));
        assert_eq!(told(Some(NOON), NOON + MS, NOON - hour), Correction::Step((NOON - hour + MS / 2) as u64));
    }

    #[test]
    fn a_clock_that_nobody_asked_for_sets_the_guest_s_forward_only() {
        assert_eq!(told(None, NOON, NOON + 5000 * MS), Correction::Step((NOON + 5000 * MS) as u64));
        assert_eq!(told(None, NOON, NOON - 5000 * MS), Correction::Nothing);
    }

    /// Guests' clocks that are off by up to 1.4 s in an hour, under the kernel's control loop.
    #[test]
    fn an_hour_of_drift_stays_below_50_ms() {
        // Parts per million by which the clock is wrong, and the loop's two states, in nanoseconds.
        for drift in [-400.0, -100.0, 15.0, 300.0_f64] {
            let (mut error, mut offset, mut frequency, mut worst) = (0.0_f64, 0.0_f64, 0.0_f64, 0.0_f64);
            for second in 0..3600 {
                let slewed = offset / 8.0;
                offset -= slewed;
                error += (drift + frequency) * 1000.0 + slewed;
                if second % 20 == 19 {
                    let heard = NOON + error as i128;
                    let correction = correction(Some(heard - 4 * MS), heard, (NOON - 2 * MS) as u64);
                    offset = match correction {
                        Correction::Slew(nanoseconds) => nanoseconds as f64,
                        Correction::Nothing => 0.0,
                        Correction::Step(_) => panic!("{error} after {second} s"),
                    };
                    frequency = (frequency + offset * 16.0 / 1024.0 / 1000.0).clamp(-500.0, 500.0);
                }
                worst = worst.max(error.abs());
            }
            assert!(worst < 50e6, "{drift} ppm: {worst} ns");
            assert!(error.abs() < 1e6, "{drift} ppm: {error} ns at last");
        }
    }
}
