//! What Slurm knows about this job. Slurm itself is asked, because the user controls the job's environment.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Context, Fault, RunError, ensure};
use image::allow::JobFacts;
use request::JobRef;

/// How long the controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The usual places of Slurm's commands; the job's PATH cannot be trusted.
const BIN_DIRS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/opt/slurm/bin", "/usr/local/slurm/bin"];

/// Partition and account of the job. Without a job there are none.
///
/// # Errors
/// When Slurm does not answer.
pub fn facts(job: Option<&JobRef>) -> Result<JobFacts, RunError> {
    let Some(job) = job else { return Ok(JobFacts::default()) };
    let squeue = BIN_DIRS.iter().map(|dir| Path::new(dir).join("squeue")).find(|path| path.exists());
    let mut command = Command::new(squeue.as_deref().unwrap_or(Path::new("squeue")));
    if squeue.is_some() {
        command.env_clear();
    }
    let id = job.id.to_string();
    command.args(["--noheader", "--jobs", &id, "--format", "%A %P %a"]);
    if let Some(path) = &job.slurm_conf {
        command.env("SLURM_CONF", path);
    }
    let said = answer(&mut command).context("Slurm does not tell the job's partition and account")?;
    parse(&said, &id).ok_or_else(|| system(format!("Slurm knows no job {id}")))
}

/// Slurm, or the connection to it, does not work.
fn system(why: String) -> RunError {
    RunError::new(Fault::System, why)
}

fn answer(command: &mut Command) -> Result<String, RunError> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + PATIENCE;
    // Reading meanwhile would need a separate thread. The lines of some hundred jobs fit into the pipe. For a
    // larger array the program may block on a full pipe; then the deadline ends it.
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(system(format!("no answer within {} s", PATIENCE.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut text = String::new();
    child.stdout.take().ok_or_else(|| system("no pipe".to_owned()))?.take(64 << 10).read_to_string(&mut text)?;
    ensure!(status.success(), Fault::System, "squeue: {status}");
    Ok(text)
}

/// Finds the job's line. The answer for the number of an array's first job has one line for each job of the array.
fn parse(text: &str, id: &str) -> Option<JobFacts> {
    let words = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&id))?;
    let known = |word: Option<&&str>| word.filter(|word| **word != "(null)").map(|word| (*word).to_owned());
    Some(JobFacts { partition: known(words.get(1)), account: known(words.get(2)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_job_itself_counts() {
        let text = "9 gpu,long p2\n7 gpu p1\n8 long (null)\n";
        let facts = |id| parse(text, id).map(|facts| (facts.partition.unwrap(), facts.account));
        assert_eq!(facts("7"), Some(("gpu".into(), Some("p1".into()))));
        assert_eq!(facts("8"), Some(("long".into(), None)));
        assert_eq!(facts("6"), None);
    }

    #[test]
    fn without_a_job_there_is_neither() {
        assert_eq!(facts(None).unwrap(), JobFacts::default());
    }
}
