//! The lab's suite: what only a node with KVM, systemd and cgroup v2 can show, on Debian's own releases of Slurm.
//!
//! One node VM for each release; all tests of a release run on the same one, in their order, as an ordinary user. Each ends
//! with a look at what is left in the node, which must be nothing. One more group has a cluster of two node VMs, of one
//! release. Two groups run side by side where memory allows it: see `lanes`.
//!
//! `SPANK_VM_LAB_RELEASES="bookworm trixie"` chooses the releases (Debian 12 and 13 without it). Others than Debian 13 leave
//! out the tests that show the same on every release (`once`), and all of them those for every night (`nightly`), unless
//! `SPANK_VM_LAB_WHOLE` is set.

mod case;
mod closed;
mod files;
mod guests;
mod jobs;
mod kind;
mod kvm;
mod lanes;
mod lost;
mod mpi;
mod network;
mod node;
mod packages;
mod reboot;
mod report;
mod spoilt;
mod streams;
mod two;
mod ways;

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use libtest_mimic::{Arguments, Trial};

use case::{Case, Runs, case};
use kind::Kind;
use lanes::Group;

/// On one node. The reboot is nearly last: it loses templates and earlier lines of the journal. Packages are: in the
/// end they take the boot kit with them.
const CASES: &[&[Case]] = &[
    guests::CASES,
    ways::CASES,
    kvm::CASES,
    jobs::CASES,
    streams::CASES,
    mpi::CASES,
    files::CASES,
    node::CASES,
    closed::CASES,
    reboot::CASES,
    packages::CASES,
];

/// The release that runs what one release is enough for, and the cases on two nodes.
const MAIN: &str = "trixie";

/// The releases if none are chosen. The one that takes longest comes first.
const RELEASES: &str = "trixie bookworm";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let releases = std::env::var("SPANK_VM_LAB_RELEASES").unwrap_or_else(|_| RELEASES.to_owned());
    let mut trials = Vec::new();
    let mut groups = Vec::new();
    for (kind, cases) in chosen(&releases) {
        let mut group = Group { kind, cases: Vec::new() };
        for case in cases {
            let (result, arrives) = mpsc::channel();
            let name = format!("{}: {}", group.kind.title(), case.name);
            let trial =
                Trial::test(name, move || Ok(arrives.recv().map_err(|_| "its lane ended before it".to_owned())??));
            if !arguments.is_filtered_out(&trial) {
                group.cases.push((case, result));
            }
            trials.push(trial);
        }
        groups.push(group);
    }
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    // A trial only waits for its result, which a lane sends, so all of them wait at once.
    arguments.test_threads = Some(trials.len().max(2));
    let lanes = thread::spawn(|| lanes::run(groups));
    let conclusion = libtest_mimic::run(&arguments, trials);
    let (seen, ended) = lanes.join().expect("lanes catch what cases do");
    report::print(&seen);
    // A run of a few chosen cases is no report.
    if conclusion.num_filtered_out == 0 {
        report::write(&seen);
    }
    if let Err(why) = ended {
        eprintln!("after the last test: {why}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// The cases of each kind of lab, in their order.
fn chosen(releases: &str) -> Vec<(Kind, Vec<&'static Case>)> {
    let is_whole = std::env::var_os("SPANK_VM_LAB_WHOLE").is_some();
    let is_in = |release: &str, case: &Case| match case.runs {
        Runs::Always => true,
        Runs::Once => is_whole || release == MAIN,
        Runs::Nightly => is_whole,
    };
    let mut chosen = Vec::new();
    for release in releases.split_whitespace() {
        let cases = CASES.iter().copied().flatten().filter(|case| is_in(release, case));
        chosen.push((Kind { release: release.to_owned(), nodes: 1 }, cases.collect()));
    }
    if releases.split_whitespace().any(|release| release == MAIN) {
        let cases = [two::CASES, network::CASES, mpi::ON_TWO, lost::CASES]
            .into_iter()
            .flatten()
            .filter(|case| is_in(MAIN, case));
        chosen.push((Kind { release: MAIN.to_owned(), nodes: 2 }, cases.collect()));
    }
    chosen
}
