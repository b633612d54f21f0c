//! The node's daemons and journal.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("the_journal_tells_of_each_vm_which_image_and_how_long", journal).once(),
    case("journalctl_finds_a_job_s_lines_by_its_number", journal_by_job),
    case("a_restart_of_slurmd_lets_vms_run_on", restarted),
    case("who_may_not_open_dev_kvm_is_told_so_in_one_line", no_right),
    case("a_processor_that_qemu_does_not_know_is_the_site_s_mistake", wrong_processor).once(),
    case("a_killed_slurmstepd_takes_its_vm_along", killed_slurmstepd),
];

fn journal(lab: &Lab) {
    let job = job_of_a_step(lab);
    let found = lab.root(&format!(
        "journalctl -t spank-vm -o cat --output-fields=MESSAGE,F_IMAGE,F_PHASES -o json _UID=$(id -u ada) --no-pager | grep job_{job}/ || \
         journalctl -t spank-vm -o json -n1 --no-pager _UID=$(id -u ada)"
    ));
    for word in ["vm ended", "tiny", "teardown="] {
        assert!(found.contains(word), "'{word}' is not in: {found}");
    }
}

/// Runs a VM step and returns its job's number.
fn job_of_a_step(lab: &Lab) -> String {
    lab.sh("ada", "srun --mem=500 --vm-image=tiny sh -c 'echo $SLURM_JOB_ID'").ok().trim().to_owned()
}

fn journal_by_job(lab: &Lab) {
    let job = job_of_a_step(lab);
    let found = lab.root(&format!("journalctl -o cat --no-pager SLURM_JOB_ID={job}"));
    assert!(found.contains("vm ended"), "{found}");
}

fn restarted(lab: &Lab) {
    let script = "rm -f started go ended
        sbatch -Q --mem=500 --vm-image=tiny -o /dev/null --wrap ': > started; until [ -e go ]; do sleep 0.2; done; : > ended'";
    lab.sh("ada", script).ok();
    lab.wait_until("the job runs", "[ -e /home/ada/started ]");
    let before = lab.root("pgrep qemu-system");
    lab.root("systemctl restart slurmd");
    lab.wait_until("slurmd is back", "scontrol ping && systemctl is-active slurmd && sinfo -h -o %T | grep -v '[*~]'");
    assert_eq!(lab.root("pgrep qemu-system"), before);
    lab.root("touch /home/ada/go");
    lab.wait_until("the job ended by itself", "[ -e /home/ada/ended ] && [ -z \"$(squeue -h)\" ]");
}

fn no_right(lab: &Lab) {
    let step = lab.sh("bob", "srun --mem=500 --vm-image=tiny true");
    // No other node would let him, so the job must not be tried again elsewhere.
    assert_eq!(step.code, 125, "{step:?}");
    step.fails_saying(&["you may not use /dev/kvm on node1 (mode 0660, group kvm)"]);
}

fn wrong_processor(lab: &Lab) {
    // Without Slurm, whose Prolog would drain the node before the step.
    let script = r#"
        sed '1i cpu_model = "EPIC-Rome"' /etc/slurm/spank-vm.toml >wrong.toml
        spank-vm --config wrong.toml run --image tiny -- true; echo "code $?"; spank-vm --config wrong.toml check --node"#;
    let ended = lab.sh("ada", script);
    let line = "cpu_model = 'EPIC-Rome', and QEMU says: unable to find CPU model 'EPIC-Rome'";
    assert!(ended.code == 1 && ended.stdout.starts_with("code 75\n") && ended.stdout.contains(line), "{ended:?}");
    ended.fails_saying(&["this node (node1) cannot run VMs", line]);
}

fn killed_slurmstepd(lab: &Lab) {
    lab.sh(
        "ada",
        "rm -f started; sbatch -Q --no-requeue --mem=500 --vm-image=tiny -o /dev/null --wrap ': > started; sleep 600'",
    )
    .ok();
    lab.wait_until("the job runs", "[ -e /home/ada/started ]");
    // The slurmstepd that has a task; 24.11 has another one without a task.
    lab.root("pid=$(pgrep -o qemu-system); while [ $(cat /proc/$pid/comm) != slurmstepd ]; do pid=$(awk '/^PPid:/ { print $2 }' /proc/$pid/status); done; kill -9 $pid");
    lab.wait_until("the VM is gone", "! pgrep qemu-system");
    lab.wait_until("the job is gone", "scancel -u ada; [ -z \"$(squeue -h)\" ]");
}
