//! The fault matrix: things break on a real Slurm while VMs start or run, one fault at a time.
//!
//! Each row ends in the same way, whatever broke: the user saw the right words, nothing is left on the
//! node, no node is drained, and the next VM job and the next bare job on that node are fine. How long that took
//! is the recovery time. `SPANK_VM_LONG=1` runs the long rows instead of the short ones. The short ones
//! write `target/RELIABILITY.md`, the long ones `target/RELIABILITY-long.md`; `make reliability` makes the two the
//! repository's RELIABILITY.md.

mod fault;
mod files;
mod guests;
mod hosts;
mod killed;
mod long;
mod remains;
mod report;
mod rogue;
mod shared;
mod step;

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use testkit::Cluster;
use testkit::suite::{self, Length, Suite};

use fault::{Fault, Saw};
use remains::Baseline;
use report::Row;

/// What the rows share: the state of the node before the first row, and the results so far.
struct Faults {
    before: Baseline,
    rows: Mutex<Vec<Row>>,
}

fn main() -> ExitCode {
    rogue::play().unwrap_or_else(suite::main::<Faults>)
}

impl Suite for Faults {
    type Case = Fault;
    const NAME: &'static str = "faults";
    // Leftovers are looked for after each row.
    const THREADS: usize = 1;

    fn cases(length: Length) -> Vec<Fault> {
        match length {
            Length::Short => [hosts::FAULTS, killed::FAULTS, guests::FAULTS, files::FAULTS, shared::FAULTS].concat(),
            Length::Long => [long::FAULTS, killed::LONG_FAULTS].concat(),
        }
    }

    fn title(fault: &Fault) -> String {
        format!("{}: {}", fault.area, fault.name)
    }

    fn prepare(cluster: &Cluster) -> Result<Self, String> {
        remains::bound_scratch(cluster);
        // Make a template first: a row tests its fault and not the making of a template.
        next_jobs(cluster).inspect_err(|_| remains::unbound_scratch(cluster))?;
        Ok(Self { before: Baseline::of(cluster), rows: Mutex::default() })
    }

    fn run(&self, cluster: &Cluster, fault: Fault) -> Result<(), String> {
        let row = endure(cluster, fault, &self.before)?;
        self.rows.lock().unwrap().push(row);
        Ok(())
    }

    fn restore(&self, cluster: &Cluster) {
        remains::unbound_scratch(cluster);
    }

    fn report(&self, length: Length, failed: u64) {
        // After failures the report would lack rows.
        if failed == 0 {
            report::write(&self.rows.lock().unwrap(), length);
        }
    }
}

/// Causes the fault as often as the row says, and checks each time that the node is as before.
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
