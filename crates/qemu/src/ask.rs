//! Questions to a QEMU that executes no guest: to its monitor, or by its mere start.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{QemuError, WantedFor};
use crate::tie::Tie;
use node::child::{KILLED_ENDS_WITHIN, end};

/// How long QEMU may take: it executes nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The same for one that only prints what it knows. Its file may lie on a slow disk.
const PRINTED_WITHIN: Duration = Duration::from_secs(10);

/// Words that every question needs: no devices but the machine's, and a monitor.
const PLAIN: &str = "-no-user-config -nodefaults -display none -qmp stdio";

/// What QEMU said.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The monitor's lines. There is none if QEMU ended before it had made the machine.
    pub(crate) lines: String,
    /// Warnings and errors.
    pub(crate) complaints: String,
}

/// Starts QEMU with these arguments, executes these commands of its monitor, and ends it. `about` says what the answer
/// is needed for.
///
/// # Errors
/// When QEMU cannot be started or does not answer in time.
pub(crate) fn ask(qemu: &Path, about: &str, arguments: &[&str], commands: &[&str]) -> Result<Answer, QemuError> {
    let all = ["qmp_capabilities"].iter().chain(commands).chain(&["quit"]);
    let question: String = all.map(|word| format!("{{\"execute\":\"{word}\"}}")).collect();
    let mut command = Command::new(qemu);
    command.args(PLAIN.split(' ')).args(arguments);
    hear(command, &question, ANSWER_WITHIN).wanted_for(|| format!("{} and {about}", qemu.display()))
}

/// Starts QEMU with arguments that only make it print something.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub(crate) fn print(qemu: &Path, arguments: &[&str]) -> Result<Answer, QemuError> {
    let mut command = Command::new(qemu);
    command.args(arguments);
    hear(command, "", PRINTED_WITHIN)
        .wanted_for(|| format!("{} cannot be started with {}", qemu.display(), arguments.join(" ")))
}

/// Asks a program and ends it.
fn hear(mut command: Command, question: &str, within: Duration) -> io::Result<Answer> {
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // It would wait for ever for a question that this process had no time to ask.
    let _tie = Tie::to_this_process(&mut command)?;
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Shorter than a pipe. One that does not listen has an answer all the same, or the end of it.
        let _ = stdin.write_all(question.as_bytes());
    }
    let (sender, receiver) = mpsc::channel();
    read(child.stdout.take(), sender.clone(), |answer, text| answer.lines = text);
    read(child.stderr.take(), sender, |answer, text| answer.complaints = text);
    let deadline = Instant::now() + within;
    let mut answer = Answer::default();
    let mut heard = Ok(());
    for _ in 0..2 {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(put) => put(&mut answer),
            Err(_) => heard = Err(io::Error::other(format!("no answer within {} s", within.as_secs()))),
        }
    }
    end(&mut child, KILLED_ENDS_WITHIN);
    heard.map(|()| answer)
}

type Put = Box<dyn FnOnce(&mut Answer) + Send>;

/// Reads by a thread, which ends with QEMU's output.
fn read(from: Option<impl Read + Send + 'static>, to: Sender<Put>, put: fn(&mut Answer, String)) {
    let Some(mut from) = from else { return };
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = to.send(Box::new(move |answer| put(answer, text)));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_says_nothing_is_ended() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let error = hear(command, "", Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.to_string(), "no answer within 1 s");
    }
}
