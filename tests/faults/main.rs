//! The fault matrix: things break on a real Slurm while VMs start or run, one fault at a time.
//!
//! Each row ends in the same way, whatever broke: the user saw the right words, nothing is left on the
//! node, no node is drained, and the next VM job and the next bare job on that node are fine. How long that took
//! is the recovery time. `SPANK_VM_LONG=1` runs the long rows instead of the short ones. The short ones
//! write `target/RELIABILITY.md`, the long ones `target/RELIABILITY-long.md`; `make reliability` makes the two the
//! repository's RELIABILITY.md.

#[path = "../slurm/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod files;
mod guests;
mod hosts;
mod long;
mod remains;
mod report;
mod rogue;
mod step;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

use cluster::Cluster;
use remains::Baseline;
use report::Row;

/// A row of the matrix.
#[derive(Clone, Copy)]
struct Fault {
    /// What breaks.
    pub area: &'static str,
    /// What happens to it, as a sentence.
    pub name: &'static str,
    /// How often it is tried.
    pub tries: u32,
    /// Lets it happen and looks at what the user sees.
    pub run: fn(&Cluster) -> Saw,
}

/// What a row found.
#[derive(Debug)]
struct Saw {
    /// The moment of the fault.
    pub since: Instant,
    /// What the user saw.
    pub text: String,
}

fn main() -> ExitCode {
    if let Some(code) = rogue::play() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // One fault at a time: what is left is looked at after each.
    arguments.test_threads = Some(1);
    let is_long = std::env::var_os("SPANK_VM_LONG").is_some();
    let faults = if is_long { long::FAULTS.to_vec() } else { [hosts::FAULTS, guests::FAULTS, files::FAULTS].concat() };
    if arguments.list {
        let trials = faults.iter().map(|fault| Trial::test(title(fault), || Ok(())));
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    let cluster = match Cluster::start() {
        Ok(cluster) => Arc::new(cluster),
        Err(why) => {
            eprintln!("the test cluster does not start: {why}");
            return ExitCode::FAILURE;
        }
    };
    remains::bound_scratch(&cluster);
    // A template first: a row is about its fault and not about making one.
    let ready = next_jobs(&cluster);
    let baseline = Arc::new(Baseline::of(&cluster));
    let rows: Arc<Mutex<Vec<Row>>> = Arc::default();
    let trials = faults.into_iter().map(|fault| {
        let (cluster, rows, baseline) = (Arc::clone(&cluster), Arc::clone(&rows), Arc::clone(&baseline));
        Trial::test(title(&fault), move || {
            let row = endure(&cluster, fault, &baseline)?;
            rows.lock().unwrap().push(row);
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    remains::unbound_scratch(&cluster);
    if let Err(why) = ready.and(cluster.stop()) {
        eprintln!("outside the rows: {why}");
        let _ = cluster.stop();
        return ExitCode::FAILURE;
    }
    // A run of a few chosen rows, or one with failures, is no report.
    if conclusion.num_filtered_out == 0 && conclusion.num_failed == 0 {
        report::write(&rows.lock().unwrap(), is_long);
    }
    conclusion.exit_code()
}

fn title(fault: &Fault) -> String {
    format!("{}: {}", fault.area, fault.name)
}

/// Lets the fault happen as often as it says and demands after each that the node is as before.
fn endure(cluster: &Cluster, fault: Fault, baseline: &Baseline) -> Result<Row, String> {
    let mut recovery = Duration::ZERO;
    let mut saw = String::new();
    for _ in 0..fault.tries {
        let found = (fault.run)(cluster);
        baseline.is_restored(cluster)?;
        recovery = recovery.max(found.since.elapsed());
        saw = found.text;
        next_jobs(cluster)?;
        baseline.is_restored(cluster)?;
    }
    Ok(Row { fault, saw, recovery })
}

/// The next VM job and the next bare job, on the node that had the fault.
fn next_jobs(cluster: &Cluster) -> Result<(), String> {
    let node = step::node(cluster);
    for image in ["--vm-image=tiny", "--vm-image=none"] {
        let ran = cluster.srun(&["-Q", "-w", &node, image, "echo", "fine"]);
        if (ran.code, ran.stdout.as_str(), ran.stderr.as_str()) != (0, "fine\n", "") {
            return Err(format!("the next job with {image}: {ran:?}"));
        }
    }
    Ok(())
}
