//! The real-Slurm suite: one cluster of four nodes for all tests, everything run as an ordinary user.
//!
//! Tests run one after the other: each ends with a look at what is left on the machine, which must
//! be nothing. `cargo test --test slurm -- NAME` runs those whose name contains NAME.

mod batch;
mod blame;
mod catalogue;
mod central;
mod cluster;
mod confinement;
mod delivery;
mod fail_closed;
mod failures;
mod fullboot;
mod hostile;
mod identity;
mod images;
mod options;
mod resources;
mod save;
mod slots;
mod streams;
mod templates;
mod terminal;
mod tools;
mod ways;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

use cluster::Cluster;

/// A test: a sentence and a function of the cluster.
type Case = (&'static str, fn(&Cluster));

/// Set to run the cases that take minutes instead of the others.
const LONG: &str = "SPANK_VM_LONG";

const CASES: &[&[Case]] = &[
    identity::CASES,
    streams::CASES,
    terminal::CASES,
    slots::CASES,
    save::CASES,
    options::CASES,
    catalogue::CASES,
    delivery::CASES,
    batch::CASES,
    templates::CASES,
    fullboot::CASES,
    failures::CASES,
    fail_closed::CASES,
    ways::CASES,
    blame::CASES,
    resources::CASES,
    hostile::CASES,
    confinement::CASES,
    tools::CASES,
    images::CASES,
];

const LONG_CASES: &[&[Case]] = &[images::LONG_CASES, fullboot::LONG_CASES];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let cases = if std::env::var_os(LONG).is_some() { LONG_CASES.concat() } else { CASES.concat() };
    if arguments.list {
        return libtest_mimic::run(&arguments, cases.into_iter().map(|(name, _)| trial(name, || Ok(()))).collect())
            .exit_code();
    }
    let cluster = match Cluster::start() {
        Ok(cluster) => Arc::new(cluster),
        Err(why) => {
            eprintln!("the test cluster does not start: {why}");
            return ExitCode::FAILURE;
        }
    };
    let trials = cases.into_iter().map(|(name, case)| {
        let cluster = Arc::clone(&cluster);
        trial(name, move || {
            case(&cluster);
            cluster.nothing_is_left().map_err(Failed::from)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    match cluster.stop() {
        Ok(()) => conclusion.exit_code(),
        Err(why) => {
            eprintln!("after the last test: {why}");
            ExitCode::FAILURE
        }
    }
}

fn trial(name: &'static str, run: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    Trial::test(name, run)
}
