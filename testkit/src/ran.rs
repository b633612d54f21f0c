//! How a command ended.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

/// How a command ended, as text.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 + signal when killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Asserts success and returns stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Asserts failure with exactly one line that contains all of `words`; srun's own lines about
    /// the end of tasks do not count.
    #[track_caller]
    pub fn fails_with_one_line(self, words: &[&str]) {
        assert_ne!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let own =
            |line: &&str| !(is_chatter(line) || line.contains("Exited with exit code") || line.contains("task 0: "));
        let lines: Vec<&str> = self.stderr.lines().filter(own).collect();
        assert_eq!(lines.len(), 1, "one line expected, got:\n{}", self.stderr);
        for word in words {
            assert!(lines[0].contains(word), "'{word}' is not in: {}", lines[0]);
        }
    }
}

/// What srun and salloc say when a job or a step has to wait, and when the wait is over. Whether it has to depends on how long the one before took
/// to end.
const WAITS: [&str; 5] = [
    "queued and waiting for resources",
    "has been allocated resources",
    "step creation temporarily disabled, retrying",
    "step creation still disabled, retrying",
    "Step created for ",
];

/// Whether it is a line that comes only if a job or a step has to wait.
pub fn is_waiting(line: &str) -> bool {
    WAITS.iter().any(|words| line.contains(words))
}

/// Whether it is no line that a test should count: empty, or about waiting.
pub fn is_chatter(line: &str) -> bool {
    line.trim().is_empty() || is_waiting(line)
}

/// `output` as text.
pub fn ran(output: Output) -> Ran {
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs a command as root outside of any cluster, and returns what it printed.
///
/// # Panics
///
/// If it fails.
#[track_caller]
pub fn system(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let ended = ran(output.unwrap_or_else(|why| panic!("{words:?}: {why}")));
    assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
    ended.stdout
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Ran {
        ran(Command::new("sh").args(["-c", script]).output().unwrap())
    }

    #[test]
    fn a_command_that_is_killed_has_the_code_that_a_shell_gives_it() {
        assert_eq!(sh("kill -KILL $$").code, 137);
        assert_eq!(sh("exit 7").code, 7);
    }

    #[test]
    fn what_srun_says_of_itself_is_no_line_of_ours() {
        let said = "srun: job 1 queued and waiting for resources\n\
                    srun: Job 1 step creation temporarily disabled, retrying (Requested nodes are busy)\n\
                    srun: Step created for job 1\n\nvm: error: no image 'x'\n\
                    srun: error: n1: task 0: Exited with exit code 75\n";
        let failed = |stderr: &str| Ran { code: 75, stdout: String::new(), stderr: stderr.to_owned() };
        failed(said).fails_with_one_line(&["no image", "'x'"]);
        let twice = std::panic::catch_unwind(|| failed(&said.repeat(2)).fails_with_one_line(&[]));
        assert!(twice.is_err());
    }
}
