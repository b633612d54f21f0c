//! The time of day, for guests.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::ToGuest;

/// The message with this host's clock. Before its command runs a guest is set to it. While its command runs, the guest
/// gets it as the answer to each PONG, and then follows it.
pub fn wall_clock() -> ToGuest<'static> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ToGuest::Clock(now.as_nanos() as u64)
}
