//! What is left of a network if somebody dies while it is made, or before the VM that is to use it runs; and what is said if it
//! cannot be made.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::place::repository;
use testkit::random::Random;
use testkit::undo::afterwards;
use testkit::wait::wait_for;
use testkit::{Cluster, process, system};

use crate::Case;
use crate::faults::{Running, SLURMSTEPD, links, no_taps, nothing_is_left, plays, slurmd_of, taps, with_maker};

pub const CASES: &[Case] = &[
    ("programs_that_make_a_network_and_are_killed_at_the_same_step_leave_nothing", |cluster| {
        maker_killed(cluster, ALL, &[2, 6, 10]);
    }),
    ("whoever_is_killed_before_the_vm_is_up_leaves_no_network", |cluster| killed_early(cluster, &[RUNNER, QEMU])),
    ("a_kernel_without_a_kind_of_device_or_of_table_is_named_with_what_brings_it", no_module),
    ("a_port_of_the_tunnel_that_another_program_has_is_named_with_the_setting", port_taken),
];

pub const LONG_CASES: &[Case] = &[
    ("a_program_that_makes_a_network_and_is_killed_at_any_of_its_steps_leaves_nothing", |cluster| {
        let all: Vec<u32> = (1..MOST_STEPS).collect();
        maker_killed(cluster, FIRST, &all);
    }),
    ("a_slurmstepd_that_is_killed_at_every_third_step_of_the_real_program_leaves_nothing", |cluster| {
        slurmstepd_killed(cluster, &[1, 4, 7, 10]);
    }),
    ("whoever_is_killed_at_many_moments_before_the_vm_is_up_leaves_no_network", |cluster| {
        killed_early(cluster, &[RUNNER, QEMU, SLURMSTEPD].repeat(8));
    }),
];

const RUNNER: &str = "spank-vm-step";
const QEMU: &str = "qemu-system";

/// The nodes whose program dies, by its words.
const ALL: &str = "--node=";
const FIRST: &str = "--node=0";

/// More steps than the program takes: it asks for addresses twice, and makes and hands over.
const MOST_STEPS: u32 = 40;

/// A VM on each of two nodes.
const STEP: [&str; 6] = ["-Q", "-N2", "-n2", "--mem=600", "--vm-image=tiny", "--vm-net=job"];

/// The library that makes a moment of one of the program's steps.
fn moment(cluster: &Cluster) -> PathBuf {
    let library = cluster.dir.join("moment.so");
    let source = repository().join("tests/network/moment.c");
    system(&["cc", "-shared", "-fPIC", "-O1", "-o", library.to_str().unwrap(), source.to_str().unwrap(), "-ldl"]);
    library
}

/// Runs `work` while the programs that make a step's network on these nodes have these variables.
fn at_moment(cluster: &Cluster, library: &Path, nodes: &str, variables: &str, work: impl FnOnce()) {
    let script = format!("case \"$*\" in *{nodes}*) export LD_PRELOAD={} {variables};; esac", library.display());
    with_maker(cluster, &script, work);
}

/// Nothing of a network is on any node, and no program of the step's start.
fn no_network(cluster: &Cluster) {
    no_taps(cluster);
    assert_eq!(links(cluster), Vec::<String>::new());
    let makes = |pid: &i32| {
        process::words(*pid).iter().any(|word| word == "step-network") && process::belongs_to(*pid, &cluster.dir)
    };
    wait_for("the end of the programs that make networks", || process::all().find(makes).is_none().then_some(()));
}

/// A step that has no network, because the program on these nodes has failed with these words; `false` if it has one.
fn fails(cluster: &Cluster, nodes: &str, words: &[&str]) -> bool {
    let ran = cluster.srun(&[&STEP[..], &["sh", "-c", "echo ran on $SLURM_NODEID"]].concat());
    if ran.code == 0 {
        return false;
    }
    assert!(ran.code == 75 && !ran.stdout.contains("on 0"), "{ran:?}");
    let is_ours = |line: &&str| line.contains(": error: vm: ");
    let told: Vec<&str> = ran.stderr.lines().filter(is_ours).collect();
    assert_eq!(told.len(), if nodes == ALL { 2 } else { 1 }, "{ran:?}");
    assert!(told.iter().all(|line| words.iter().all(|word| line.contains(word))), "{ran:?}");
    true
}

