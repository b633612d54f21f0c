//! The examples of docs/parallel.md.

use std::fs;

use testkit::Cluster;
use testkit::place::repository;

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_client_and_a_server_meet_as_the_guide_has_it", client_and_server),
    ("a_word_goes_round_a_ring_of_8_hosts_on_4_nodes", |cluster| ring(cluster, 2)),
];

pub const LONG_CASES: &[Case] = &[("a_word_goes_round_a_ring_of_64_hosts_on_4_nodes", |cluster| ring(cluster, 16))];

/// What docs/parallel.md shows: each host waits for the word and passes it on to the next one.
const RING: &str = include_str!("../../docs/examples/ring");

/// The first block of code below a heading of docs/parallel.md.
fn block(heading: &str) -> String {
    let text = fs::read_to_string(repository().join("docs/parallel.md")).unwrap();
    let lines = text.lines().skip_while(|line| *line != heading).skip_while(|line| !line.starts_with("    "));
    lines.map_while(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect()
}

fn client_and_server(cluster: &Cluster) {
    let typed = block("### A client and a server");
    assert!(typed.contains("srun -N2 -n2"), "{typed}");
    let stdout = cluster.run_in(&cluster.work_dir(), &["bash", "-c", &typed]).ok();
    assert_eq!(stdout, "hello\n");
}

fn ring(cluster: &Cluster, vms: u32) {
    let dir = cluster.work_dir();
    fs::write(dir.join("ring"), RING).unwrap();
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
