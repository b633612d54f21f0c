//! `--vm-scope=node` with `--vm-net=job`: one VM for each node, and all of them on one network.

use std::fs;

use testkit::Cluster;
use testkit::place::repository;

use crate::Case;

pub const CASES: &[Case] = &[
    ("the_vms_of_two_nodes_reach_each_other_by_node_and_by_rank_however_ranks_are_spread", reach),
    ("a_site_s_scope_holds_for_networks_too_and_too_many_tasks_are_refused", site),
    ("mpich_has_the_answer_of_bare_metal_across_nodes_with_a_vm_for_each_node_and_for_each_task", mpich),
    ("open_mpi_has_the_answer_of_bare_metal_across_nodes_with_a_vm_for_each_node_and_for_each_task", open_mpi),
];

const STEP: [&str; 6] = ["-Q", "-N2", "-n4", "--mem=1500", "--vm-image=tiny", "--vm-net=job"];

/// Each task reaches all ranks and both VMs, waits for the others, and says where it is.
const SCRIPT: &str = "n=0; for h in rank0 rank1 rank2 rank3 $(echo $SLURM_VM_HOSTS | tr , ' '); do \
                      until ping -c1 -W1 $h >/dev/null 2>&1 && ping6 -c1 -W1 $h >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 90 ] || exit 3; done; \
                      done; touch at.$SLURM_PROCID; until [ $(ls at.* | wc -l) = $SLURM_NTASKS ]; do sleep 0.2; done; \
                      echo $SLURM_PROCID $(hostname) $(ip -o -4 addr | awk '$4 !~ /^127/ { print $2, $4 }' | sort) $SLURM_VM_HOSTS | sed 's/vm[0-9]*-/vm-/g'";

fn lines(stdout: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort_unstable();
    lines
}

fn reach(cluster: &Cluster) {
    let root = ["--vm-root", "--vm-scope=node"];
    let step = |more: &[&str]| cluster.srun(&[&STEP[..], &root, more, &["sh", "-c", SCRIPT]].concat()).ok();
    // Ranks have the first four addresses, and the VMs the next ones. Packets come from these: they alone are on the
    // network device.
    let addresses = |own, ranks: [u8; 2]| {
        let [a, b] = ranks;
        format!("eth0 100.80.0.{own}/16 lo 100.80.0.{a}/32 lo 100.80.0.{b}/32")
    };
    let [first, second] = [addresses(5, [1, 2]), addresses(6, [3, 4])];
    let expected = |rank, node, addresses: &str| format!("{rank} vm-n{node} {addresses} vm-n0,vm-n1");
    let block = [expected(0, 0, &first), expected(1, 0, &first), expected(2, 1, &second), expected(3, 1, &second)];
    assert_eq!(lines(&step(&[])), block);
    let [first, second] = [addresses(5, [1, 3]), addresses(6, [2, 4])];
    let cyclic = [expected(0, 0, &first), expected(1, 1, &second), expected(2, 0, &first), expected(3, 1, &second)];
    assert_eq!(lines(&step(&["--distribution=cyclic"])), cyclic);
    // A node with one task has such a VM too.
    let script = SCRIPT.replace(" rank3", "");
    let uneven = ["-n3", "-m", "arbitrary", "-w"];
    let nodes = cluster.nodes();
    let list = format!("{0},{0},{1}", nodes[0], nodes[1]);
    let stdout = cluster.srun(&[&STEP[..], &root, &uneven, &[&list, "sh", "-c", &script]].concat()).ok();
    let (first, second) = (addresses(4, [1, 2]), "eth0 100.80.0.5/16 lo 100.80.0.3/32");
    assert_eq!(lines(&stdout), [expected(0, 0, &first), expected(1, 0, &first), expected(2, 1, second)]);
}

fn site(cluster: &Cluster) {
    let name = ["sh", "-c", "hostname | sed 's/vm[0-9]*-/vm-/'"];
    cluster.with_config("vm_scope = 'node'\n", || {
        let stdout = cluster.srun(&[&STEP[..], &name].concat()).ok();
        assert_eq!(lines(&stdout), ["vm-n0", "vm-n0", "vm-n1", "vm-n1"]);
        // With one task on each node, they are named by these.
        let stdout = cluster.srun(&[&STEP[..], &["-n2"], &name].concat()).ok();
        assert_eq!(lines(&stdout), ["vm-0", "vm-1"]);
    });
    cluster.with_config("job_network = '100.80.0.0/29'\nvm_scope = 'node'\n", || {
        let ran = cluster.srun(&[&STEP[..], &["-n5", "-O", "sh", "-c", "echo ran"]].concat());
        assert!(!ran.stdout.contains("ran"), "{ran:?}");
        let told = ran.stderr.matches("7 tasks and nodes, and a network has room for 6").count();
        assert_eq!(told, 5, "{}", ran.stderr);
    });
}

fn mpich(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::copy(repository().join("tests/slurm/halo.py"), dir.join("halo.py")).unwrap();
    let serial = cluster.run_in(&dir, &["srun", "-Q", "python3", "halo.py", "serial"]).ok();
    let expected = format!("4 {}\n", serial.trim().strip_prefix("1 ").unwrap()).repeat(4);
    for scope in ["node", "slot"] {
        let scope = format!("--vm-scope={scope}");
        let srun = ["srun", "-Q", "-N2", "-n4", "-t2", "--mem=1500", "--mpi=pmi2", &scope, "--vm-net=job"];
        let words = ["--vm-image=debian12-mpi", "python3", "halo.py", "tcp"];
        assert_eq!(cluster.run_in(&dir, &[&srun[..], &words].concat()).ok(), expected, "{scope}");
    }
}

fn open_mpi(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::copy(repository().join("tests/slurm/halo.py"), dir.join("halo.py")).unwrap();
    let serial = cluster.run_in(&dir, &["srun", "-Q", "python3", "halo.py", "serial"]).ok();
    let sum = serial.trim().strip_prefix("1 ").unwrap();
    // Each node of this machine has a TmpFS of its own, where Open MPI wants its temporary files; its VMs must have that too.
    let mount = format!("--vm-mount={}", cluster.slurm_dir().join("tmp").display());
    let srun =
        ["srun", "-Q", "-K1", "-t2", "--mem=1500", "--mpi=pmix", "--vm-net=job", &mount, "--vm-image=debian12-mpi"];
    // Ranks of a node that have a VM each are no neighbours in one memory, though Slurm's server says so.
    for (ranks, step) in [
        (4, ["-N2", "-n4", "--vm-scope=node"]),
        (4, ["-N2", "-n4", "--vm-scope=slot"]),
        (2, ["-N1", "-n2", "--vm-scope=slot"]),
    ] {
        let words = ["python3", "halo.py", "openmpi"];
        let told = cluster.run_in(&dir, &[&srun[..], &step, &words].concat()).ok();
        assert_eq!(told, format!("{ranks} {sum}\n").repeat(ranks), "{step:?}");
    }
    // Nothing of it is left on the nodes.
    cluster.nothing_is_left().unwrap();
    let left = cluster.run_as_root(&["find", cluster.slurm_dir().join("tmp").to_str().unwrap(), "-mindepth", "2"]);
    assert_eq!(left.ok(), "");
}
