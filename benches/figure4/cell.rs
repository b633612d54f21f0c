//! One cell of the grid: a job array of so many jobs with so many VMs each, measured several times.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::Cluster;
use testkit::measure::as_user;

use crate::logger::Logger;
use crate::series::{Series, Site};

/// How long to wait without a result before looking at the queue: a look costs time that VMs need.
const LOOK_AFTER: Duration = Duration::from_secs(5);

/// How long finished jobs may stay in the queue.
const QUEUE_DEADLINE: Duration = Duration::from_secs(60);

/// What is measured and where.
pub struct Bench<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Where results arrive.
    pub logger: &'a Logger,
    /// What the jobs' scripts name.
    pub site: Site<'a>,
    /// The user's directory from which everything is submitted: another directory would be another share of the VMs.
    pub work_dir: PathBuf,
}

/// Seconds from just before `sbatch` to a VM's first computation.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Of the first VM.
    pub first_s: f64,
    /// On average over all VMs.
    pub mean_s: f64,
    /// Of the last VM: what Figure 4 shows.
    pub last_s: f64,
}

/// A cell and its measurements.
#[derive(Debug)]
pub struct Cell {
    /// The way of starting.
    pub series: Series,
    /// Jobs of the array.
    pub jobs: u32,
    /// VMs of each.
    pub vms_per_slot: u32,
    /// The repeats in which all VMs computed.
    pub runs: Vec<Times>,
    /// What went wrong in the other repeats.
    pub failures: Vec<String>,
}

impl Cell {
    /// VMs of the whole array.
    pub fn vms(&self) -> u32 {
        self.jobs * self.vms_per_slot
    }
}

impl Bench<'_> {
    /// Submits the array once and waits for the results of all its VMs.
    pub fn measure(&self, series: Series, jobs: u32, vms_per_slot: u32) -> Result<Times, String> {
        let vms = (jobs * vms_per_slot) as usize;
        let script = self.work_dir.join("job.sh");
        fs::write(&script, series.script(vms_per_slot, &self.site)).unwrap();
        self.remove_logs();
        self.logger.forget();
        let mut sbatch = as_user(self.cluster, "sbatch", &self.work_dir);
        sbatch.args(["-Q", "--parsable", "-N1", "-n1", "-c1", "--output=job-%a.log"]);
        sbatch.arg(format!("--array=1-{jobs}")).arg(format!("--mem={}M", series.job_mib(vms_per_slot))).arg(&script);

        let begin = Instant::now();
        let submitted = sbatch.output().unwrap();
        if !submitted.status.success() {
            return Err(format!("sbatch: {}", String::from_utf8_lossy(&submitted.stderr).trim()));
        }
        let arrivals = self.collect(vms, begin + Duration::from_secs(60 + 20 * vms as u64));
        let empty = self.wait_for_empty_queue();
        if arrivals.len() < vms {
            let missing = vms - arrivals.len();
            return Err(format!("{missing} of {vms} VMs sent nothing; {}", self.first_complaint()));
        }
        empty?;
        let seconds: Vec<f64> = arrivals.iter().map(|moment| (*moment - begin).as_secs_f64()).collect();
        let last_s = seconds.iter().copied().fold(0.0, f64::max);
        let first_s = seconds.iter().copied().fold(last_s, f64::min);
        Ok(Times { first_s, mean_s: seconds.iter().sum::<f64>() / seconds.len() as f64, last_s })
    }

    /// The arrival times of `count` results; fewer if the jobs ended without them or it takes too long.
    fn collect(&self, count: usize, deadline: Instant) -> Vec<Instant> {
        let mut arrivals = Vec::new();
        while arrivals.len() < count && Instant::now() < deadline {
            if let Some(moment) = self.logger.next(LOOK_AFTER) {
                arrivals.push(moment);
            } else if self.queue().is_empty() {
                // The last results may still be on their way.
                arrivals.extend(std::iter::from_fn(|| self.logger.next(Duration::from_secs(1))));
                break;
            }
        }
        arrivals
    }

    /// The states of the jobs that Slurm still knows.
    fn queue(&self) -> String {
        let listed = as_user(self.cluster, "squeue", &self.work_dir).args(["-h", "-r", "-o", "%T"]).output().unwrap();
        String::from_utf8_lossy(&listed.stdout).trim().to_owned()
    }

    /// Waits until the next repeat has the machine for itself. Jobs that do not end are cancelled.
    fn wait_for_empty_queue(&self) -> Result<(), String> {
        let deadline = Instant::now() + QUEUE_DEADLINE;
        let mut cancelled = false;
        while !self.queue().is_empty() {
            if Instant::now() > deadline && !cancelled {
                cancelled = true;
                let user = &self.cluster.user;
                as_user(self.cluster, "scancel", &self.work_dir).args(["-u", user]).status().unwrap();
            }
            assert!(Instant::now() < deadline + QUEUE_DEADLINE, "cancelled jobs stay in the queue: {}", self.queue());
            std::thread::sleep(Duration::from_millis(100));
        }
        if cancelled { Err(format!("jobs did not end within {} s", QUEUE_DEADLINE.as_secs())) } else { Ok(()) }
    }

    fn logs(&self) -> Vec<PathBuf> {
        let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
        let mut logs: Vec<PathBuf> =
            fs::read_dir(&self.work_dir).unwrap().flatten().map(|entry| entry.path()).filter(is_log).collect();
        logs.sort();
        logs
    }

    fn remove_logs(&self) {
        for log in self.logs() {
            fs::remove_file(log).unwrap();
        }
    }

    /// The first line that any job printed: jobs print nothing unless something is wrong.
    fn first_complaint(&self) -> String {
        let text = |log: &PathBuf| fs::read_to_string(log).unwrap_or_default();
        let texts: Vec<String> = self.logs().iter().map(text).collect();
        let lines = || texts.iter().flat_map(|text| text.lines()).filter(|line| !line.trim().is_empty());
        let line = lines().find(|line| line.contains("error")).or_else(|| lines().next());
        line.map_or("the jobs printed nothing".to_owned(), |line| format!("a job printed: {line}"))
    }
}

/// Removes leftover copies of killed jobs of the paper's way.
pub fn sweep(scratch: &Path) {
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("paper-way.") {
            let _ = Command::new("rm").arg("-rf").arg(entry.path()).status();
        }
    }
}
