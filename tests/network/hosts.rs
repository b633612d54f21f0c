//! Many small hosts: the example of docs/parallel.md.

use testkit::Cluster;

use crate::Case;

pub const CASES: &[Case] = &[("a_word_goes_round_a_ring_of_8_hosts_on_4_nodes", |cluster| ring(cluster, 2))];

pub const LONG_CASES: &[Case] = &[("a_word_goes_round_a_ring_of_64_hosts_on_4_nodes", |cluster| ring(cluster, 16))];

/// What docs/parallel.md shows: each host waits for the word and passes it on to the next one.
const RING: &str = include_str!("../../docs/examples/ring");

fn ring(cluster: &Cluster, vms: u32) {
    let dir = cluster.work_dir();
    std::fs::write(dir.join("ring"), RING).unwrap();
    let vms_per_slot = format!("--vms-per-slot={vms}");
    let line = [
        "srun",
        "-Q",
        "-N4",
        "-n4",
        "-c2",
        "--mem=4096",
        "--vm-image=tiny",
        &vms_per_slot,
        "--vm-net=job",
        "sh",
        "ring",
    ];
    let stdout = cluster.run_in(&dir, &line).ok();
    assert_eq!(stdout, format!("the word has been at {} hosts\n", 4 * vms));
}
