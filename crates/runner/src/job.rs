//! What Slurm knows about this job. Slurm itself is asked, because the user controls the job's environment.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Context, Fault, RunError, ensure};
use image::allow::JobFacts;
use node::child::{self, KILLED_ENDS_WITHIN};
use request::JobRef;

/// How long the controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest part of a line that is kept, in bytes.
const LINE_MOST: usize = 4096;

/// The usual places of Slurm's commands.
const BIN_DIRS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/opt/slurm/bin", "/usr/local/slurm/bin"];

/// Partition and account of the job. Without a job there are none.
///
/// # Errors
/// When Slurm does not answer.
pub fn facts(job: Option<&JobRef>) -> Result<JobFacts, RunError> {
    let Some(job) = job else { return Ok(JobFacts::default()) };
    let untold = "Slurm does not tell the job's partition and account";
    let mut command = Command::new(program(&BIN_DIRS).context(untold)?);
    let id = job.id.to_string();
    command.env_clear().args(["--noheader", "--jobs", &id, "--format", "%A %P %a"]);
    if let Some(path) = &job.slurm_conf {
        command.env("SLURM_CONF", path);
    }
    let line = line_about(&id, &mut command, PATIENCE).context(untold)?;
    line.as_deref().map(facts_in).ok_or_else(|| system(format!("Slurm knows no job {id}")))
}

/// The program that asks Slurm. The job's PATH would be its user's word.
fn program(dirs: &[&str]) -> Result<PathBuf, RunError> {
    let found = dirs.iter().map(|dir| Path::new(dir).join("squeue")).find(|path| path.exists());
    found.ok_or_else(|| system(format!("no squeue in {}", dirs.join(", "))))
}

/// Slurm, or the connection to it, does not work.
fn system(why: String) -> RunError {
    RunError::new(Fault::System, why)
}

/// The line about the job that the program prints. All other lines are only read: the answer for the number of an
/// array's first job has one line for each job of the array, and those of a large array do not fit into a pipe.
fn line_about(id: &str, command: &mut Command, patience: Duration) -> Result<Option<String>, RunError> {
    let deadline = Instant::now() + patience;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let found = child.stdout.take().ok_or_else(|| system("no pipe".to_owned())).and_then(|out| find(id, out, deadline));
    let status = match &found {
        // It has closed its output.
        Ok(_) => child::wait(&mut child, deadline.saturating_duration_since(Instant::now())),
        Err(_) => None,
    };
    match (found, status) {
        (Ok(line), Some(status)) => {
            ensure!(status.success(), Fault::System, "squeue: {status}");
            Ok(line)
        }
        (found, _) => {
            child::end(&mut child, KILLED_ENDS_WITHIN);
            found.and_then(|_| Err(late(patience)))
        }
    }
}

fn late(patience: Duration) -> RunError {
    system(format!("no answer within {} s", patience.as_secs()))
}

/// Reads to the end, and keeps the first line that begins with the word `id`.
fn find(id: &str, mut out: ChildStdout, deadline: Instant) -> Result<Option<String>, RunError> {
    let (mut found, mut line, mut chunk) = (None, Vec::new(), [0; 16 << 10]);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut set = [PollFd::new(out.as_fd(), PollFlags::POLLIN)];
        match poll(&mut set, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(system("no answer in time".to_owned())),
            Err(Errno::EINTR) => continue,
            ready => ready.map(drop)?,
        }
        let count = out.read(&mut chunk)?;
        if count == 0 {
            return Ok(found.or_else(|| text_about(id, &line)));
        }
        for &byte in &chunk[..count] {
            match byte {
                b'\n' => {
                    found = found.or_else(|| text_about(id, &line));
                    line.clear();
                }
                // A line of squeue has three words.
                _ if line.len() < LINE_MOST => line.push(byte),
                _ => {}
            }
        }
    }
}

fn text_about(id: &str, line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    (text.split_whitespace().next() == Some(id)).then(|| text.into_owned())
}

/// What a line says of its job.
fn facts_in(line: &str) -> JobFacts {
    let mut words = line.split_whitespace().skip(1).map(|word| (word != "(null)").then(|| word.to_owned()));
    JobFacts { partition: words.next().flatten(), account: words.next().flatten() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(script: &str, id: &str, patience: Duration) -> Result<Option<JobFacts>, RunError> {
        line_about(id, Command::new("sh").args(["-c", script]), patience).map(|line| line.as_deref().map(facts_in))
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn the_line_of_the_job_itself_counts() {
        let of = |id| said("printf '9 gpu,long p2\\n7 gpu p1\\n8 long (null)'", id, PATIENCE).unwrap();
        let facts = |id| of(id).map(|facts| (facts.partition.unwrap(), facts.account));
        assert_eq!(facts("7"), Some(("gpu".into(), Some("p1".into()))));
        assert_eq!(facts("8"), Some(("long".into(), None)));
        assert_eq!(facts("6"), None);
    }

    #[test]
    fn an_array_whose_lines_fill_the_pipe_is_read_to_its_end() {
        let script = "i=100000; while [ $i -lt 120000 ]; do echo $i gpu p1; i=$((i + 1)); done";
        let facts = said(script, "119999", PATIENCE).unwrap().unwrap();
        assert_eq!((facts.partition.as_deref(), facts.account.as_deref()), (Some("gpu"), Some("p1")));
    }

    #[test]
    fn a_controller_that_does_not_answer_or_fails_is_said_so() {
        let text = |script, patience| said(script, "7", patience).unwrap_err().to_string();
        assert!(text("sleep 60", Duration::from_millis(50)).contains("no answer"));
        assert!(text("exec >&-; sleep 60", Duration::from_millis(50)).contains("no answer"));
        assert!(text("exit 1", PATIENCE).contains("squeue: exit status: 1"));
    }

    #[test]
    fn a_program_of_the_user_s_is_not_asked() {
        let error = program(&["/nonexistent", "/nowhere"]).unwrap_err();
        assert_eq!(error.to_string(), "no squeue in /nonexistent, /nowhere");
    }

    #[test]
    fn without_a_job_there_is_neither() {
        assert_eq!(facts(None).unwrap(), JobFacts::default());
    }
}
