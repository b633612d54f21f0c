//! `spank-vm run`, outside of Slurm, killed at any moment of its start: nobody but the kernel ends what it has started then.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use testkit::Cluster;
use testkit::process::{all, parent, words};
use testkit::random::Random;
use testkit::undo::afterwards;
use testkit::wait::wait_for;

use crate::{Fault, Saw};

pub const FAULTS: &[Fault] = &[Fault {
    area: "node",
    name: "`spank-vm run` is killed at 40 random moments of its start, with one VM and with four",
    tries: 1,
    run: forty_times,
}];

pub const LONG_FAULTS: &[Fault] = &[Fault {
    area: "load",
    name: "`spank-vm run` is killed at 400 random moments of its start, with one VM and with four",
    tries: 1,
    run: four_hundred_times,
}];

fn forty_times(cluster: &Cluster) -> Saw {
    killed(cluster, 40)
}

fn four_hundred_times(cluster: &Cluster) -> Saw {
    killed(cluster, 400)
}

/// What a killed runner leaves becomes this process's child, so that nothing is missed, whatever it is.
fn killed(cluster: &Cluster, times: u64) -> Saw {
    set_child_subreaper(true).unwrap();
    let _as_before = afterwards(|| set_child_subreaper(false).unwrap());
    let mut random = Random::seeded();
    let (mut since, mut before_the_end) = (Instant::now(), 0);
    for number in 0..times {
        let vms = if number % 4 == 3 { "4" } else { "1" };
        let mut runner = run(cluster, vms).spawn().unwrap();
        // A clone of the first kind needs some 300 ms for all that on an idle machine.
        std::thread::sleep(Duration::from_millis(random.below(600)));
        before_the_end += u64::from(runner.try_wait().unwrap().is_none());
        since = Instant::now();
        // Slurm's daemons are none of its children.
        let _ = runner.kill();
        runner.wait().unwrap();
        wait_for("the end of all that a killed runner has started", || adopted().is_empty().then_some(()));
    }
    assert!(
        before_the_end * 2 > times,
        "most runners ended before they were killed: {before_the_end} of {times} did not"
    );
    Saw { since, text: "nothing of a runner lives on".to_owned() }
}

/// The runner itself, as the user: no program is between it and this process.
fn run(cluster: &Cluster, vms: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &cluster.user, "--regid", &cluster.user, "--init-groups"]).arg(cluster.program());
    command.arg("--config").arg(cluster.config_file()).args([
        "run",
        "--image=tiny",
        "--vms-per-slot",
        vms,
        "sleep",
        "0.3",
    ]);
    let said = File::create(cluster.dir.join("killed.log")).unwrap();
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
    command
}

/// What is left of a runner and has not ended, after those that have are taken away.
fn adopted() -> Vec<String> {
    let own = std::process::id() as i32;
    let children = all().filter(|&pid| parent(pid) == Some(own));
    let lives = |pid: &i32| {
        let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        fs::exists(format!("/proc/{pid}")).unwrap_or(true)
    };
    children.filter(lives).map(|pid| format!("{pid}: {}", words(pid).join(" "))).collect()
}
