//! The lines that runners wrote to the journal since the last run.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::counters::Counters;

/// The name under which runners write.
const IDENTIFIER: &str = "spank-vm";

/// How long journalctl may take. What is left is read by the next run.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most that one run reads, in lines and in bytes. Who floods the journal delays the figures and no more.
const LINES_MOST: usize = 200_000;
const BYTES_MOST: u64 = 256 << 20;

/// Counts what is new in the journal of this boot, or since the last run.
///
/// # Errors
/// One line, if there is no journal or journalctl fails. What was counted until then is kept.
pub fn read(counters: &mut Counters) -> Result<(), String> {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--output=json", "--identifier", IDENTIFIER]);
    command.arg("--output-fields=F_WAY,F_START_MS,F_REASON");
    match &counters.cursor {
        Some(cursor) => command.arg(format!("--after-cursor={cursor}")),
        None => command.arg("--boot"),
    };
    count(&mut command, counters, PATIENCE)
}

/// Counts the lines of a command's output.
fn count(command: &mut Command, counters: &mut Counters, patience: Duration) -> Result<(), String> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("journalctl: {error}"))?;
    let (sender, receiver) = mpsc::sync_channel(1000);
    if let Some(output) = child.stdout.take() {
        // By a thread, which ends with the process, or when nobody listens any more.
        std::thread::spawn(move || {
            let lines = BufReader::new(output.take(BYTES_MOST)).lines().map_while(Result::ok);
            lines.take(LINES_MOST).find(|line| sender.send(line.clone()).is_err());
        });
    }
    let deadline = Instant::now() + patience;
    let ended = loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            // A line that is cut off is read again by the next run.
            Ok(line) => counters.take(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
            Err(mpsc::RecvTimeoutError::Timeout) => break false,
        };
    };
    // It may still write, if it has more lines than one run reads.
    let status = if ended { wait_a_moment(&mut child) } else { None };
    let _ = child.kill();
    let _ = child.wait();
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    match (ended, status) {
        (false, _) => Err(format!("journalctl has not ended within {} s", patience.as_secs())),
        (true, Some(false)) => Err(format!("journalctl: {}", said.lines().next().unwrap_or("it failed"))),
        (true, _) => Ok(()),
    }
}

/// Whether the process succeeded, if it ends by itself.
fn wait_a_moment(child: &mut std::process::Child) -> Option<bool> {
    for _ in 0..100 {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(script: &str, patience: Duration) -> (Result<(), String>, Counters) {
        let mut counters = Counters::default();
        let result = count(Command::new("sh").args(["-c", script]), &mut counters, patience);
        (result, counters)
    }

    #[test]
    fn lines_are_counted_up_to_the_end() {
        let line = r#"{"__CURSOR":"c","F_REASON":"guest"}"#;
        let (result, counters) = told(&format!("echo '{line}'; echo '{line}'"), PATIENCE);
        assert_eq!((result, counters.failures["guest"]), (Ok(()), 2));
        assert_eq!(counters.cursor.as_deref(), Some("c"));
    }

    #[test]
    fn a_journal_that_fails_or_hangs_is_told_of_and_what_it_said_before_counts() {
        let line = r#"{"__CURSOR":"c","F_REASON":"guest"}"#;
        let (failed, counters) = told(&format!("echo '{line}'; echo 'No journal files' >&2; exit 1"), PATIENCE);
        assert_eq!((failed, counters.failures["guest"]), (Err("journalctl: No journal files".to_owned()), 1));
        let (late, _) = told("exec sleep 1000", Duration::from_millis(50));
        assert!(late.unwrap_err().contains("has not ended"));
    }
}
