//! The ends of child processes, waited for with a deadline: one that a file system or a device of the node holds does
//! not even end when it is killed.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time between two looks: it grows, because most children end at once.
const PAUSES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(5));

/// How long a killed child may take that has little memory.
pub const KILLED_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Whether somebody else ended a process by a signal: the kernel for lack of memory or for a limit, its user, an administrator.
pub fn was_killed(status: ExitStatus) -> bool {
    const FROM_OUTSIDE: [i32; 6] =
        [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGXCPU, libc::SIGXFSZ];
    status.signal().is_some_and(|signal| FROM_OUTSIDE.contains(&signal))
}

/// Kills a child and waits for its end, at most so long. `None`: it has not ended, and will when what holds it lets it go.
pub fn end(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    // A child that was not waited for keeps its number, so this cannot hit another process.
    let _ = child.kill();
    wait(child, within)
}

/// Waits for a child's end, at most so long.
pub fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    let mut pause = PAUSES.0;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => sleep(pause),
            _ => return None,
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_that_does_not_end_is_waited_for_no_longer_than_its_deadline() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(wait(&mut child, Duration::from_millis(20)), None);
        let status = end(&mut child, Duration::from_secs(60)).expect("nothing holds it");
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        // Who asks again gets the same answer.
        assert_eq!(end(&mut child, Duration::ZERO), Some(status));
    }

    #[test]
    fn a_child_that_ends_by_itself_has_its_own_status() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        assert_eq!(wait(&mut child, Duration::from_secs(60)).and_then(|status| status.code()), Some(7));
    }
}
