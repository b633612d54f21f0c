//! Two node VMs that form one cluster: jobs whose VMs are on both.

use testkit::lab::Lab;
use testkit::undo::afterwards;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("a_step_of_two_nodes_has_a_vm_on_each_and_the_guests_have_nothing_in_common", on_both),
    case("four_tasks_on_two_nodes_share_one_vm_on_each", two_on_each).nightly(),
    case("each_node_s_exit_code_is_reported_and_the_highest_one_is_the_step_s", codes),
    case("a_batch_job_of_two_nodes_starts_vms_on_both_with_srun", batch),
    case("if_the_vm_of_one_node_is_killed_the_other_node_s_command_runs_on", killed),
    case("a_job_whose_second_node_lost_its_kit_is_requeued_that_node_is_drained_and_mended_both_run_it", requeued),
];

/// The VM's node, its names, and its boot.
const WHERE: &str = "echo $SLURMD_NODENAME $SLURM_PROCID $(hostname) $(cat /proc/sys/kernel/random/boot_id)";

/// Lines of [`WHERE`] from both nodes, sorted by node: in each column the words differ.
fn differ(stdout: &str) {
    let mut lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    lines.sort();
    let nodes: Vec<&[&str]> = lines.iter().map(|line| &line[..2]).collect();
    assert_eq!(nodes, [["node1", "0"], ["node2", "1"]], "{stdout}");
    let same: Vec<_> = lines[0].iter().zip(&lines[1]).filter(|(first, second)| first == second).collect();
    assert!(same.is_empty(), "{stdout}");
}

fn on_both(lab: &Lab) {
    differ(&lab.sh("ada", &format!("srun -N2 --mem=500 --vm-image=tiny sh -c '{WHERE}'")).ok());
    // The kernels of the nodes differ too, and neither is the guests'.
    let boots = [1, 2].map(|node| lab.sh_on(node, "root", "cat /proc/sys/kernel/random/boot_id").ok());
    assert_ne!(boots[0], boots[1]);
}

fn two_on_each(lab: &Lab) {
    let step = format!("srun -N2 -n4 --mem=700 --vm-image=tiny --vm-scope=node sh -c '{WHERE}'");
    let stdout = lab.sh("ada", &step).ok();
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort_unstable();
    let hosts: Vec<&str> =
        lines.iter().filter_map(|line| line.split_once(' ')?.1.split_once(' ')).map(|(_, host)| host).collect();
    assert!(hosts.len() == 4 && hosts[0] == hosts[1] && hosts[2] == hosts[3] && hosts[0] != hosts[2], "{stdout}");
}

fn codes(lab: &Lab) {
    let step = lab.sh("ada", "srun -N2 --mem=500 --vm-image=tiny sh -c 'exit $((3 + SLURM_PROCID))'");
    assert_eq!(step.code, 4, "{step:?}");
    for line in ["node1: task 0: Exited with exit code 3", "node2: task 1: Exited with exit code 4"] {
        assert!(step.stderr.contains(line), "'{line}' is not in: {step:?}");
    }
}

fn batch(lab: &Lab) {
    let script = format!(
        "cat >two.sh <<'END'\n#!/bin/bash\nsrun --mem=500 --vm-image=tiny sh -c '{WHERE}'\nEND\n\
         sbatch -QW -N2 --mem=500 -o two.out two.sh; code=$?; cat two.out; exit $code"
    );
    let stdout = lab.sh("ada", &script).ok();
    differ(stdout.strip_prefix("Submitted").map_or(&stdout, |rest| rest.split_once('\n').map_or("", |(_, rest)| rest)));
}

fn killed(lab: &Lab) {
    let command =
        ": > started; [ $SLURM_PROCID = 0 ] || exec sleep 1000; until [ -e go ]; do sleep 0.2; done; echo ended";
    let script = format!(
        "rm -f started go out err code
         {{ srun -N2 --mem=500 --vm-image=tiny sh -c '{command}' >out 2>err; echo $? >code; }} </dev/null >/dev/null 2>&1 &"
    );
    lab.sh_on(2, "ada", "rm -f started").ok();
    lab.sh("ada", &script).ok();
    lab.wait_until("the first node's command runs", "[ -e /home/ada/started ]");
    let kill =
        "for try in $(seq 600); do [ ! -e /home/ada/started ] || break; sleep 0.1; done; pkill -KILL qemu-system";
    lab.sh_on(2, "root", kill).ok();
    lab.wait_until("the second node's task has failed", "grep 'node2: task 1: Exited' /home/ada/err");
    // The command of the first node's VM has noticed nothing.
    assert_eq!(lab.root("pgrep -c qemu-system; ls /home/ada/code 2>/dev/null || true"), "1\n");
    lab.root("touch /home/ada/go");
    lab.wait_until("the step ended", "[ -s /home/ada/code ]");
    assert_eq!(lab.root("cat /home/ada/out /home/ada/code"), "ended\n125\n");
    let told = lab.root("cat /home/ada/err");
    let ours: Vec<&str> = told.lines().filter(|line| line.starts_with("vm: ")).collect();
    assert!(ours.len() == 1 && ours[0].contains("on node2: "), "{told}");
}

/// The Prolog of the second node looks at it when the step comes there, though the job asked for no VM.
fn requeued(lab: &Lab) {
    let kit = "/var/lib/spank-vm/kit";
    lab.sh_on(2, "root", &format!("mv {kit} {kit}-away")).ok();
    let script = format!(
        "rm -f again.out; printf '#!/bin/bash\\nsrun --mem=500 --vm-image=tiny sh -c \"{}\"\\n' >again.sh
         sbatch -Q -N2 --mem=500 --open-mode=append -o again.out again.sh",
        "echo on \\$SLURMD_NODENAME"
    );
    lab.sh("ada", &script).ok();
    {
        let mend = format!("mv {kit}-away {kit}; scontrol update nodename=node2 state=resume || true");
        let _mend = afterwards(|| drop(lab.sh_on(2, "root", &mend).ok()));
        lab.wait_until(
            "the node is drained and the job was put back",
            "scontrol -o show node node2 | grep 'DRAIN.*Reason=spank-vm: .*kit' && \
             scontrol -o show job $(squeue -h -o %i) | grep 'Restarts=[1-9]' && squeue -h -o %T | grep PENDING",
        );
    }
    let told = lab.root("cat /home/ada/again.out; : >/home/ada/again.out");
    assert!(!told.contains("on node2\n"), "{told}");
    lab.wait_for_requeued(
        "the job ran on both",
        "[ -z \"$(squeue -h)\" ] && [ $(grep -c '^on node' /home/ada/again.out) = 2 ]",
    );
    assert_eq!(lab.root("grep '^on node' /home/ada/again.out | sort"), "on node1\non node2\n");
}
