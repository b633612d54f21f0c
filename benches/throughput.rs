//! How fast bytes and files get into a VM and out of it, compared with the same step on bare metal. Prints a
//! table and writes `target/bench/throughput.csv`. `make bench RUNS=5` sets the number of runs.

use std::fmt::Write as _;
use std::process::ExitCode;

use testkit::Cluster;
use testkit::measure::{on_a_cluster, setting};
use testkit::place::output;

/// Memory of a node in MiB.
const NODE_MIB: u64 = 4096;

/// One thing that is measured. `script` prints the seconds it took on its last line, measured where
/// the work is done, so that neither Slurm's nor the VM's start counts.
struct Case {
    name: &'static str,
    /// What is moved: MB or files.
    amount: f64,
    unit: &'static str,
    script: &'static str,
}

/// Seconds since the epoch, and seconds since the value of T0.
const CLOCK: &str = "now() { date +%s.%N; }; since() { echo \"$1 $(now)\" | awk '{ print $2 - $1 }'; }";

const CASES: &[Case] = &[
    Case {
        name: "stdout",
        amount: 200.0,
        unit: "MB/s",
        // The clock starts with the first byte.
        script: "srun -Q $VM sh -c 'echo; yes 0123456789abcdef | head -c 200000000' | \
                 { read first; t=$(now); cat > /dev/null; since $t; }",
    },
    Case {
        name: "stdin",
        amount: 200.0,
        unit: "MB/s",
        script: "yes 0123456789abcdef | head -c 200000001 | \
                 srun -Q $VM bash -c \"$CLOCK; head -c 1 > /dev/null; \"'t=$(now); cat > /dev/null; since $t'",
    },
    Case {
        name: "share-write",
        amount: 200.0,
        unit: "MB/s",
        script: "srun -Q $VM bash -c \"$CLOCK; \"'t=$(now); dd if=/dev/zero of=big bs=1M count=200 conv=fsync 2> /dev/null; since $t'",
    },
    Case {
        name: "share-read",
        amount: 200.0,
        unit: "MB/s",
        script: "head -c 209715200 /dev/zero > big; \
                 srun -Q $VM bash -c \"$CLOCK; \"'t=$(now); dd if=big of=/dev/null bs=1M 2> /dev/null; since $t'",
    },
    Case {
        name: "untar",
        amount: 10_000.0,
        unit: "files/s",
        script: "mkdir -p s/{0..99}; for d in {0..99}; do for f in {0..99}; do echo $d $f > s/$d/$f; done; done; \
                 tar cf s.tar s; rm -r s; \
                 srun -Q $VM bash -c \"$CLOCK; \"'t=$(now); tar xf s.tar; since $t'",
    },
    Case {
        name: "find",
        amount: 10_000.0,
        unit: "files/s",
        script: "mkdir -p s/{0..99}; for d in {0..99}; do for f in {0..99}; do : > s/$d/$f; done; done; \
                 srun -Q $VM bash -c \"$CLOCK; \"'t=$(now); find s -size 0 | wc -l > /dev/null; since $t'",
    },
];

fn main() -> ExitCode {
    let runs = setting("RUNS", 3_usize).clamp(1, 5);
    on_a_cluster(NODE_MIB, |cluster| measure_all(cluster, runs))
}

fn measure_all(cluster: &Cluster, runs: usize) {
    let mut csv = String::from("case,unit,bare,vm,ratio_to_bare\n");
    println!("{:<12} {:>12} {:>12} {:>8}  unit", "case", "bare", "VM", "VM/bare");
    for case in CASES {
        let rate = |options: &str| {
            let mut rates: Vec<f64> = (0..runs).map(|_| case.amount / seconds(cluster, case, options)).collect();
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        };
        let (bare, vm) = (rate("--mem=1200"), rate("--mem=1200 --vm-image=debian12"));
        let ratio = vm / bare;
        writeln!(csv, "{},{},{bare:.1},{vm:.1},{ratio:.3}", case.name, case.unit).unwrap();
        println!("{:<12} {bare:>12.1} {vm:>12.1} {ratio:>8.3}  {}", case.name, case.unit);
    }
    let dir = output("bench");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("throughput.csv"), csv).unwrap();
    println!("\nthe middle of {runs} runs each; written to target/bench/throughput.csv");
}

/// Runs the case's script as the user in a directory of its own.
fn seconds(cluster: &Cluster, case: &Case, options: &str) -> f64 {
    let dir = cluster.work_dir();
    let script = format!("VM='{options}'\nCLOCK='{}'\neval \"$CLOCK\"\n{}", CLOCK.replace('\'', "'\\''"), case.script);
    let stdout = cluster.run_in(&dir, &["bash", "-c", &script]).ok();
    std::fs::remove_dir_all(&dir).unwrap();
    stdout.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or_else(|| panic!("{}: {stdout}", case.name))
}
