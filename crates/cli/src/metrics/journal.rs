//! The lines that runners wrote to the journal since the last run.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::counters::Counters;
use node::child::{self, KILLED_ENDS_WITHIN};

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
    go_on(Path::new("journalctl"), counters)
}

fn go_on(journalctl: &Path, counters: &mut Counters) -> Result<(), String> {
    let ask = |place: String, counters: &mut Counters| {
        let mut command = Command::new(journalctl);
        command.args(["--quiet", "--no-pager", "--output=json", "--identifier", IDENTIFIER]);
        command.arg("--output-fields=F_WAY,F_START_MS,F_REASON").arg(place);
        count(&mut command, counters, PATIENCE)
    };
    let by_time = counters.last_us.map_or("--boot".to_owned(), since);
    let Some(cursor) = counters.cursor.clone() else { return ask(by_time, counters) };
    let told = ask(format!("--after-cursor={cursor}"), counters);
    if told.is_ok() || counters.cursor.as_ref() != Some(&cursor) {
        return told;
    }
    // Perhaps it is for the cursor, which another release or a damaged disk may have left: no run would ever count again.
    let told = ask(by_time, counters);
    if told.is_ok() && counters.cursor.as_ref() == Some(&cursor) {
        // There was nothing new, and this cursor is of no use.
        counters.cursor = None;
    }
    told
}

/// The lines that were written later than this many microseconds after 1970.
fn since(last_us: u64) -> String {
    let next = last_us.saturating_add(1);
    format!("--since=@{}.{:06}", next / 1_000_000, next % 1_000_000)
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
    let status = if ended { child::wait(&mut child, Duration::from_secs(1)) } else { None };
    child::end(&mut child, KILLED_ENDS_WITHIN);
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    match (ended, status) {
        (false, _) => Err(format!("journalctl has not ended within {} s", patience.as_secs())),
        (true, Some(status)) if !status.success() => {
            Err(format!("journalctl: {}", said.lines().next().unwrap_or("it failed")))
        }
        (true, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(script: &str, patience: Duration) -> (Result<(), String>, Counters) {
        let mut counters = Counters::default();
        let result = count(Command::new("sh").args(["-c", script]), &mut counters, patience);
        (result, counters)
    }

    /// A journal that takes no cursor but the one of its only line, which is newer than `@7.000001`.
    fn picky() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("journalctl");
        let line = r#"{"__CURSOR":"own","__REALTIME_TIMESTAMP":"9000000","F_REASON":"guest"}"#;
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n*--after-cursor=own | *--since=@9.000001) ;;\n\
             *--after-cursor=*) echo 'Failed to seek to cursor: Invalid argument' >&2; exit 1 ;;\n\
             *--since=@7.000001 | *--boot) echo '{line}' ;;\n*) exit 2 ;;\nesac\n"
        );
        // A program that is still open for writing in a child of another test cannot be executed.
        let written = Command::new("sh")
            .args(["-c", "cat >\"$0\"; chmod 755 \"$0\""])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn();
        let mut written = written.unwrap();
        std::io::Write::write_all(&mut written.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(written.wait().unwrap().success());
        (dir, program)
    }

    #[test]
    fn a_cursor_that_the_journal_does_not_take_is_given_up_and_no_line_counts_twice() {
        let (_dir, journalctl) = picky();
        for last_us in [Some(7_000_000), None] {
            let mut counters = Counters { cursor: Some("foreign".to_owned()), last_us, ..Counters::default() };
            for _ in 0..2 {
                assert_eq!(go_on(&journalctl, &mut counters), Ok(()));
                assert_eq!((counters.failures["guest"], counters.cursor.as_deref()), (1, Some("own")));
            }
        }
        // Nothing is new.
        let mut counters =
            Counters { cursor: Some("foreign".to_owned()), last_us: Some(9_000_000), ..Counters::default() };
        for _ in 0..2 {
            assert_eq!(go_on(&journalctl, &mut counters), Ok(()));
            assert!(counters.failures.is_empty() && counters.cursor.is_none());
        }
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
