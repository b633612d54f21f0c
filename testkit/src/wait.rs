//! Waits with a deadline and a name for what is waited for.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Deadline for all waits here; enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `look` finds something, at most a minute and a half.
///
/// # Panics
///
/// If it finds nothing until then; the message says `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// Waits until a job has made the file.
///
/// # Panics
///
/// If it is not there after a minute and a half.
#[track_caller]
pub fn wait_for_file(path: &Path) {
    wait_for(&path.display().to_string(), || path.exists().then_some(()));
}

/// Waits until `look` finds something, at most so long.
///
/// # Panics
///
/// As [`wait_for`].
#[track_caller]
pub fn wait_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not there in {patience:?}");
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_appears_is_returned() {
        let mut looks = 0;
        let third = wait_for("the third look", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(third, 3);
    }

    #[test]
    #[should_panic(expected = "a miracle: not there in 20ms")]
    fn what_does_not_appear_is_named() {
        wait_within(Duration::from_millis(20), "a miracle", || None::<()>);
    }
}
