//! The parity suite: the same script on bare metal and in a VM of the same OS release, on a real
//! Slurm. What a user can see must be equal, or the difference is listed with its reason.
//!
//! Two cases run at a time, so what they leave behind is looked at after the last; with
//! `--test-threads=1` after each. `SPANK_VM_LONG=1` runs the long table instead of the short one.
//! The short one writes `target/PARITY.md` and the long one `target/PARITY-long.md`; `make parity`
//! makes the two the repository's PARITY.md.

mod cases;
#[path = "../slurm/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod report;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use cases::Case;
use cluster::{Cluster, ran};
use report::{Row, Seen};

/// What the scripts share.
const PRELUDE: &str = include_str!("prelude.sh");

/// What makes a step one that runs in VMs, or not.
struct Variables {
    /// Options of any step. The bare one gets the same memory.
    vm: &'static str,
    /// Options of a step with two of a kind: tasks here, VMs of one slot there.
    two: &'static str,
    /// The option that labels their lines.
    label: &'static str,
    /// The variable by which each knows its number.
    rank: &'static str,
}

const BARE: Variables =
    Variables { vm: "--mem=1200", two: "--mem=1200 -n2 --cpu-bind=none", label: "--label", rank: "SLURM_PROCID" };

const IN_VM: Variables = Variables {
    vm: "--mem=1200 --vm-image=debian12",
    two: "--mem=1200 -n1 -c2 --vm-image=debian12 --vms-per-slot=2",
    label: "--vm-label",
    rank: "SLURM_VM_INDEX",
};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let is_long = std::env::var_os("SPANK_VM_LONG").is_some();
    let threads = *arguments.test_threads.get_or_insert(2);
    let cluster = match arguments.list {
        true => None,
        false => match Cluster::start() {
            Ok(cluster) => Some(Arc::new(cluster)),
            Err(why) => {
                eprintln!("the test cluster does not start: {why}");
                return ExitCode::FAILURE;
            }
        },
    };
    let rows: Arc<Mutex<Vec<Row>>> = Arc::default();
    let table = if is_long { cases::long() } else { cases::short() };
    let trials = table.into_iter().enumerate().map(|(number, case)| {
        let (cluster, rows) = (cluster.clone(), Arc::clone(&rows));
        Trial::test(format!("{}: {}", case.area, case.name), move || match cluster {
            Some(cluster) => {
                let outcome = compare(&cluster, number, case, &rows);
                outcome.and_then(|()| if threads == 1 { Ok(cluster.nothing_is_left()?) } else { Ok(()) })
            }
            None => Ok(()),
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let Some(cluster) = cluster else { return ExitCode::SUCCESS };
    let left = cluster.nothing_is_left();
    if let Err(why) = left.and(cluster.stop()) {
        eprintln!("after the last case: {why}");
        let _ = cluster.stop();
        return ExitCode::FAILURE;
    }
    // A run of a few chosen cases is no report.
    if conclusion.num_filtered_out == 0 {
        report::write(&mut rows.lock().unwrap(), is_long);
    }
    conclusion.exit_code()
}

fn compare(cluster: &Cluster, number: usize, case: &'static Case, rows: &Mutex<Vec<Row>>) -> Result<(), Failed> {
    let bare = see(cluster, case, &BARE);
    let vm = see(cluster, case, &IN_VM);
    let equal = bare == vm;
    rows.lock().unwrap().push(Row { number, case, bare: bare.clone(), vm: vm.clone() });
    match (equal, case.differs) {
        (true, None) | (false, Some(_)) => Ok(()),
        (false, None) => Err(format!("bare metal: {bare:#?}\nVM: {vm:#?}").into()),
        (true, Some(reason)) => Err(format!("equal now; take the reason away: {reason}").into()),
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
    let Variables { vm, two, label, rank } = variables;
    let script = format!("VM='{vm}' TWO='{two}' LABEL={label} RANK={rank}\n{PRELUDE}\n{}", case.script);
    let output = cluster.command_as(user, &dir, &["bash", "-c", &script]).output().unwrap();
    Seen::new(ran(output), &dir, &cluster.user, &node_prefix(cluster))
}

/// What the names of the cluster's nodes begin with.
fn node_prefix(cluster: &Cluster) -> String {
    let node = cluster.command_as("root", Path::new("/"), &["sinfo", "-h", "-N", "-o", "%N"]).output().unwrap();
    String::from_utf8_lossy(&node.stdout).lines().next().unwrap_or("n1").trim_end_matches('1').to_owned()
}
