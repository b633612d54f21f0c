//! The examples of docs/parallel.md.

use std::fs;

use testkit::Cluster;
use testkit::place::repository;

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_client_and_a_server_meet_as_the_guide_has_it", client_and_server),
    ("a_word_goes_round_a_ring_of_8_hosts_on_4_nodes", |cluster| ring(cluster, 2)),
];

pub const LONG_CASES: &[Case] = &[
    ("a_word_goes_round_a_ring_of_64_hosts_on_4_nodes", |cluster| ring(cluster, 16)),
    ("the_first_program_of_mpi_says_where_its_ranks_are_as_the_guide_has_it", hello),
];

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

/// On two nodes, of which each has a TmpFS of its own, where Open MPI wants its temporary files; its VMs must have that too.
fn hello(cluster: &Cluster) {
    let shown = block("### A first program of MPI");
    let (typed, said) = shown.split_once('\n').unwrap();
    assert!(typed.contains("-N2 -n4"), "{typed}");
    let dir = cluster.work_dir();
    fs::copy(repository().join("docs/examples/hello"), dir.join("hello")).unwrap();
    let mount = format!("export SPANK_VM_MOUNT={}; ", cluster.slurm_dir().join("tmp").display());
    let typed = typed.replace("srun", "srun -Q --mem=1500");
    let stdout = cluster.run_in(&dir, &["bash", "-c", &format!("{mount}{typed}")]).ok();
    let mut lines: Vec<String> = stdout.lines().map(anonymous).collect();
    lines.sort_unstable();
    let expected = [0, 1, 2, 3].map(|rank| {
        anonymous(&said.trim().replace("0 of", &format!("{rank} of")).replace("-0:", &format!("-{rank}:")))
    });
    assert_eq!(lines, expected);
}

/// A line without the job's number in a VM's name.
fn anonymous(line: &str) -> String {
    let (before, after) = line.split_once(" vm").unwrap_or_else(|| panic!("{line}"));
    format!("{before} vm{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
}
