//! A guest whose root forges frames, while another user's step has a network on the same nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::place::repository;
use testkit::wait::{wait_for, wait_for_file};
use testkit::{Cluster, ran, system};

use crate::Case;
use crate::faults::slurmd_of;

pub const CASES: &[Case] =
    &[("frames_and_packets_that_a_guest_forges_reach_no_other_user_s_step_which_goes_on", forged)];

/// Any other account of this machine.
const STRANGER: &str = "nobody";

/// Its task listens and reaches the other one all the time; what is lost is said. Nobody leaves before both have ended.
const VICTIM: &str = "n=0; until ping -c1 -W1 rank$((1 - SLURM_PROCID)) >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 90 ] || exit 3; done; \
     ./forger hear $SLURM_PROCID & echo $SLURM_JOB_ID $SLURM_STEP_ID >step.$SLURM_PROCID; \
     until [ -e begin ]; do sleep 0.1; done; touch began.$SLURM_PROCID; \
     until [ -e stop ]; do ping -c1 -W3 rank$((1 - SLURM_PROCID)) >/dev/null || echo lost; sleep 0.1; done; \
     wait; touch end.$SLURM_PROCID; until [ -e end.0 ] && [ -e end.1 ]; do sleep 0.1; done; echo fine";

/// The second task is told of what the first one sends.
const FORGER: &str = "n=0; until ping -c1 -W1 rank$((1 - SLURM_PROCID)) >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 90 ] || exit 3; done; \
     if [ $SLURM_PROCID = 0 ]; then until [ -e heard.1 ]; do sleep 0.1; done; ./forger frames $JOB || exit 4; sleep 1; touch stop; \
     else ./forger hear 1; fi";

/// A directory of `user`'s with the program.
fn place(cluster: &Cluster, user: &str) -> PathBuf {
    let dir = cluster.work_dir();
    let source = repository().join("tests/network/forger.c");
    system(&["cc", "-O1", "-static", "-o", dir.join("forger").to_str().unwrap(), source.to_str().unwrap()]);
    system(&["chown", user, dir.to_str().unwrap()]);
    dir
}

/// Forged frames that a task has heard of.
fn heard(dir: &Path, rank: u32) -> u32 {
    fs::read_to_string(dir.join(format!("heard.{rank}"))).unwrap().trim().parse().unwrap()
}

fn forged(cluster: &Cluster) {
    let node = cluster.nodes().remove(0);
    let nodes = cluster.nodes()[..2].join(",");
    let step = ["srun", "-Q", "--mem=600", "--vm-image=tiny", "--vm-root"];
    let both = [&step[..], &["-w", &nodes, "-N2", "-n2", "-c1", "--vm-net=job", "sh", "-c"]].concat();
    let [dir, others] = [cluster.user.as_str(), STRANGER].map(|user| place(cluster, user));
    let mut victim = cluster.command_in(&dir, &[&both[..], &[VICTIM]].concat());
    let victim = victim.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    for name in ["heard.0", "heard.1", "step.0"] {
        wait_for_file(&dir.join(name));
    }
    fs::write(dir.join("begin"), "").unwrap();
    for name in ["began.0", "began.1"] {
        wait_for_file(&dir.join(name));
    }
    let number = fs::read_to_string(dir.join("step.0")).unwrap().trim().to_owned();

    // In its own network the frames are heard, so they were sent.
    let stranger = |line: &[&str]| ran(cluster.command_as(STRANGER, &others, line).output().unwrap());
    let frames = FORGER.replace("$JOB", &number);
    let sent = stranger(&[&both[..], &[&frames]].concat());
    assert!(sent.code == 0 && heard(&others, 1) > 0, "{sent:?}");
    // Through QEMU as that user, to both nodes.
    let packets = format!("./forger packets {number} 0 10.99.0.1 10.99.0.2");
    let sent = stranger(&[&step[..], &["-w", &node, "-N1", "-n1", "--vm-net=user", "sh", "-c", &packets]].concat());
    assert_eq!(sent.code, 0, "{sent:?}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!([heard(&dir, 0), heard(&dir, 1)], [0, 0]);

    // The same packet from root of the first node is the tunnel's: so nothing was wrong with it.
    let network = format!("--net=/proc/{}/ns/net", slurmd_of(cluster, &node));
    let words: Vec<&str> = number.split(' ').collect();
    let mut root = Command::new("nsenter");
    root.arg(network).arg(dir.join("forger")).arg("packets").args(words).args(["600", "10.99.0.2"]);
    assert!(root.status().unwrap().success());
    wait_for("what root has sent", || (heard(&dir, 1) > 0).then_some(()));
    assert_eq!(heard(&dir, 0), 0);
    fs::write(dir.join("stop"), "").unwrap();
    let ended = ran(victim.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "fine\nfine\n"), "{ended:?}");
}
