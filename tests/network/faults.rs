//! What is left of a network when somebody dies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

use testkit::undo::afterwards;
use testkit::wait::{wait_for, wait_for_file};
use testkit::{Cluster, process};

use crate::Case;

pub const CASES: &[Case] = &[
    ("nothing_is_left_of_a_network_whose_qemu_is_killed", |cluster| killed(cluster, "qemu-system", SLOT)),
    ("nothing_is_left_of_a_network_whose_runner_is_killed", |cluster| killed(cluster, "spank-vm-step", SLOT)),
    ("nothing_is_left_of_a_network_whose_slurmstepd_is_killed", |cluster| killed(cluster, SLURMSTEPD, SLOT)),
    ("nothing_is_left_of_a_network_of_whole_nodes_whose_keeper_is_killed", |cluster| {
        killed(cluster, "spank-vm-keeper", NODE);
    }),
    ("nothing_is_left_of_a_network_of_whole_nodes_whose_slurmstepd_is_killed", |cluster| {
        killed(cluster, SLURMSTEPD, NODE);
    }),
    ("a_network_outlives_slurmd_and_nothing_is_left_of_it_then", slurmd),
    ("a_program_that_makes_networks_and_dies_fails_its_step", maker),
    ("a_step_that_is_cancelled_while_only_some_nodes_have_its_network_leaves_nothing", |cluster| {
        while_it_is_made(cluster, |_| ());
    }),
    ("a_slurmstepd_that_is_killed_while_its_network_is_made_leaves_nothing", |cluster| {
        while_it_is_made(cluster, |slurmstepd| {
            process::signal(slurmstepd, libc::SIGKILL);
        });
    }),
    ("a_slurmd_that_is_killed_while_a_network_is_made_leaves_nothing", |cluster| {
        while_it_is_made(cluster, |_| cluster.restart(&cluster.nodes()[1]));
    }),
    ("a_node_that_is_lost_takes_the_step_s_network_of_the_others_with_it", node_lost),
];

pub(crate) const SLURMSTEPD: &str = "slurmstepd";

/// A VM for each of two tasks, or for each two of four.
const SLOT: &[&str] = &["-n2", "--vm-scope=slot"];
const NODE: &[&str] = &["-n4", "--vm-scope=node"];

/// A step, which ends with this value at the latest.
pub(crate) struct Running<'a> {
    cluster: &'a Cluster,
    srun: Child,
}

impl<'a> Running<'a> {
    pub(crate) fn new(cluster: &'a Cluster, dir: &Path, srun: &[&str]) -> Self {
        Self { cluster, srun: cluster.command_in(dir, srun).spawn().unwrap() }
    }

    pub(crate) fn is_there(&mut self) -> bool {
        self.srun.try_wait().unwrap().is_none()
    }

    pub(crate) fn cancel(&self) {
        self.cluster.run_as_root(&["scancel", "--user", &self.cluster.user]);
    }

    /// Asks srun to end: Slurm itself waits long for a slurmstepd that is gone.
    pub(crate) fn hurry(&mut self) {
        // It may have ended by itself. Until it is waited for, its number is nobody else's.
        if self.is_there() {
            process::signal(self.srun.id() as i32, libc::SIGTERM);
        }
    }

    pub(crate) fn wait(&mut self) {
        wait_for("the end of the step", || self.srun.try_wait().unwrap());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.is_there() {
            self.cancel();
            self.hurry();
            let _ = self.srun.wait();
        }
    }
}

/// A step over two nodes that is up.
fn step<'a>(cluster: &'a Cluster, dir: &Path, tasks: &[&str]) -> Running<'a> {
    let script = "touch up.$SLURM_PROCID; sleep 600";
    let srun = ["srun", "-Q", "-K1", "-N2", "--mem=600", "--vm-image=tiny", "--vm-net=job"];
    let line = [&srun, tasks, &["sh", "-c", script]].concat();
    let step = Running::new(cluster, dir, &line);
    let count = if tasks == NODE { 4 } else { 2 };
    (0..count).for_each(|rank| wait_for_file(&dir.join(format!("up.{rank}"))));
    step
}

