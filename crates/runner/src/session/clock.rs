//! Time in which this process was awake: deadlines count only this time.
//!
//! A job that is suspended (`scontrol suspend`, SIGSTOP, a frozen control group) does nothing, and neither does its
//! guest. If it continues hours later, its guest was not slow. No clock of the system leaves such time out, so a
//! suspension is recognised by a sleep that ends much later than it should. A wait for a deadline sleeps in short
//! pieces, so that a suspension costs the guest at most one piece of its time.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// Longest sleep in a wait for a deadline, and so the most time that one suspension counts as.
const TICK: Duration = Duration::from_secs(1);

/// A process that waits for a processor, or works between two sleeps, may be late by this much.
const LATE: Duration = Duration::from_secs(1);

/// A deadline, or a time to look at something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// Time awake since the clock began.
    at: Duration,
    /// Something fails after it, so the wait for it is in short pieces.
    is_exact: bool,
}

impl Deadline {
    /// The same with more time.
    pub fn extend(&mut self, by: Duration) {
        self.at += by;
    }
}

/// Counts the time in which this process was awake.
#[derive(Debug)]
pub struct AwakeClock {
    awake: Duration,
    looked: Instant,
    /// How long the current or last sleep should take at most.
    asked: Duration,
}

impl AwakeClock {
    /// A clock that begins now.
    pub fn new() -> Self {
        Self::begin(Instant::now())
    }

    fn begin(now: Instant) -> Self {
        Self { awake: Duration::ZERO, looked: now, asked: TICK }
    }

    /// A moment this long after the last look, after which something fails.
    pub fn deadline(&self, within: Duration) -> Deadline {
        Deadline { at: self.awake + within, is_exact: true }
    }

    /// A moment this long after the last look that only ends a sleep. It costs one wakeup at any distance, and a
    /// suspension may use up all of it.
    pub fn reminder(&self, after: Duration) -> Deadline {
        Deadline { at: self.awake + after, is_exact: false }
    }

    /// Whether the moment had come at the last look.
    pub fn has_passed(&self, deadline: Deadline) -> bool {
        self.awake >= deadline.at
    }

    /// How long to sleep until the first of these moments; for ever if there is none. [`AwakeClock::wake`] must
    /// follow.
    pub fn sleep_until(&mut self, deadlines: impl Iterator<Item = Deadline>) -> PollTimeout {
        let left = |deadline: Deadline| {
            let left = deadline.at.saturating_sub(self.awake);
            if deadline.is_exact { left.min(TICK) } else { left }
        };
        match deadlines.map(left).min() {
            Some(left) => {
                self.asked = left;
                // Rounded up: a wakeup before the moment would make the loop spin.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            None => {
                self.asked = Duration::MAX;
                PollTimeout::NONE
            }
        }
    }

    /// The sleep is over: looks at the time.
    pub fn wake(&mut self) {
        self.wake_at(Instant::now());
    }

    /// Lets time pass.
    #[cfg(test)]
    pub fn pass(&mut self, awake: Duration) {
        self.awake += awake;
    }

    fn wake_at(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.looked);
        self.looked = now;
        let is_late = passed > self.asked.saturating_add(LATE);
        self.awake += if is_late { self.asked } else { passed };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Duration = Duration::from_secs(60);

    /// Sleeps until the deadline in pieces; each takes as long as it should.
    fn sleep_through(clock: &mut AwakeClock, now: &mut Instant, deadline: Deadline) -> u32 {
        let mut pieces = 0;
        while !clock.has_passed(deadline) {
            let timeout = clock.sleep_until([deadline].into_iter());
            *now += Duration::from_millis(timeout.as_millis().unwrap().into());
            clock.wake_at(*now);
            pieces += 1;
        }
        pieces
    }

    #[test]
    fn a_deadline_passes_when_its_time_has() {
        let begin = Instant::now();
        let (mut clock, mut now) = (AwakeClock::begin(begin), begin);
        let deadline = clock.deadline(BOOT);
        sleep_through(&mut clock, &mut now, deadline);
        let took = now - begin;
        assert!(took >= BOOT && took < BOOT + Duration::from_secs(1), "{took:?}");
    }

    #[test]
    fn hours_of_suspension_cost_a_guest_one_second_of_its_time() {
        let begin = Instant::now();
        let (mut clock, mut now) = (AwakeClock::begin(begin), begin);
        let deadline = clock.deadline(BOOT);
        for _ in 0..3 {
            clock.sleep_until([deadline].into_iter());
            now += Duration::from_secs(3600);
            clock.wake_at(now);
        }
        assert!(!clock.has_passed(deadline));
        let resumed = now;
        sleep_through(&mut clock, &mut now, deadline);
        assert!(now - resumed > BOOT - Duration::from_secs(4), "{:?}", now - resumed);
    }

    #[test]
    fn a_reminder_is_one_sleep_and_an_event_in_between_costs_nothing() {
        let begin = Instant::now();
        let (mut clock, mut now) = (AwakeClock::begin(begin), begin);
        let reminder = clock.reminder(Duration::from_secs(20));
        assert_eq!(sleep_through(&mut clock, &mut now, reminder), 1);
        let reminder = clock.reminder(Duration::from_secs(20));
        clock.sleep_until([reminder].into_iter());
        now += Duration::from_secs(7);
        clock.wake_at(now);
        assert_eq!(clock.sleep_until([reminder].into_iter()).as_millis(), Some(13_001));
    }

    #[test]
    fn nothing_to_wait_for_is_a_sleep_of_any_length() {
        let begin = Instant::now();
        let mut clock = AwakeClock::begin(begin);
        assert_eq!(clock.sleep_until(std::iter::empty()), PollTimeout::NONE);
        clock.wake_at(begin + BOOT);
        assert_eq!(clock.awake, BOOT);
    }
}
