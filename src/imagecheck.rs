//! Runs `spank-vm image check` in a client and brings back what it says.

use crate::spank::readable_within;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How often the program is checked while it prints nothing.
const TICK: Duration = Duration::from_millis(5);

/// Longest message that is shown.
const MAX_MESSAGE: usize = 2000;

/// Outcome of a check.
#[derive(Debug)]
pub enum Verdict {
    /// The image can be used.
    Good,
    /// It cannot; why, in one line.
    Bad(String),
    /// There is no such program here.
    NoProgram(io::Error),
    /// It did not end in time and was killed.
    TooSlow,
}

/// Runs the program with nothing to read and its output thrown away, except for the errors.
pub fn run(program: &Path, words: &[OsString], limit: Duration) -> Verdict {
    let spawned =
        Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Verdict::NoProgram(error),
    };
    let mut said = Vec::new();
    match watch(&mut child, Instant::now() + limit, &mut said) {
        Ok(Some(status)) if status.success() => Verdict::Good,
        Ok(Some(status)) => Verdict::Bad(message(&said).unwrap_or_else(|| format!("{}: {status}", program.display()))),
        Ok(None) => {
            // Reaped by process id, so that the client's own children are never mixed up.
            let _ = child.kill();
            let _ = child.wait();
            Verdict::TooSlow
        }
        // The client ignores SIGCHLD, so the exit status is lost: the program's output must be enough.
        Err(_) => message(&said).map_or(Verdict::Good, Verdict::Bad),
    }
}

/// Collects the program's output until it has ended; `None` if that takes too long, an error if it is
/// not known how it ended. It waits for the program's end, not the end of the pipe, because a grandchild
/// may keep the pipe open.
fn watch(child: &mut Child, deadline: Instant, said: &mut Vec<u8>) -> io::Result<Option<ExitStatus>> {
    let mut pipe = child.stderr.take();
    loop {
        let ended = child.try_wait();
        let runs = matches!(ended, Ok(None));
        while let Some(open) = &mut pipe {
            // After its end all its output is in the pipe already.
            let patience = if runs { TICK } else { Duration::ZERO };
            if !readable_within(open.as_fd(), patience)? {
                break;
            }
            let mut buffer = [0; 4096];
            match open.read(&mut buffer)? {
                0 => pipe = None,
                n if said.len() < MAX_MESSAGE => said.extend_from_slice(&buffer[..n]),
                _ => {}
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        if !runs || Instant::now() >= deadline {
            return ended;
        }
        if pipe.is_none() {
            thread::sleep(TICK);
        }
    }
}

/// One line of the program's output, without the prefixes of command lines.
fn message(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&said[..said.len().min(MAX_MESSAGE)]);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut line = lines.join("; ");
    for prefix in ["spank-vm: ", "vm: ", "error: "] {
        line = line.strip_prefix(prefix).map(str::to_owned).unwrap_or(line);
    }
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Verdict {
        run(Path::new("/bin/sh"), &["-c".into(), script.into()], limit)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn success_is_success_whatever_was_said() {
        assert!(matches!(shell("echo warning >&2; echo out", LONG), Verdict::Good));
    }

    #[test]
    fn a_failure_is_told_in_one_line() {
        let Verdict::Bad(why) = shell("printf 'spank-vm: error: a\\n\\n b\\n' >&2; exit 3", LONG) else { panic!() };
        assert_eq!(why, "a; b");
    }

    #[test]
    fn a_silent_failure_names_the_program_and_its_end() {
        let Verdict::Bad(why) = shell("kill -9 $$", LONG) else { panic!() };
        assert!(why.starts_with("/bin/sh: signal: 9"), "{why}");
    }

    #[test]
    fn a_flood_of_errors_is_cut() {
        let Verdict::Bad(why) = shell("yes | head -c 1000000 >&2; exit 1", LONG) else { panic!() };
        assert!(why.len() <= 2 * MAX_MESSAGE);
    }

    #[test]
    fn a_program_that_hangs_is_killed_in_time() {
        let start = Instant::now();
        assert!(matches!(shell("echo x >&2; exec sleep 60", Duration::from_millis(200)), Verdict::TooSlow));
        assert!(start.elapsed() < LONG);
    }

    #[test]
    fn a_child_left_behind_does_not_hold_the_submission_up() {
        let start = Instant::now();
        assert!(matches!(shell("sleep 5 & exit 0", LONG), Verdict::Good));
        assert!(start.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn where_ends_of_children_are_ignored_the_last_words_of_the_program_count() {
        const IGNORES: &str = "SPANK_VM_TEST_IGNORES_ENDS";
        if std::env::var_os(IGNORES).is_some() {
            let mut command = Command::new("/bin/sh");
            let mut child = command.args(["-c", "echo no such image >&2"]).stderr(Stdio::piped()).spawn().unwrap();
            let begin = Instant::now();
            while Path::new(&format!("/proc/{}", child.id())).exists() && begin.elapsed() < LONG {
                thread::sleep(TICK);
            }
            let mut said = Vec::new();
            assert!(watch(&mut child, Instant::now() + LONG, &mut said).is_err(), "nobody knows how it ended");
            return assert_eq!(message(&said).as_deref(), Some("no such image"));
        }
        let name = "imagecheck::tests::where_ends_of_children_are_ignored_the_last_words_of_the_program_count";
        let mut ignoring = Command::new("env");
        ignoring.arg("--ignore-signal=CHLD").arg(std::env::current_exe().unwrap());
        let output = ignoring.args(["--exact", name]).env(IGNORES, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    fn a_missing_program_is_told_apart() {
        assert!(matches!(run(Path::new("/nonexistent"), &[], LONG), Verdict::NoProgram(_)));
    }
}
