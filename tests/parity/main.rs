//! The parity suite: the same script on bare metal and in a VM of the same OS release, on a real
//! Slurm. What a user can see must be equal, or the difference is listed with its reason.
//!
//! Writes `target/PARITY.md`; `make parity` makes it the repository's.

mod cases;
#[path = "../slurm/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod report;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use cases::{CASES, Case};
use cluster::Cluster;
use report::{Row, Seen};

/// Options of the step that runs in a VM. The bare one gets the same memory.
const VM: &str = "--mem=1200 --vm-image=debian12";
const BARE: &str = "--mem=1200";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
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
    let trials = CASES.iter().map(|case| {
        let (cluster, rows) = (cluster.clone(), Arc::clone(&rows));
        Trial::test(format!("{}: {}", case.area, case.name), move || match cluster {
            Some(cluster) => compare(&cluster, case, &rows),
            None => Ok(()),
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let Some(cluster) = cluster else { return ExitCode::SUCCESS };
    if let Err(why) = cluster.stop() {
        eprintln!("after the last case: {why}");
        return ExitCode::FAILURE;
    }
    // A run of a few chosen cases is no report.
    if conclusion.num_filtered_out == 0 {
        report::write(&rows.lock().unwrap());
    }
    conclusion.exit_code()
}

fn compare(cluster: &Cluster, case: &'static Case, rows: &Mutex<Vec<Row>>) -> Result<(), Failed> {
    let bare = see(cluster, case, BARE);
    let vm = see(cluster, case, VM);
    let equal = bare == vm;
    rows.lock().unwrap().push(Row { case, bare: bare.clone(), vm: vm.clone() });
    cluster.nothing_is_left()?;
    match (equal, case.differs) {
        (true, None) | (false, Some(_)) => Ok(()),
        (false, None) => Err(format!("bare metal: {bare:#?}\nVM: {vm:#?}").into()),
        (true, Some(reason)) => Err(format!("equal now; take the reason away: {reason}").into()),
    }
}

/// Runs the case's script as the user in a new directory.
fn see(cluster: &Cluster, case: &Case, options: &str) -> Seen {
    let dir = cluster.work_dir();
    let script = format!("VM='{options}'\n{}", case.script);
    let ran = cluster.run_in(&dir, &["bash", "-c", &script]);
    Seen::new(ran, &dir)
}
