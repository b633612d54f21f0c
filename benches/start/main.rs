//! How long it takes from `srun` to the first line that a command prints, on the real cluster:
//! bare metal beside VMs, in one run on one machine. Prints a table and writes
//! `target/bench/results.csv`. `make bench RUNS=20` sets the number of runs of each case.

#[path = "../../tests/slurm/cluster.rs"]
#[allow(dead_code)]
mod cluster;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use cluster::Cluster;

/// One way of running a step.
struct Case {
    name: &'static str,
    /// VMs (or, on bare metal, tasks) of the step.
    n: u32,
    /// Keys of the site's configuration that differ.
    config: &'static str,
    options: &'static [&'static str],
}

const BARE: Case = Case { name: "bare", n: 1, config: "", options: &[] };

const CASES: &[Case] = &[
    BARE,
    Case {
        name: "kit-microvm",
        n: 1,
        config: "machine = 'microvm'\nboot_timeout_s = 15\n",
        options: &["--vm-image=debian12"],
    },
    Case { name: "kit-q35", n: 1, config: "", options: &["--vm-image=debian12"] },
    Case { name: "kit-q35", n: 4, config: "", options: &["--vm-image=debian12", "--vms-per-slot=4"] },
];

/// What is measured of one run, in ms.
struct Run {
    first_line: f64,
    total: f64,
    phases: Vec<(String, f64)>,
}

fn main() -> ExitCode {
    // cargo passes --bench; a run as part of `cargo test --benches` measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let runs = std::env::var("RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_usize).max(2);
    let cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(why) => {
            eprintln!("the cluster does not start: {why}");
            return ExitCode::FAILURE;
        }
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| measure_all(&cluster, runs)));
    if let Err(why) = cluster.stop() {
        eprintln!("{why}");
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn measure_all(cluster: &Cluster, runs: usize) {
    let mut csv = String::from("case,n,metric,p50,p95,unit,ratio_to_bare\n");
    let mut bare_first_line = None;
    println!("{:<14} {:>3} {:<12} {:>10} {:>10}  {:>8}", "case", "n", "metric", "p50", "p95", "vs bare");
    for case in CASES {
        cluster.configure(case.config, "");
        // The first run fills caches and is not counted.
        measure(cluster, case);
        let measured: Vec<Run> = (0..runs).filter_map(|_| measure(cluster, case)).collect();
        if measured.len() < runs {
            println!("{:<14} {:>3} {} of {runs} runs failed", case.name, case.n, runs - measured.len());
            writeln!(csv, "{},{},failed,{},,runs,", case.name, case.n, runs - measured.len()).unwrap();
        }
        if measured.is_empty() {
            continue;
        }
        let mut metrics = vec![
            ("first_line".to_owned(), measured.iter().map(|run| run.first_line).collect::<Vec<_>>()),
            ("total".to_owned(), measured.iter().map(|run| run.total).collect()),
        ];
        for (number, (phase, _)) in measured[0].phases.iter().enumerate() {
            let values = measured.iter().filter_map(|run| run.phases.get(number)).map(|(_, ms)| *ms).collect();
            metrics.push((format!("phase:{phase}"), values));
        }
        for (metric, mut values) in metrics {
            values.sort_by(f64::total_cmp);
            let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
            let (p50, p95) = (at(0.5), at(0.95));
            let is_first_line = metric == "first_line";
            if is_first_line && bare_first_line.is_none() {
                bare_first_line = Some(p50);
            }
            let ratio = bare_first_line.filter(|_| is_first_line).map(|bare| format!("{:.1}", p50 / bare));
            let ratio = ratio.unwrap_or_default();
            writeln!(csv, "{},{},{metric},{p50:.1},{p95:.1},ms,{ratio}", case.name, case.n).unwrap();
            println!("{:<14} {:>3} {metric:<12} {p50:>7.1} ms {p95:>7.1} ms  {ratio:>8}", case.name, case.n);
        }
    }
    cluster.configure("", "");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("results.csv"), csv).unwrap();
    println!("\n{runs} runs each; written to target/bench/results.csv");
}

/// Runs one step as the user, without any wrapper that would cost time of its own.
fn measure(cluster: &Cluster, case: &Case) -> Option<Run> {
    let user = nix::unistd::User::from_name(&cluster.user).unwrap().expect("the cluster's user exists");
    let mut srun = Command::new("srun");
    srun.args(["-Q", "--mem=2048"]).args(case.options).args(["echo", "ready"]);
    srun.env("SLURM_CONF", cluster.slurm_conf()).env("SPANK_VM_TIMING", "1");
    srun.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    let begin = Instant::now();
    let mut child = srun.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let first_line = begin.elapsed();
    let output = child.wait_with_output().unwrap();
    let total = begin.elapsed();
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Of a microvm under emulation that is known; the table says how often.
    let worked = output.status.success() && line == "ready\n";
    if !worked {
        eprintln!("{}: {}", case.name, stderr.lines().find(|line| line.contains("vm: error")).unwrap_or(&stderr));
    }
    // Let the step's end settle, so that one run is not charged to the next.
    std::thread::sleep(Duration::from_millis(100));
    worked.then(|| Run { first_line: ms(first_line), total: ms(total), phases: phases(&stderr) })
}

/// The phases that the runner of the first VM reports.
fn phases(stderr: &str) -> Vec<(String, f64)> {
    let line = stderr.lines().find(|line| line.starts_with("vm: timing: vm=0 ")).unwrap_or_default();
    let phase = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.strip_suffix("ms")?.parse().ok()?))
    };
    line.split(' ').filter_map(phase).collect()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
