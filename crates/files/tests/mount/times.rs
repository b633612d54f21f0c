//! Tests of what holds for a time only.

use std::time::{Duration, Instant};

/// Waits for what must become true within the time for which attributes are believed, and some more on a busy machine.
pub fn soon(mut is_true: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if is_true() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Asserts what is only so while nothing else takes the processors: what was told ahead is believed for a second at most,
/// and the server stops telling ahead after 3 ms. One try of many must show it; each begins anew, and `Err` says what it saw.
pub fn undisturbed(mut shows: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut tries = 1;
    while let Err(seen) = shows() {
        assert!(tries < 10 || Instant::now() < deadline, "{seen}, the last of {tries} tries");
        tries += 1;
    }
}

/// What a try ends with: `Err` with what it saw if it did not see what it should.
pub fn saw(is_so: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(seen()) }
}