/// How many taps of this cluster's VMs are open.
pub(crate) fn taps(cluster: &Cluster) -> usize {
    let holds = |pid: i32| {
        // Other clusters and node VMs of this machine have taps too.
        if !process::belongs_to(pid, &cluster.dir) {
            return 0;
        }
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == Path::new("/dev/net/tun"))).count()
    };
    process::all().map(holds).sum()
}

/// The nodes' daemons.
fn slurmds(cluster: &Cluster) -> Vec<i32> {
    let is_one = |pid: &i32| {
        let words = process::words(*pid);
        let is_slurmd =
            words.iter().any(|word| word == "-N") && words.first().is_some_and(|word| word.contains("slurmd"));
        is_slurmd && words.iter().any(|word| word.contains(cluster.dir.to_str().unwrap()))
    };
    process::all().filter(is_one).collect()
}

/// The daemon of this node.
pub(crate) fn slurmd_of(cluster: &Cluster, node: &str) -> i32 {
    let found = slurmds(cluster).into_iter().find(|pid| process::words(*pid).iter().any(|word| word == node));
    found.unwrap_or_else(|| panic!("no slurmd of {node}"))
}

/// The links of the nodes beside their own.
pub(crate) fn links(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for pid in slurmds(cluster) {
        let links = Command::new("nsenter")
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .args(["ip", "-o", "link"])
            .output()
            .unwrap();
        let links = String::from_utf8_lossy(&links.stdout).into_owned();
        found.extend(
            links.lines().filter(|line| !line.contains(": lo:") && !line.contains(": eth0@")).map(str::to_owned),
        );
    }
    found
}

pub(crate) fn no_taps(cluster: &Cluster) {
    wait_for("the end of all taps", || (taps(cluster) == 0).then_some(()));
}

pub(crate) fn nothing_is_left(cluster: &Cluster) {
    no_taps(cluster);
    assert_eq!(links(cluster), Vec::<String>::new());
    // The next step on these nodes gets a network.
    let script = "ls /sys/class/net/eth0 >/dev/null && echo ok";
    let next = ["-Q", "-N2", "-n2", "--mem=600", "--vm-image=tiny", "--vm-net=job", "sh", "-c", script];
    let ran = cluster.srun(&next);
    assert!(ran.code == 0 && ran.stdout == "ok\nok\n", "{ran:?}");
}

fn killed(cluster: &Cluster, name: &str, tasks: &[&str]) {
    let is_slurmstepd = name == SLURMSTEPD;
    let dir = cluster.work_dir();
    let mut running = step(cluster, &dir, tasks);
    assert!(taps(cluster) > 0);
    let victim = process::all().find(|pid| plays(cluster, *pid, name)).unwrap_or_else(|| panic!("no {name}"));
    process::signal(victim, libc::SIGKILL);
    if is_slurmstepd {
        running.cancel();
        no_taps(cluster);
        running.hurry();
    }
    running.wait();
    nothing_is_left(cluster);
}

/// Whether a process is such a part of a step of this cluster: a slurmstepd, a runner, a QEMU.
pub(crate) fn plays(cluster: &Cluster, pid: i32, name: &str) -> bool {
    let words = process::words(pid);
    let first = words.first().map(String::as_str).unwrap_or_default();
    if name == SLURMSTEPD {
        // "slurmstepd: [3.0]", of this cluster by its files.
        return first.starts_with("slurmstepd: [") && !first.contains("extern") && is_of(pid, &cluster.slurm_dir());
    }
    let is_named = words.iter().any(|word| word.contains(cluster.dir.to_str().unwrap()));
    // A clone's words name no file.
    first.contains(name) && (is_named || process::has_open(pid, &cluster.dir))
}

fn is_of(pid: i32, dir: &Path) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|text| String::from_utf8_lossy(&text).contains(dir.to_str().unwrap()))
}

fn slurmd(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let mut running = step(cluster, &dir, SLOT);
    let nodes = cluster.nodes();
    cluster.restart(&nodes[0]);
    assert!(running.is_there(), "the step goes on");
    running.cancel();
    running.wait();
    wait_for("the node", || cluster.nothing_is_left().ok());
    no_taps(cluster);
}

