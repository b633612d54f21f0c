//! A panic in any hook: the host lives, no node is drained, and no step that asked for a VM runs on the host.

use super::stand_in::{INIT, Node, PANIC_ENV, Slurm, after};

fn panic_in(hook: &str, program: &str, script: &str) -> String {
    Node::new().play_with(Slurm::Old, program, &after(INIT, script), &[(PANIC_ENV, hook)])
}

#[test]
fn a_panic_becomes_a_line_and_the_host_lives() {
    for (hook, script) in [("slurm_spank_task_exit", "hook task_exit\n"), ("slurm_spank_exit", "hook exit\n")] {
        let answer = panic_in(hook, "stepd", script);
        assert!(answer.contains(&format!("error: vm: internal error in {hook} (src/")), "{answer}");
        assert!(answer.contains("asked for by the test") && answer.ends_with(" = 0\nalive\n"), "{answer}");
    }
}

#[test]
fn a_panic_in_a_hook_that_may_fail_returns_minus_one() {
    let answer = panic_in("slurm_spank_local_user_init", "srun", "hook local_user_init\n");
    assert!(answer.ends_with("local_user_init = -1\nalive\n"), "{answer}");
}

#[test]
fn a_panic_in_the_option_callback_is_caught_too() {
    let answer = panic_in("an option", "stepd", "option vm-image debian12\ntask\n");
    assert!(answer.contains("option vm-image = -1\n"), "{answer}");
    assert!(!answer.contains("execve") && answer.ends_with("task ended with 1\nalive\n"), "{answer}");
}

#[test]
fn a_panic_in_the_first_hook_does_not_drain_the_node() {
    let answer = panic_in("slurm_spank_init", "stepd", "hook init_post_opt\n");
    assert!(answer.contains("init = 0\n") && answer.ends_with("init_post_opt = 0\nalive\n"), "{answer}");
}

#[test]
fn a_panic_before_the_tasks_drains_no_node_and_a_task_that_misses_what_was_to_be_made_is_refused() {
    let answer = panic_in(
        "slurm_spank_init_post_opt",
        "stepd",
        "option vm-image tiny\noption vm-net job\nhook init_post_opt\ntask\n",
    );
    assert!(answer.contains("internal error") && answer.contains("init_post_opt = 0\n"), "{answer}");
    assert!(answer.contains("--vm-net=job did not arrive") && !answer.contains("execve"), "{answer}");
}

#[test]
fn a_task_that_root_did_not_prepare_is_refused_and_any_other_runs() {
    let answer = panic_in("slurm_spank_task_init_privileged", "stepd", "option vm-image debian12\ntask\n");
    assert!(answer.contains("internal error") && !answer.contains("execve"), "{answer}");
    assert!(answer.contains("error: vm: this task could not be prepared"), "{answer}");
    let answer = panic_in("slurm_spank_task_init_privileged", "stepd", "task\n");
    assert!(answer.contains("execve sleep 1\n"), "{answer}");
}

#[test]
fn a_panic_never_lets_a_vm_task_run_on_the_host() {
    let answer = panic_in("slurm_spank_task_init", "stepd", "option vm-image debian12\ntask\n");
    assert!(answer.contains("internal error") && !answer.contains("execve"), "{answer}");
    assert!(answer.ends_with("task ended with 1\nalive\n") && !answer.contains("Failed to invoke"), "{answer}");
}
