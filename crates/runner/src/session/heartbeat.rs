//! Whether a guest still answers while its command runs.
//!
//! A guest whose kernel or agent hangs sends nothing, but neither does one whose command is silent. So the agent is
//! asked at intervals. Unanswered questions are counted, not time: a runner that was suspended with its job, or
//! that waits for a processor itself, has asked nothing meanwhile.

use std::time::Duration;

use super::clock::{AwakeClock, Deadline};

/// How often a guest is asked.
const EVERY: Duration = Duration::from_secs(20);

/// When it is asked first: its clock was set by a message that was long on its way. Not at once, while the command starts.
const FIRST: Duration = Duration::from_secs(1);

/// After this many unanswered questions the user is told.
const WARN_AFTER: u32 = 3;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Ask the agent.
    Ask,
    /// Tell the user that it has not answered for this time.
    Warn(Duration),
    /// End the VM, which has not answered for this time.
    GiveUp(Duration),
}

/// The questions and answers of one VM.
#[derive(Debug, Default)]
pub struct Heartbeat {
    /// Silence after which the VM is ended; `None` leaves that to the user and the job's time limit.
    limit: Option<Duration>,
    next: Option<Deadline>,
    is_asked: bool,
    missed: u32,
    has_warned: bool,
}

impl Heartbeat {
    /// A command runs from now on.
    pub fn begin(&mut self, clock: &AwakeClock, limit: Option<Duration>) {
        *self = Self { limit, next: None, ..Self::default() };
        self.next = Some(clock.reminder(self.every().min(FIRST)));
    }

    /// When to look again.
    pub fn next(&self) -> Option<Deadline> {
        self.next
    }

    /// The guest has sent something; `true` if the user was told before that it does not answer.
    pub fn answered(&mut self) -> bool {
        (self.is_asked, self.missed) = (false, 0);
        std::mem::take(&mut self.has_warned)
    }

    /// What to do, if it is time for something. A QEMU that somebody stopped cannot answer, and does not count as
    /// silent.
    pub fn beat(&mut self, clock: &AwakeClock, is_stopped: impl FnOnce() -> bool) -> Option<Beat> {
        if !clock.has_passed(self.next?) {
            return None;
        }
        self.next = Some(clock.reminder(self.every()));
        if !self.is_asked {
            self.is_asked = true;
            return Some(Beat::Ask);
        }
        if is_stopped() {
            return None;
        }
        self.missed += 1;
        let silence = self.every() * self.missed;
        if self.limit.is_some_and(|limit| silence >= limit) {
            return Some(Beat::GiveUp(silence));
        }
        let worry = self.missed >= WARN_AFTER && !self.has_warned;
        self.has_warned |= worry;
        worry.then_some(Beat::Warn(silence))
    }

    fn every(&self) -> Duration {
        self.limit.map_or(EVERY, |limit| EVERY.min(limit / WARN_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `times` intervals pass and collects what to do.
    fn pass(heartbeat: &mut Heartbeat, clock: &mut AwakeClock, times: u32, is_stopped: bool) -> Vec<Beat> {
        let mut beats = Vec::new();
        for _ in 0..times {
            let next = heartbeat.next().unwrap();
            while !clock.has_passed(next) {
                clock.pass(Duration::from_secs(1));
            }
            beats.extend(heartbeat.beat(clock, || is_stopped));
        }
        beats
    }

    #[test]
    fn a_guest_that_answers_is_asked_again_and_again() {
        let (mut heartbeat, mut clock) = (Heartbeat::default(), AwakeClock::new());
        assert_eq!(heartbeat.beat(&clock, || false), None, "no command runs");
        heartbeat.begin(&clock, None);
        for _ in 0..10 {
            assert_eq!(pass(&mut heartbeat, &mut clock, 1, false), [Beat::Ask]);
            assert!(!heartbeat.answered());
        }
    }

    #[test]
    fn silence_is_told_once_and_ended_only_where_the_site_wants_that() {
        let (mut heartbeat, mut clock) = (Heartbeat::default(), AwakeClock::new());
        heartbeat.begin(&clock, None);
        assert_eq!(pass(&mut heartbeat, &mut clock, 1000, false), [Beat::Ask, Beat::Warn(EVERY * 3)]);
        assert!(heartbeat.answered(), "it is told that the guest answers again");
        assert_eq!(pass(&mut heartbeat, &mut clock, 4, false), [Beat::Ask, Beat::Warn(EVERY * 3)]);
        let limit = Duration::from_secs(90);
        heartbeat.begin(&clock, Some(limit));
        let done = pass(&mut heartbeat, &mut clock, 6, false);
        assert_eq!(done, [Beat::Ask, Beat::Warn(EVERY * 3), Beat::GiveUp(EVERY * 5)]);
        heartbeat.begin(&clock, Some(Duration::from_secs(3)));
        assert_eq!(pass(&mut heartbeat, &mut clock, 4, false), [Beat::Ask, Beat::GiveUp(Duration::from_secs(3))]);
    }

    #[test]
    fn neither_a_stopped_qemu_nor_a_suspended_runner_is_a_silent_guest() {
        let (mut heartbeat, mut clock) = (Heartbeat::default(), AwakeClock::new());
        heartbeat.begin(&clock, Some(Duration::from_secs(60)));
        assert_eq!(pass(&mut heartbeat, &mut clock, 100, true), [Beat::Ask]);
        // Hours later, in one step.
        clock.pass(Duration::from_secs(36_000));
        assert_eq!(heartbeat.beat(&clock, || false), None);
        assert!(!heartbeat.answered());
    }
}
