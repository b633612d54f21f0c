//! How much longer a bare-metal `srun` takes on a cluster that has the plugin in plugstack.conf. Runs with and
//! without it take turns, so that other load on the machine affects both. Writes `target/bench/plugin.csv`.
//! `make bench-plugin RUNS=500` sets the number of pairs; goal: at most a millisecond.

use std::process::ExitCode;
use std::time::Instant;

use testkit::Cluster;
use testkit::measure::{as_user, machine, on_a_cluster, quantile, setting};
use testkit::place::output;

fn main() -> ExitCode {
    on_a_cluster(4096, measure)
}

fn measure(cluster: &Cluster) {
    let pairs = setting("RUNS", 200_usize).max(10);
    let cwd = cluster.work_dir();
    // srun and slurmstepd read the file anew for each step.
    let plugstack = cluster.dir.join("plugstack.conf");
    let line = std::fs::read_to_string(&plugstack).unwrap();
    let srun_ms = |plugins: &str| {
        std::fs::write(&plugstack, plugins).unwrap();
        let begin = Instant::now();
        let status = as_user(cluster, "srun", &cwd).args(["-Q", "true"]).status().unwrap();
        assert!(status.success());
        begin.elapsed().as_secs_f64() * 1000.0
    };
    // Fills caches; not counted.
    srun_ms(&line);
    let measured: Vec<(f64, f64)> = (0..pairs).map(|_| (srun_ms(""), srun_ms(&line))).collect();
    std::fs::write(&plugstack, &line).unwrap();
    let (without, with): (Vec<f64>, Vec<f64>) = measured.iter().copied().unzip();
    let added: Vec<f64> = measured.iter().map(|(without, with)| with - without).collect();
    let mut csv = "case,p10_ms,p50_ms,p95_ms\n".to_owned();
    println!("{} pairs of bare-metal 'srun true', {}\n", pairs, machine());
    for (case, values) in [("without plugin", &without), ("with plugin", &with), ("added within a pair", &added)] {
        let [p10, p50, p95] = [0.1, 0.5, 0.95].map(|q| quantile(values, q));
        println!("{case:<20} p10 {p10:7.2} ms   p50 {p50:7.2} ms   p95 {p95:7.2} ms");
        csv.push_str(&format!("{case},{p10:.2},{p50:.2},{p95:.2}\n"));
    }
    let dir = output("bench");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("plugin.csv"), csv).unwrap();
}
