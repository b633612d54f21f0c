//! The parity suite: the same script on bare metal and in a VM of the same OS release, on a real
//! Slurm. What a user can see must be equal, or the difference is listed with its reason.
//!
//! Two cases run at a time, so leftovers are looked for after the last; with `--test-threads=1`
//! after each. `SPANK_VM_LONG=1` runs the long table instead of the short one. The short one writes
//! `target/PARITY.md` and the long one `target/PARITY-long.md`; `make parity` makes the two the
//! repository's PARITY.md.

mod cases;
mod report;

use std::process::ExitCode;
use std::sync::Mutex;

use testkit::suite::{self, Length, Suite};
use testkit::{Cluster, ran};

use cases::Case;
use report::{Row, Seen};

/// What the scripts share.
const PRELUDE: &str = include_str!("prelude.sh");

/// The options that make a step run in VMs, or not.
struct Variables {
    /// Options of any step. The bare one gets the same memory.
    vm: &'static str,
    /// Options of a step with two of a kind: two tasks on bare metal, two VMs of one slot in VMs.
    two: &'static str,
    /// Options of a step of two tasks on one node: on bare metal, and in one VM.
    both: &'static str,
    /// The option that labels their lines.
    label: &'static str,
    /// The variable from which each knows its number.
    rank: &'static str,
    /// What comes before a script.
    first: &'static str,
}

const BARE: Variables = Variables {
    vm: "--mem=1200",
    two: "--mem=1200 -n2 --cpu-bind=none",
    both: "--mem=1200 -N1 -n2 --cpu-bind=none",
    label: "--label",
    rank: "SLURM_PROCID",
    first: "",
};

const IN_VM: Variables = Variables {
    vm: "--mem=1200 --vm-image=debian12",
    two: "--mem=1200 -n1 -c2 --vm-image=debian12 --vms-per-slot=2",
    both: "--mem=1200 -N1 -n2 --cpu-bind=none --vm-image=debian12 --vm-scope=node",
    label: "--vm-label",
    rank: "SLURM_VM_INDEX",
    first: "",
};

/// The same with the image from the environment: `SPANK_VM_PARITY_BY_ENVIRONMENT=1` runs the suite so, without a report.
/// Cases whose batch script starts steps then have the script in a VM too, where there is no srun.
const BY_ENVIRONMENT: Variables = Variables {
    vm: "--mem=1200",
    two: "--mem=1200 -n1 -c2 --vms-per-slot=2",
    both: "--mem=1200 -N1 -n2 --cpu-bind=none --vm-scope=node",
    first: "export SPANK_VM_IMAGE=debian12",
    ..IN_VM
};

fn by_environment() -> bool {
    std::env::var_os("SPANK_VM_PARITY_BY_ENVIRONMENT").is_some()
}

fn main() -> ExitCode {
    suite::main::<Parity>()
}

/// What was seen so far.
struct Parity {
    rows: Mutex<Vec<Row>>,
}

impl Suite for Parity {
    /// Each with its place in the table.
    type Case = (usize, &'static Case);
    const NAME: &'static str = "parity";
    const THREADS: usize = 2;

    fn cases(length: Length) -> Vec<Self::Case> {
        let table = match length {
            Length::Short => cases::short(),
            Length::Long => cases::long(),
        };
        table.into_iter().enumerate().collect()
    }

    fn title((_, case): &Self::Case) -> String {
        format!("{}: {}", case.area, case.name)
    }

    fn prepare(_: &Cluster) -> Result<Self, String> {
        Ok(Self { rows: Mutex::default() })
    }

    fn run(&self, cluster: &Cluster, (number, case): Self::Case) -> Result<(), String> {
        let bare = see(cluster, case, &BARE);
        let vm = see(cluster, case, if by_environment() { &BY_ENVIRONMENT } else { &IN_VM });
        let outcome = compare(case, &bare, &vm);
        self.rows.lock().unwrap().push(Row { number, case, bare, vm });
        outcome
    }

    fn report(&self, length: Length, _failed: u64) {
        if by_environment() {
            return;
        }
        report::write(&mut self.rows.lock().unwrap(), length);
    }
}

fn compare(case: &Case, bare: &Seen, vm: &Seen) -> Result<(), String> {
    match (bare == vm, case.differs) {
        (true, None) | (false, Some(_)) => Ok(()),
        (false, None) => Err(format!("bare metal: {bare:#?}\nVM: {vm:#?}")),
        (true, Some(reason)) => Err(format!("equal now; take the reason away: {reason}")),
    }
}

/// Runs the case's script as the user in a new directory.
fn see(cluster: &Cluster, case: &Case, variables: &Variables) -> Seen {
    let dir = cluster.work_dir();
    let user = if case.by_root { "root" } else { &cluster.user };
    if case.by_root {
        // QEMU has none of root's capabilities: in a VM root may write where the owner is root.
        std::os::unix::fs::chown(&dir, Some(0), Some(0)).unwrap();
    }
    let Variables { vm, two, both, label, rank, first } = variables;
    let script =
        format!("{first}\nVM='{vm}' TWO='{two}' BOTH='{both}' LABEL={label} RANK={rank}\n{PRELUDE}\n{}", case.script);
    let output = cluster.command_as(user, &dir, &["bash", "-c", &script]).output().unwrap();
    Seen::new(ran(output), &dir, &cluster.user, &node_prefix(cluster))
}

/// What the names of the cluster's nodes begin with.
fn node_prefix(cluster: &Cluster) -> String {
    cluster.nodes()[0].trim_end_matches('1').to_owned()
}