/// Kills the program of these nodes at these of its steps, as far as it takes so many.
fn maker_killed(cluster: &Cluster, nodes: &str, steps: &[u32]) {
    let library = moment(cluster);
    let mut deaths = 0;
    for step in steps {
        let mut has_failed = false;
        at_moment(cluster, &library, nodes, &format!("MOMENT={step} WHO=self"), || {
            has_failed = fails(cluster, nodes, &["--vm-net=job: the program that makes it has failed"]);
        });
        no_network(cluster);
        if !has_failed {
            break;
        }
        deaths += 1;
    }
    println!("killed at {deaths} steps");
    assert!(deaths >= 3);
    nothing_is_left(cluster);
}

/// Kills the slurmstepd of the first node when its program is at these steps. Slurm itself waits long for it, until the job is cancelled.
fn slurmstepd_killed(cluster: &Cluster, steps: &[u32]) {
    let library = moment(cluster);
    for step in steps {
        let dir = cluster.work_dir();
        at_moment(cluster, &library, FIRST, &format!("MOMENT={step} WHO=parent"), || {
            let mut running = Running::new(cluster, &dir, &[&["srun"], &STEP[..], &["sleep", "600"]].concat());
            // The other node's part is made in any case.
            wait_for("the network of a node", || (taps(cluster) > 0).then_some(()));
            running.cancel();
            no_network(cluster);
            running.hurry();
            running.wait();
        });
        wait_for("idle nodes", || cluster.nothing_is_left().ok());
    }
    nothing_is_left(cluster);
}

/// Kills each of these as soon as there is one, or a little later.
fn killed_early(cluster: &Cluster, names: &[&str]) {
    let mut random = Random::seeded();
    let mut early = 0;
    for &name in names {
        let dir = cluster.work_dir();
        let script = ["sh", "-c", "touch up.$SLURM_PROCID; sleep 600"];
        let mut running = Running::new(cluster, &dir, &[&["srun", "-K1"], &STEP[..], &script].concat());
        let are_up = || dir.join("up.0").exists() && dir.join("up.1").exists();
        let victim = wait_for(name, || {
            let found = process::all().find(|pid| plays(cluster, *pid, name))?;
            std::thread::sleep(Duration::from_millis(random.below(150)));
            // A QEMU that makes a template ends by itself.
            process::is_there(found).then_some(found)
        });
        early += usize::from(!are_up());
        process::signal(victim, libc::SIGKILL);
        // A clone that dies before its task runs is started once more, from its image.
        let goes_on = wait_for("the step's end, or its VMs", || {
            (name == SLURMSTEPD || are_up() || !running.is_there()).then(|| running.is_there())
        });
        if goes_on {
            running.cancel();
            no_network(cluster);
            running.hurry();
        }
        running.wait();
        no_network(cluster);
        wait_for("idle nodes", || cluster.nothing_is_left().ok());
    }
    assert!(early * 2 > names.len(), "only {early} of {} deaths were before all VMs were up", names.len());
    nothing_is_left(cluster);
}

/// The kernel of this machine has all of them, so its answer is another's.
fn no_module(cluster: &Cluster) {
    let library = moment(cluster);
    for (kind, words) in [
        ("filter", ["cannot keep others out of a network across nodes", "Linux 5.12", "not supported"]),
        ("bridge", ["a bridge cannot be made", "'modprobe bridge' loads", "not supported"]),
        ("vxlan", ["a tunnel cannot be made", "'modprobe vxlan' loads", "not supported"]),
    ] {
        at_moment(cluster, &library, ALL, &format!("REFUSE={kind}"), || assert!(fails(cluster, ALL, &words)));
        no_network(cluster);
    }
}

/// Takes the tunnel's port, and says so.
const TAKES_PORT: &str = "import socket, sys, time\n\
                          taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                          taken.bind(('0.0.0.0', 4789))\n\
                          print('x', end='', flush=True)\n\
                          time.sleep(600)";

/// On the first of the nodes.
fn port_taken(cluster: &Cluster) {
    let network = format!("--net=/proc/{}/ns/net", slurmd_of(cluster, &cluster.nodes()[0]));
    let mut other = Command::new("nsenter");
    other.arg(network).args(["python3", "-c", TAKES_PORT]).stdout(Stdio::piped());
    let mut other = other.spawn().unwrap();
    let mut has_it = [0; 1];
    other.stdout.take().unwrap().read_exact(&mut has_it).unwrap();
    let _ended = afterwards(move || {
        other.kill().unwrap();
        other.wait().unwrap();
    });
    assert!(fails(cluster, FIRST, &["another program on this node has UDP port 4789", "'job_network_port'"]));
    no_network(cluster);
}