/// Runs `work` while the hook's call of the program first does something else: `script`, for the shell. The client's own check goes
/// to the real one.
pub(crate) fn with_maker(cluster: &Cluster, script: &str, work: impl FnOnce()) {
    let program = cluster.program();
    let real = program.with_extension("real");
    fs::hard_link(&program, &real).unwrap();
    let _real = afterwards(|| fs::rename(&real, &program).unwrap());
    let text = format!(
        "#!/bin/bash\ncase \"$*\" in *step-network*) {script};; esac\nexec -a \"$0\" {} \"$@\"\n",
        real.display()
    );
    // In one step: there is a program all the time.
    let stand_in = program.with_extension("stand-in");
    fs::write(&stand_in, text).unwrap();
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&stand_in, &program).unwrap();
    work();
}

fn maker(cluster: &Cluster) {
    for script in ["kill -9 $$", "exit 0"] {
        with_maker(cluster, script, || {
            let ran = cluster.srun(&["-Q", "-n1", "--vm-image=tiny", "--vm-net=job", "sh", "-c", "echo ran"]);
            assert!(!ran.stdout.contains("ran"), "{ran:?}");
            ran.fails_with_one_line(&["--vm-net=job: the program that makes it has failed"]);
        });
    }
    nothing_is_left(cluster);
}

/// On the second node, the program takes its time.
const SLOW: &str = "case \"$*\" in *--node=1*) sleep 8;; esac";

/// A step of two nodes of which only the first has its network yet: does `what` to the node that makes it, and ends the step.
fn while_it_is_made(cluster: &Cluster, what: impl FnOnce(i32)) {
    let dir = cluster.work_dir();
    with_maker(cluster, SLOW, || {
        let line = ["srun", "-Q", "-N2", "-n2", "--mem=600", "--vm-image=tiny", "--vm-net=job", "sleep", "600"];
        let mut running = Running::new(cluster, &dir, &line);
        wait_for("the network of the first node", || (taps(cluster) > 0).then_some(()));
        let is_maker = |pid: &i32| {
            let words = process::words(*pid);
            let is_one = words.iter().any(|word| word == "--node=1") && words.iter().any(|word| word == "step-network");
            is_one && process::belongs_to(*pid, &cluster.dir)
        };
        let maker = wait_for("the maker of the second", || process::all().find(is_maker));
        what(process::parent(maker).unwrap());
        running.cancel();
        no_taps(cluster);
        running.hurry();
        running.wait();
        wait_for("the end of the maker", || process::all().find(is_maker).is_none().then_some(()));
    });
    wait_for("idle nodes", || cluster.nothing_is_left().ok());
    nothing_is_left(cluster);
}

/// A node that is lost: everything on it dies at once, and the controller is told.
fn node_lost(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let mut running = step(cluster, &dir, SLOT);
    let node = cluster.nodes()[1].clone();
    let conf = cluster.slurm_dir();
    // By the node's name in its environment.
    let is_there = |pid: &i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let of_node = String::from_utf8_lossy(&environ).contains(&format!("SLURMD_NODENAME={node}\0"));
        of_node && is_of(*pid, &conf)
    };
    let runner = process::all().find(is_there).expect("a runner on the second node");
    let slurmstepd = process::parent(runner).unwrap();
    process::signal(slurmstepd, libc::SIGKILL);
    let resume = || drop(cluster.run_as_root(&["scontrol", "update", &format!("NodeName={node}"), "State=RESUME"]));
    let lost = afterwards(resume);
    cluster.run_as_root(&["scontrol", "update", &format!("NodeName={node}"), "State=DOWN", "Reason=lost"]);
    cluster.restart(&node);
    // The job is ended on the node that is left, by Slurm. srun itself waits longer for what the lost one has to say.
    no_taps(cluster);
    running.hurry();
    running.wait();
    drop(lost);
    wait_for("idle nodes", || cluster.nothing_is_left().ok());
    nothing_is_left(cluster);
}
