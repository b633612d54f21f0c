//! What the time is before the command runs.
//!
//! The runner's first CLOCK answers the agent's HELLO, so its error is at most half of what both took. If that was long (an
//! emulated clone takes some 100 ms to come to read it; the host had no processor for QEMU or the runner), the agent asks again at START, when it has nothing else to do, and starts the
//! command when it knows enough. Each answer says between which bounds the host's clock is ahead of the guest's monotonic one, which
//! runs on while the guest does not, and all of them are true: what they have in common is at least as good as the best of them.
//! An answer in time costs nothing more, and the second one of an emulated clone takes 2 to 4 ms.
//!
//! | what can go wrong | what happens |
//! | --- | --- |
//! | every answer is late | after [`TRIES`] questions, or [`PATIENCE`], the command starts; its clock is as good as the answers allow, and the heartbeat, the first after a second, goes on |
//! | the runner does not answer | after [`PATIENCE`] the command starts |
//! | the host's clock is set meanwhile, or QEMU is stopped and with it the monotonic clock | the answers contradict each other, and the last one is believed |
//! | a CLOCK comes that nobody asked for (SIGCONT) | if a question is open, it is taken for its answer and can be too old by its own way; else only its lower bound is used |
//! | the guest loses its processor after the last answer | nothing: the clock that was set runs on |

use std::time::Duration;

/// An answer that took no longer tells the time by the middle of its way, in nanoseconds.
pub(super) const QUICK: i128 = 25_000_000;

/// How often the agent asks again.
const TRIES: u32 = 4;

/// How long all of these may delay a command together.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// By how much the host's clock is ahead of the guest's monotonic one, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Estimate {
    /// At least, and at most if an answer was to a question.
    bounds: Option<(i128, Option<i128>)>,
    tries: u32,
}

impl Estimate {
    /// The host read `host` between `asked` and `heard`, or some time before `heard`. Returns what is most likely.
    pub fn hear(&mut self, asked: Option<i128>, heard: i128, host: i128) -> i128 {
        let new = (host - heard, asked.map(|asked| host - asked));
        let (least, most) = self.bounds.map_or(new, |known| common(known, new).unwrap_or(new));
        self.bounds = Some((least, most));
        most.map_or(least, |most| least + (most - least) / 2)
    }

    /// Whether the next answer may tell more; counts the question. Without any answer nobody tells the time in this session.
    pub fn wants_more(&mut self) -> bool {
        let Some((least, most)) = self.bounds else { return false };
        let is_vague = most.is_none_or(|most| most - least > QUICK);
        self.tries += u32::from(is_vague);
        is_vague && self.tries <= TRIES
    }
}

/// What both allow.
fn common(one: (i128, Option<i128>), other: (i128, Option<i128>)) -> Option<(i128, Option<i128>)> {
    let least = one.0.max(other.0);
    let most = [one.1, other.1].into_iter().flatten().min();
    most.is_none_or(|most| most >= least).then_some((least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i128 = 1_000_000;
    /// The host is ahead by this.
    const TRUTH: i128 = 1_700_000_000_000 * MS;

    /// A question at `at` whose way took `there`, and whose answer's took `back`, in milliseconds. Returns the error.
    fn ask(estimate: &mut Estimate, at: i128, there: i128, back: i128) -> i128 {
        let [at, there, back] = [at, there, back].map(|ms| ms * MS);
        (estimate.hear(Some(at), at + there + back, TRUTH + at + there) - TRUTH) / MS
    }

    #[test]
    fn an_answer_in_time_needs_no_other() {
        let mut estimate = Estimate::default();
        assert_eq!(ask(&mut estimate, 0, 2, 20), -9);
        assert!(!estimate.wants_more());
    }

    #[test]
    fn after_a_late_answer_the_next_one_that_is_in_time_counts() {
        let mut estimate = Estimate::default();
        assert_eq!(ask(&mut estimate, 0, 1, 235), -117);
        assert!(estimate.wants_more());
        assert_eq!(ask(&mut estimate, 300, 2, 2), 0);
        assert!(!estimate.wants_more());
    }

    #[test]
    fn two_late_answers_can_tell_more_than_the_better_one() {
        let mut estimate = Estimate::default();
        assert_eq!(ask(&mut estimate, 0, 4, 400), -198);
        assert!(estimate.wants_more());
        // Late on the other way: together they leave no more than 4 + 6 ms.
        assert_eq!(ask(&mut estimate, 500, 300, 6), -1);
        assert!(!estimate.wants_more());
        // A third one that is worse spoils nothing.
        assert_eq!(ask(&mut estimate, 1000, 900, 900), -1);
    }

    #[test]
    fn a_guest_that_never_hears_in_time_stops_asking() {
        let mut estimate = Estimate::default();
        let asked = (0..100).take_while(|at| {
            ask(&mut estimate, at * 1000, 100, 100);
            estimate.wants_more()
        });
        assert_eq!(asked.count(), TRIES as usize);
    }

    #[test]
    fn answers_that_contradict_each_other_leave_the_last_one() {
        let mut estimate = Estimate::default();
        ask(&mut estimate, 0, 100, 100);
        // An hour was put back.
        let hour = 3_600_000 * MS;
        assert_eq!(estimate.hear(Some(0), 10 * MS, TRUTH - hour + 5 * MS), TRUTH - hour);
    }

    #[test]
    fn a_time_that_nobody_asked_for_is_believed_if_it_is_the_only_one() {
        let mut estimate = Estimate::default();
        assert!(!estimate.wants_more(), "nobody tells the time");
        assert_eq!(estimate.hear(None, 3 * MS, TRUTH), TRUTH - 3 * MS);
        assert!(estimate.wants_more());
        assert_eq!(ask(&mut estimate, 10, 1, 1), 0);
        // An old one changes nothing.
        assert_eq!(estimate.hear(None, 900 * MS, TRUTH + 20 * MS), TRUTH);
    }
}
