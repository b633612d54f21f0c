//! One step, measured from the start of its command line to its lines of output.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Cluster;
use testkit::measure::as_user;

/// A way of running a command, repeated.
pub struct Case {
    /// Its name in the table.
    pub name: &'static str,
    /// VMs, or 1 on bare metal.
    pub n: u32,
    /// Keys of the site's configuration that differ.
    pub config: &'static str,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Started as the cluster's user; otherwise as the user who runs the benchmark.
    pub as_user: bool,
    /// Lines that must come from each VM; other lines are ignored.
    pub lines: &'static [&'static str],
    /// How often it is measured.
    pub runs: usize,
    /// Before each run the user's templates are removed: the first use of an image.
    pub forget_templates: bool,
}

/// What is measured of one run, in ms.
pub struct Run {
    /// Until the first line.
    pub first_line: f64,
    /// Until the last line.
    pub last_line: f64,
    /// Until the program has ended.
    pub total: f64,
    /// The runner's own times of its first VM.
    pub phases: Vec<(String, f64)>,
}

impl Case {
    /// A case that prints `ready` once in each VM.
    pub fn new(name: &'static str, n: u32, argv: Vec<String>, runs: usize) -> Self {
        Self { name, n, config: "", argv, as_user: true, lines: &["ready"], runs: runs.max(2), forget_templates: false }
    }

    /// Runs it once; returns `None`, with a message on stderr, if it did not do what it should.
    pub fn measure(&self, cluster: &Cluster, cwd: &Path) -> Option<Run> {
        if self.forget_templates {
            let _ = std::fs::remove_dir_all(cluster.dir.join("templates"));
        }
        let mut command = if self.as_user {
            as_user(cluster, &self.argv[0], cwd)
        } else {
            let mut command = Command::new(&self.argv[0]);
            command.stdin(Stdio::null());
            command
        };
        command.args(&self.argv[1..]).env("SPANK_VM_TIMING", "1");
        let begin = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // The stderr of a step is short, so it fits in the pipe meanwhile.
        let is_expected = |line: &String| self.lines.contains(&line.trim());
        let lines = stdout.lines().map_while(Result::ok).filter(is_expected);
        let arrivals: Vec<Duration> = lines.map(|_| begin.elapsed()).collect();
        let output = child.wait_with_output().unwrap();
        let total = begin.elapsed();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let worked = output.status.success() && arrivals.len() == self.n as usize * self.lines.len();
        // Wait until the step's cleanup is over, so that it does not slow down the next run.
        std::thread::sleep(Duration::from_millis(100 + 10 * u64::from(self.n)));
        if !worked {
            let why = stderr.lines().find(|line| line.contains("error")).unwrap_or(&stderr);
            eprintln!("{} × {}: {} lines, {}: {why}", self.name, self.n, arrivals.len(), output.status);
            return None;
        }
        let (first, last) = (*arrivals.first()?, *arrivals.last()?);
        Some(Run { first_line: ms(first), last_line: ms(last), total: ms(total), phases: phases(&stderr) })
    }
}

/// The phases that the runner of the first VM reports.
fn phases(stderr: &str) -> Vec<(String, f64)> {
    let line = stderr.lines().find(|line| line.starts_with("vm: timing: vm=0 ")).unwrap_or_default();
    let phase = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.strip_suffix("ms")?.parse().ok()?))
    };
    line.split(' ').filter_map(phase).collect()
}

/// Whether a program is on the path of users.
pub fn is_installed(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// A duration in ms.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
