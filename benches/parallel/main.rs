//! What VMs cost a parallel job: the start of 16 ranks, messages between ranks, an allreduce, as ratios to the same on bare
//! metal in one run. Prints a table, writes `target/bench/parallel.csv` and renews the first table of docs/parallel.md.
//!
//! Each node of the cluster has a network of its own, with a veth to a bridge; bare ranks and VMs use the same links.
//! `RUNS=3` is how often everything is measured. `SPANK_VM_LAB_RELEASES=trixie` measures in the lab instead.

mod cases;
mod lab;
mod table;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use testkit::cluster::OWN_NETWORKS;
use testkit::measure::{load, machine, on_a_cluster, setting};
use testkit::place::repository;
use testkit::{Cluster, system};

use cases::Place;

/// Memory of a node in MiB.
const NODE_MIB: u64 = 4096;

/// The cluster, and a directory of its user.
struct Here<'a>(&'a Cluster, PathBuf);

impl Place for Here<'_> {
    fn sh(&self, script: &str) -> Result<String, String> {
        let Self(cluster, dir) = self;
        let ran = cluster.run_in(dir, &["bash", "-c", &format!("set -o pipefail; {script}")]);
        if ran.code == 0 { Ok(ran.stdout) } else { Err(format!("{script}: {} {}", ran.code, ran.stderr)) }
    }

    fn nodes(&self) -> [(String, String); 2] {
        let names = self.0.nodes();
        [1, 2].map(|number| (names[number - 1].clone(), format!("10.99.0.{number}")))
    }

    fn sixteen(&self) -> &'static str {
        "-N4 -n16 -O --mem=1700"
    }
}

fn main() -> ExitCode {
    // cargo passes --bench; a run as part of `cargo test --benches` measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let releases = setting("SPANK_VM_LAB_RELEASES", String::new());
    if let Some(release) = releases.split_whitespace().next() {
        return lab::run(release);
    }
    if std::env::var_os(OWN_NETWORKS).is_none() {
        let program = std::env::current_exe().expect("this program");
        let mut inside = Command::new("unshare");
        inside.arg("--net").arg(program).args(std::env::args_os().skip(1)).env(OWN_NETWORKS, "1");
        eprintln!("unshare: {}", inside.exec());
        return ExitCode::FAILURE;
    }
    on_a_cluster(NODE_MIB, |cluster| {
        let dir = cluster.work_dir();
        let source = repository().join("benches/parallel/messages.c");
        let [program, source] = [dir.join("messages"), source].map(|path| path.to_str().unwrap().to_owned());
        system(&["cc", "-O2", "-static", "-o", &program, &source]);
        let runs = setting("RUNS", 3_usize).max(1);
        let before = load();
        let values = cases::measure(&Here(cluster, dir), runs);
        let title = format!(
            "On one machine ({}), whose nodes have networks of their own: medians of {runs}; load average {before} before and {} \
             after.",
            machine(),
            load()
        );
        table::write(&values, "parallel", "<!-- make bench writes from here -->\n", &title);
    })
}
