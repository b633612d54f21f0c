//! Several VMs: over tasks and nodes, overloaded into one slot, beside bare-metal jobs.

use std::fs;
use std::process::Stdio;

use testkit::wait::{wait_for, wait_for_file};
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_vm_that_fails_is_told_with_its_number_while_the_others_run", told_at_once),
    ("four_tasks_on_two_nodes_are_four_vms_with_their_own_ranks", four_tasks),
    ("an_overloaded_slot_runs_three_vms_and_the_highest_exit_code_wins", overloaded),
    ("vms_of_a_slot_that_wait_for_each_other_all_run_although_few_come_up_at_a_time", in_turns),
    ("lines_of_the_vms_of_a_slot_are_never_mixed", whole_lines),
    ("stdin_reaches_every_vm_of_a_slot", shared_stdin),
    ("a_bare_metal_job_runs_beside_a_vm_job_on_the_same_node", side_by_side),
    ("a_bare_metal_job_is_not_touched_by_the_plugin", bare),
    ("memory_and_processors_of_the_guest_follow_the_allocation", size),
];

fn told_at_once(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "[ $SLURM_VM_INDEX = 0 ] || echo c > /proc/sysrq-trigger; while [ ! -e go-on ]; do sleep 0.05; done";
    let step = format!("exec srun -Q --mem=1200 --vm-image=tiny --vm-root --vms-per-slot=2 sh -c '{script}' 2> err");
    let mut running = cluster.command_in(&dir, &["sh", "-c", &step]).spawn().unwrap();
    let told =
        || fs::read_to_string(dir.join("err")).ok().filter(|text| text.contains("VM 1 of 0 to 1: image 'tiny' on "));
    wait_for("the line about VM 1", told);
    assert!(running.try_wait().unwrap().is_none(), "the other one still runs");
    fs::write(dir.join("go-on"), "").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(125));
    assert_eq!(told().unwrap().matches("image 'tiny'").count(), 1, "once");
}

fn four_tasks(cluster: &Cluster) {
    let script = "echo $SLURM_PROCID $SLURMD_NODENAME $(hostname)";
    let stdout = cluster.srun(&["--vm-image=tiny", "-n4", "-N2", "--mem=1200", "sh", "-c", script]).ok();
    let mut lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split(' ').collect()).collect();
    lines.sort();
    let ranks: Vec<&str> = lines.iter().map(|words| words[0]).collect();
    assert_eq!(ranks, ["0", "1", "2", "3"], "{stdout}");
    let nodes: std::collections::BTreeSet<&str> = lines.iter().map(|words| words[1]).collect();
    assert_eq!(nodes.len(), 2, "{stdout}");
    let hosts: std::collections::BTreeSet<&str> = lines.iter().map(|words| words[2]).collect();
    assert_eq!(hosts.len(), 4, "{stdout}");
}

fn overloaded(cluster: &Cluster) {
    let script = "echo $SLURM_VM_INDEX of $SLURM_VMS_PER_SLOT; exit $((SLURM_VM_INDEX * 10))";
    let ran = cluster.srun(&["--vm-image=tiny", "--vms-per-slot=3", "--mem=1200", "sh", "-c", script]);
    assert_eq!(ran.code, 20, "{ran:?}");
    let mut lines: Vec<&str> = ran.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0 of 3", "1 of 3", "2 of 3"]);
}

fn in_turns(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "echo > up-$SLURM_VM_INDEX; while [ ! -e up-0 ] || [ ! -e up-5 ]; do sleep 0.05; done; echo all";
    let step = ["srun", "-Q", "-c1", "--mem=2048", "--vm-image=tiny", "--vms-per-slot=6", "sh", "-c", script];
    assert_eq!(cluster.run_in(&dir, &step).ok(), "all\n".repeat(6));
}

fn whole_lines(cluster: &Cluster) {
    let script = "for i in 1 2 3 4 5 6 7 8 9; do printf \"vm$SLURM_VM_INDEX \"; sleep 0.05; echo end; done";
    let stdout = cluster.srun(&["--vm-image=tiny", "--vms-per-slot=2", "--mem=900", "sh", "-c", script]).ok();
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [["vm0 end"; 9], ["vm1 end"; 9]].concat());
}

fn shared_stdin(cluster: &Cluster) {
    let command = "echo shared | srun --vm-image=tiny --vms-per-slot=2 --mem=900 cat";
    assert_eq!(cluster.run(&["sh", "-c", command]).ok(), "shared\nshared\n");
}

fn side_by_side(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "echo > in-vm; while [ ! -e bare-done ]; do sleep 0.1; done; echo $SLURMD_NODENAME";
    let node = &cluster.nodes()[0];
    let vm_step = ["srun", "-w", node, "-n1", "--mem=600", "--vm-image=tiny", "sh", "-c", script];
    let vm = cluster.command_in(&dir, &vm_step).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("in-vm"));
    let bare_step = ["srun", "-w", node, "-n1", "--mem=600", "sh", "-c", "uname -r; echo $SLURMD_NODENAME"];
    let bare = cluster.run_in(&dir, &bare_step).ok();
    std::fs::write(dir.join("bare-done"), "").unwrap();
    let host_kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(bare, format!("{host_kernel}{node}\n"));
    assert_eq!(ran(vm.wait_with_output().unwrap()).ok(), format!("{node}\n"));
}

fn bare(cluster: &Cluster) {
    let stdout = cluster.srun(&["env"]).ok();
    let names = stdout.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.to_lowercase());
    let touched: Vec<String> = names.filter(|name| name.contains("spank") || name.contains("vm")).collect();
    assert!(touched.is_empty(), "{touched:?}");
}

fn size(cluster: &Cluster) {
    let script = "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";
    let stdout = cluster.srun(&["--vm-image=tiny", "-n1", "-c2", "--mem=1024", "sh", "-c", script]).ok();
    let numbers: Vec<u64> = stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers[0], 2);
    // 1024 MiB less QEMU's 128 and 5 for tables, less what the guest's kernel keeps for itself.
    assert!((750..=891).contains(&numbers[1]), "{numbers:?}");
}
