//! The paper's Figure 4 again: how long job arrays of VMs take from `sbatch` to the last VM's first computation.
//!
//! Job arrays of 1 to 16 jobs × 1 to 8 VMs per slot × three ways of starting VMs, on a four-node cluster,
//! and beside them as many tasks on bare metal.
//! The environment changes what is measured: REPEATS=10, KIT_REPEATS=2, PAPER_REPEATS=1, KIT_MAX_VMS=64,
//! PAPER_MAX_VMS=16, and JOBS=1,2 VMS=1,2 SERIES=clone for a part of the grid. With MINUTES=20 the slow series together take no
//! longer: their smallest cells come first, and the figure's caption says how many were left out. Everything is written to
//! `target/figure4` after each cell, so that an interrupted run still has results.

mod budget;
mod cell;
mod logger;
mod plot;
mod report;
mod series;

use std::process::ExitCode;

use budget::{Allowance, Budget};
use cell::{Bench, Cell};
use logger::Logger;
use report::Report;
use series::{Series, Site};
use testkit::Cluster;
use testkit::measure::{full_images, on_a_cluster, paper_way, setting};
use testkit::place::output;

/// Memory of each node in MiB: two slots of eight VMs that boot a full Linux.
const NODE_MIB: u64 = 6000;

/// A part of an axis of the grid, as `JOBS=1,2` chooses it.
struct Numbers(Vec<u32>);

impl std::str::FromStr for Numbers {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(|word| word.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

fn main() -> ExitCode {
    on_a_cluster(NODE_MIB, measure_all)
}

fn measure_all(cluster: &Cluster) {
    let jobs = setting("JOBS", Numbers(vec![1, 2, 4, 8, 16])).0;
    let vms_per_slot = setting("VMS", Numbers(vec![1, 2, 4, 8])).0;
    let wanted: String = setting("SERIES", "bare,clone,kit-boot,paper".to_owned());
    let logger = Logger::start().expect("a port to listen on");
    let (full_images, paper_way) = (full_images(cluster), paper_way(cluster));
    let scratch = cluster.dir.join("scratch");
    let site = Site { port: logger.port, full_images: &full_images, paper_way: &paper_way, scratch: &scratch };
    let bench = Bench { cluster, logger: &logger, site, work_dir: cluster.work_dir() };
    let mut report = Report::new(&output("figure4"));

    let mut cells: Vec<(u32, u32)> =
        jobs.iter().flat_map(|&jobs| vms_per_slot.iter().map(move |&vms| (jobs, vms))).collect();
    cells.sort_by_key(|(jobs, vms)| jobs * vms);
    let chosen = Series::ALL.into_iter().filter(|series| wanted.split(',').any(|name| name == series.name()));
    let chosen: Vec<Series> = chosen.collect();
    let mut allowance = Allowance::new(setting("MINUTES", 0), chosen.iter().filter(|series| series.is_slow()).count());

    for series in chosen {
        cluster.configure(series.config(), "");
        if series != Series::Paper {
            // Fills caches, and makes the template that clones start from.
            bench.measure(series, 1, 1).unwrap_or_else(|why| panic!("the first {} failed: {why}", series.name()));
        }
        let mut budget = if series.is_slow() { allowance.next() } else { Budget::unlimited() };
        for &(jobs, vms_per_slot) in &cells {
            let vms = jobs * vms_per_slot;
            let is_too_large = vms > series.most_vms();
            if is_too_large || !budget.allows(vms) {
                println!("{:<9} {jobs:>2} × {vms_per_slot}: left out", series.name());
                report.leave_out(series, is_too_large);
                continue;
            }
            report.add(budget.spend(vms, || measure_cell(&bench, series, jobs, vms_per_slot)));
            cell::sweep(&scratch);
        }
    }
    cluster.configure("", "");
    report.finish();
}

/// Measures one cell and prints its progress.
fn measure_cell(bench: &Bench<'_>, series: Series, jobs: u32, vms_per_slot: u32) -> Cell {
    let mut cell = Cell { series, jobs, vms_per_slot, runs: Vec::new(), failures: Vec::new() };
    for repeat in 1..=series.repeats() {
        let what = format!("{:<9} {jobs:>2} × {vms_per_slot} #{repeat:<2}", series.name());
        match bench.measure(series, jobs, vms_per_slot) {
            Ok(times) => {
                println!(
                    "{what} first {:>7.2} s, mean {:>7.2} s, last {:>7.2} s",
                    times.first_s, times.mean_s, times.last_s
                );
                cell.runs.push(times);
            }
            Err(why) => {
                println!("{what} FAILED: {why}");
                cell.failures.push(format!("{} {jobs} × {vms_per_slot}, repeat {repeat}: {why}", series.name()));
            }
        }
    }
    cell
}
