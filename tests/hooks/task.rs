//! A task in slurmstepd: what is executed in its place, and what ends it instead.

use super::stand_in::{ALL_WELL, INIT, Node, Slurm, after};
use std::fs;

#[test]
fn a_bare_metal_job_is_not_touched() {
    let node = Node::new();
    for slurm in [Slurm::Old, Slurm::New] {
        let answer = node.play(slurm, "stepd", &after(INIT, "env A=1\ntask\nhook task_exit\nhook exit\nunload\n"));
        let (_, rest) = answer.split_once("init = 0\n").unwrap();
        assert_eq!(rest, "execve sleep 1\nwith A=1\ntask ended with 0\ntask_exit = 0\nexit = 0\nalive\n");
    }
    assert!(!node.path("state").exists());
}

#[test]
fn the_task_of_a_vm_job_becomes_the_step_program_on_an_old_slurm() {
    let node = Node::new();
    let script = after(INIT, "option vm-image debian12\noption vms-per-slot 4\nset mem 1000\nset tasks 2\ntask\n");
    let answer = node.play(Slurm::Old, "stepd", &script);
    assert_eq!(
        answer,
        after(
            ALL_WELL,
            "option vm-image = 0\noption vms-per-slot = 0\nexecve LIBEXEC/spank-vm-step 1\n\
             with SPANK_VM_REQUEST=vm-image=debian12 vms-per-slot=4 argv0=sleep mem=500 tasks=2 job=7 imagecache=LIBEXEC/copies\n\
             task ended with 0\nalive\n"
        )
    );
}

#[test]
fn the_step_program_is_put_before_the_command_where_slurm_can_do_that() {
    let node = Node::new();
    let answer = node.play(Slurm::New, "stepd", &after(INIT, "option vm-image debian12\ntask\n"));
    assert!(
        answer.ends_with(
            "execve LIBEXEC/spank-vm-step sleep 1\n\
             with SPANK_VM_REQUEST=vm-image=debian12 job=7 imagecache=LIBEXEC/copies\n\
             task ended with 0\nalive\n"
        ),
        "{answer}"
    );
}

#[test]
fn the_command_that_srun_hid_is_put_back() {
    let node = Node::new();
    let hidden =
        after(INIT, "argv spank-vm-step 1\nenv SLURM_SPANK_VM_COMMAND=sleep\noption vm-image debian12\ntask\n");
    let answer = node.play(Slurm::New, "stepd", &hidden);
    assert!(answer.contains("execve LIBEXEC/spank-vm-step sleep 1\nwith SPANK_VM_REQUEST="), "{answer}");
    assert!(!answer.contains("SLURM_SPANK_VM_COMMAND"), "{answer}");
    let answer = node.play(Slurm::Old, "stepd", &hidden);
    assert!(answer.contains("execve LIBEXEC/spank-vm-step 1\nwith SPANK_VM_REQUEST="), "{answer}");
    assert!(answer.contains("argv0=sleep") && !answer.contains("SLURM_SPANK_VM_COMMAND"), "{answer}");
}

#[test]
fn options_lost_by_export_none_are_found_in_the_batch_step() {
    let node = Node::new();
    let script = after(
        INIT,
        "set step 0xfffffffb\nenv SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image=debian12\n\
         env SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vms_per_slot=2\ntask\n",
    );
    let answer = node.play(Slurm::Old, "stepd", &script);
    assert!(answer.contains("execve LIBEXEC/spank-vm-step 1\n"), "{answer}");
    assert!(answer.contains("vm-image=debian12 vms-per-slot=2 argv0=sleep script=1"), "{answer}");
}

#[test]
fn the_marker_word_without_its_variable_fails_closed() {
    let node = Node::new();
    let answer = node.play(Slurm::Old, "stepd", &after(INIT, "argv spank-vm-step 1\noption vm-image debian12\ntask\n"));
    assert!(answer.contains("error: vm: the command of this step was replaced"), "{answer}");
    assert!(answer.ends_with("task ended with 1\nalive\n") && !answer.contains("execve"), "{answer}");
}

#[test]
fn a_failing_vm_task_costs_one_line_and_ends_even_where_slurm_would_go_on() {
    let node = Node::new();
    fs::remove_file(node.path("spank-vm-step")).unwrap();
    let answer = node.play(Slurm::New, "stepd", &after(INIT, "option vm-image debian12\ntask\n"));
    assert!(!answer.contains("execve") && !answer.contains("Failed to invoke"), "{answer}");
    assert_eq!(answer.matches("error: ").count(), 1, "{answer}");
    assert!(answer.contains("cannot run LIBEXEC/spank-vm-step: No such file or directory;"), "{answer}");
}

#[test]
fn bad_option_values_are_taken_down_and_told_by_the_task() {
    let node = Node::new();
    for (option, value) in [("vm-image", "x;y"), ("vm-image", ""), ("vm-image", "(null)"), ("vms-per-slot", "65")] {
        let script = after(INIT, &format!("option vm-image debian12\noption {option} {value}\ntask\n"));
        let answer = node.play(Slurm::Old, "stepd", &script);
        assert!(!answer.contains(&format!("option {option} = -1")) && !answer.contains("execve"), "{answer}");
        assert!(answer.contains(&format!("error: vm: --{option}")), "{answer}");
        assert!(answer.ends_with("task ended with 1\nalive\n"), "{answer}");
    }
}

#[test]
fn a_value_that_would_arrive_changed_is_refused() {
    let node = Node::new();
    let lost = "set step 0xfffffffb\nenv SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image=debian12\n\
                env SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_env=A=caf\u{e9}\n";
    for options in ["option vm-image debian12\noption vm-env A=caf\u{e9}\n", lost] {
        let answer = node.play(Slurm::New, "stepd", &after(INIT, &format!("{options}task\n")));
        assert!(answer.contains(r"error: vm: --vm-env='A=caf\xe9': "), "{answer}");
        assert!(!answer.contains("execve") && answer.ends_with("task ended with 1\nalive\n"), "{answer}");
    }
}

#[test]
fn wrong_arguments_in_plugstack_are_told_to_vm_tasks_only() {
    let node = Node::new();
    let start = "load\ninit colour=red\nargv sleep 1\n";
    let answer = node.play(Slurm::Old, "stepd", &after(start, "task\n"));
    assert!(answer.contains("init = 0\nexecve sleep 1\n"), "{answer}");
    let answer = node.play(Slurm::Old, "stepd", &after(start, "option vm-image debian12\ntask\n"));
    assert!(!answer.contains("execve") && answer.contains("plugstack.conf: wrong argument"), "{answer}");
}

#[test]
fn a_slurm_that_refuses_everything_stops_vm_tasks_and_no_others() {
    let node = Node::new();
    let answer = node.play(Slurm::Old, "stepd", &after(INIT, "deaf\ntask\nhook task_exit\nhook exit\n"));
    assert!(answer.contains("execve sleep 1\n") && !answer.contains("error: "), "{answer}");
    let answer = node.play(Slurm::Old, "stepd", &after(INIT, "option vm-image debian12\ndeaf\ntask\nhook exit\n"));
    assert!(!answer.contains("execve") && answer.ends_with("exit = 0\nalive\n"), "{answer}");
    assert!(answer.contains("error: vm: Slurm refused S_JOB_STEPID: Bad argument"), "{answer}");
}
