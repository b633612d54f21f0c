//! Other programs are asked, with a deadline: a controller that is down answers late or never.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long an answer may take. `srun --help` and `scontrol` wait for a controller that does not answer.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Time between two looks at a process that has said everything.
const PAUSE: Duration = Duration::from_millis(2);

/// What a program says on its standard output.
///
/// # Errors
/// One line: the program, and that it is missing, failed or did not answer.
pub fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    output_within(program, arguments, PATIENCE)
}

/// The same with another patience.
///
/// # Errors
/// The same.
pub fn output_within(program: &str, arguments: &[&str], patience: Duration) -> Result<String, String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    command.args(arguments);
    answer(&mut command, patience).map_err(|why| match why {
        NoAnswer::NotStarted(error) => format!("{program}: {error}"),
        NoAnswer::Late => format!("{}: no answer within {} s", shown(), patience.as_secs()),
        NoAnswer::Failed(said) => format!("{}: {}", shown(), said.lines().next().unwrap_or("it failed")),
    })
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    NotStarted(std::io::Error),
    Late,
    /// What it wrote to its standard error.
    Failed(String),
}

/// The standard output of a command that succeeds within `patience`.
///
/// # Errors
/// Why there is none. The process is gone in every case.
pub fn answer(command: &mut Command, patience: Duration) -> Result<String, NoAnswer> {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().map_err(NoAnswer::NotStarted)?;
    let (sender, receiver) = mpsc::channel();
    // By threads, so that a full pipe stops nobody; they end with the process.
    let readers = [child.stdout.take().map(boxed), child.stderr.take().map(boxed)];
    for (number, reader) in readers.into_iter().enumerate() {
        let Some(mut reader) = reader else { continue };
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = reader.by_ref().take(1 << 20).read_to_end(&mut bytes);
            let _ = sender.send((number, String::from_utf8_lossy(&bytes).into_owned()));
        });
    }
    let deadline = Instant::now() + patience;
    let mut texts = [String::new(), String::new()];
    for _ in 0..texts.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok((number, text)) = receiver.recv_timeout(left) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(NoAnswer::Late);
        };
        texts[number] = text;
    }
    let [said, complained] = texts;
    match wait_until(&mut child, deadline) {
        Some(status) if status.success() => Ok(said),
        Some(_) => Err(NoAnswer::Failed(complained)),
        None => Err(NoAnswer::Late),
    }
}

/// How the process ended. One that says no more may still not end by itself: then it is ended.
fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    while let Ok(None) = child.try_wait() {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(PAUSE);
    }
    child.wait().ok()
}

fn boxed(reader: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_missing_or_does_not_end_is_named() {
        assert!(output("/nonexistent/srun", &[]).unwrap_err().starts_with("/nonexistent/srun: "));
        assert_eq!(output("sh", &["-c", "echo no >&2; exit 1"]).unwrap_err(), "sh -c echo no >&2; exit 1: no");
        let endless = answer(Command::new("sleep").arg("1000"), Duration::from_millis(50));
        assert!(matches!(endless, Err(NoAnswer::Late)), "{endless:?}");
        // One that only says nothing more.
        let silent = answer(Command::new("sh").args(["-c", "exec >&- 2>&-; sleep 1000"]), Duration::from_millis(50));
        assert!(matches!(silent, Err(NoAnswer::Late)), "{silent:?}");
        assert_eq!(output("sh", &["-c", "echo yes"]).unwrap(), "yes\n");
    }
}
