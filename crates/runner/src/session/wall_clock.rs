//! The time of day, for guests.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::ToGuest;

/// How often a guest may ask before its command runs; ours asks less often.
const QUESTIONS_MOST: u32 = 8;

/// The message with this host's clock. Before its command runs a guest is set to it. While its command runs, the guest
/// gets it as the answer to each PONG, and then follows it.
pub fn wall_clock() -> ToGuest<'static> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ToGuest::Clock(now.as_nanos() as u64)
}

/// How often a guest may still be answered in its session: one that asks all the time, and does not read, gets no more.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// A PING was sent, and its PONG has not come.
    awaits_pong: bool,
    questions: u32,
}

impl Answers {
    /// PING is being sent.
    pub fn ping(&mut self) {
        self.awaits_pong = true;
    }

    /// Whether a PONG is answered: one for each PING.
    pub fn pong(&mut self) -> bool {
        std::mem::take(&mut self.awaits_pong)
    }

    /// Whether an ASK-CLOCK is answered.
    pub fn question(&mut self) -> bool {
        self.questions += 1;
        self.questions <= QUESTIONS_MOST
    }
}
