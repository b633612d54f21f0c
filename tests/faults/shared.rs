//! What breaks when the tasks of a node share a VM: one of them, the process that keeps the VM, or the VM.

use std::time::Instant;

use testkit::process::{all, belongs_to, is_there, parent, signal, words};
use testkit::wait::{wait_for, wait_for_file};
use testkit::{Cluster, process};

use crate::hosts::remove_cgroups;
use crate::step::{Shown, Step, UNTIL_TOLD, node};
use crate::{Fault, Saw};

const fn shared(name: &'static str, tries: u32, run: fn(&Cluster) -> Saw) -> Fault {
    Fault { area: "shared VM", name, tries, run }
}

pub const FAULTS: &[Fault] = &[
    shared("the runner of the task that founded the VM is killed", 2, founder_killed),
    shared("the runner of another task is killed", 2, other_killed),
    shared("the keeper of the VM is killed", 2, keeper_killed),
    shared("QEMU of a shared VM is killed", 1, qemu_killed),
    shared("slurmstepd of a shared VM is killed", 1, slurmstepd_killed),
    shared("the runner of one task is stopped while it writes", 1, runner_stopped),
    shared("the keeper is stopped and the step is cancelled", 1, keeper_stopped),
];

/// Two tasks of a node in one VM, and their processes.
struct Pair {
    step: Step,
    keeper: i32,
    founder: i32,
    other: i32,
}

impl Pair {
    fn running(cluster: &Cluster, script: &str) -> Self {
        let script = format!("echo > running$SLURM_PROCID; {script}");
        let options = ["--vm-scope=node", "-N1", "-n2", "--mem=900", "--kill-on-bad-exit=0"];
        let step = Step::running(cluster, &options, &script);
        wait_for_file(&step.dir.join("running0"));
        wait_for_file(&step.dir.join("running1"));
        let is_keeper = |pid: &i32| words(*pid).first().is_some_and(|word| word == "spank-vm-keeper");
        // Not that of another cluster of this machine.
        let keeper = wait_for("the keeper", || all().find(|pid| is_keeper(pid) && belongs_to(*pid, &cluster.dir)));
        let founder = parent(keeper).unwrap();
        let stepd = parent(founder).unwrap();
        let other = wait_for("the other task", || {
            all().find(|pid| parent(*pid) == Some(stepd) && *pid != founder && process::is_named(*pid, "spank-vm"))
        });
        Self { step, keeper, founder, other }
    }

    fn qemu(&self) -> i32 {
        wait_for("QEMU", || all().find(|pid| parent(*pid) == Some(self.keeper) && process::is_vm(*pid)))
    }

    fn gone(pid: i32) {
        wait_for("its end", || (!is_there(pid)).then_some(()));
    }
}

fn one_is_killed(cluster: &Cluster, which: fn(&Pair) -> i32) -> Saw {
    let pair = Pair::running(cluster, &format!("{UNTIL_TOLD} sleep 0.5; echo went on"));
    let since = signal(which(&pair), libc::SIGKILL);
    Pair::gone(which(&pair));
    assert!(is_there(pair.keeper));
    pair.step.tell();
    let ended = pair.step.end();
    assert_eq!(ended.stdout, "went on\n", "{ended:?}");
    ended.saw(since, 137, &["Killed", "went on"])
}

fn founder_killed(cluster: &Cluster) -> Saw {
    one_is_killed(cluster, |pair| pair.founder)
}

fn other_killed(cluster: &Cluster) -> Saw {
    one_is_killed(cluster, |pair| pair.other)
}

fn keeper_killed(cluster: &Cluster) -> Saw {
    let pair = Pair::running(cluster, "sleep 1000");
    let since = signal(pair.keeper, libc::SIGKILL);
    let ended = pair.step.end();
    let told = ended.stderr.matches("the process that keeps the VM of this node's tasks has ended").count();
    assert_eq!(told, 2, "{ended:?}");
    ended.saw(since, 125, &["vm: error: image 'tiny' on "])
}

fn qemu_killed(cluster: &Cluster) -> Saw {
    let pair = Pair::running(cluster, "sleep 1000");
    let since = signal(pair.qemu(), libc::SIGKILL);
    let ended = pair.step.end();
    assert_eq!(ended.stderr.matches("QEMU was killed (signal 9)").count(), 2, "{ended:?}");
    ended.saw(since, 125, &["vm: error: image 'tiny' on "])
}

fn slurmstepd_killed(cluster: &Cluster) -> Saw {
    let pair = Pair::running(cluster, "sleep 1000");
    let qemu = pair.qemu();
    let since = signal(parent(pair.founder).unwrap(), libc::SIGKILL);
    [pair.founder, pair.other, pair.keeper, qemu].into_iter().for_each(Pair::gone);
    let ended = pair.step.cancel(cluster);
    remove_cgroups(&node(cluster));
    let code = ended.code;
    ended.saw(since, code, &[])
}

fn runner_stopped(cluster: &Cluster) -> Saw {
    let script = format!("if [ $SLURM_PROCID = 1 ]; then {UNTIL_TOLD} echo fine > fine; else yes > /dev/stderr; fi");
    let pair = Pair::running(cluster, &format!("exec 2> /dev/null; {script}; sleep 1000"));
    let since = Instant::now();
    signal(pair.founder, libc::SIGSTOP);
    pair.step.tell();
    wait_for_file(&pair.step.dir.join("fine"));
    signal(pair.founder, libc::SIGCONT);
    let ended = pair.step.cancel(cluster);
    let code = ended.code;
    ended.saw(since, code, &["CANCELLED"])
}

fn keeper_stopped(cluster: &Cluster) -> Saw {
    let pair = Pair::running(cluster, "sleep 1000");
    let since = signal(pair.keeper, libc::SIGSTOP);
    let keeper = pair.keeper;
    let ended = pair.step.cancel(cluster);
    Pair::gone(keeper);
    let code = ended.code;
    ended.saw(since, code, &["CANCELLED"])
}
