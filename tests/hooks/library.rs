//! What is loaded: its exported symbols, its releases, and what is left of it when it is unloaded.

use super::stand_in::{INIT, Node, PANIC_ENV, ROUND, Slurm, after, library};
use std::fs;
use std::process::Command;

#[test]
fn only_what_slurm_looks_for_is_exported() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "plugin_name",
            "plugin_type",
            "plugin_version",
            "slurm_spank_exit",
            "slurm_spank_init",
            "slurm_spank_init_post_opt",
            "slurm_spank_job_epilog",
            "slurm_spank_local_user_init",
            "slurm_spank_task_exit",
            "slurm_spank_task_init",
            "slurm_spank_task_init_privileged",
            "slurm_spank_task_post_fork",
        ]
    );
}

#[test]
fn one_library_serves_several_releases_and_an_unknown_one_can_refuse_it() {
    let node = Node::new();
    assert_eq!(node.play(Slurm::Old, "stepd", "load\n"), "loaded spank_vm spank 160500\nalive\n");
    assert_eq!(node.play(Slurm::New, "stepd", "load\n"), "loaded spank_vm spank 180b00\nalive\n");
    assert_eq!(node.play(Slurm::Unknown, "stepd", "load\n"), "loaded spank_vm spank 000000\nalive\n");
}

#[test]
fn what_is_installed_panics_on_nobody_s_demand() {
    let library = fs::read(library()).unwrap();
    assert!(!library.windows(PANIC_ENV.len()).any(|window| window == PANIC_ENV.as_bytes()));
}

#[test]
fn loading_and_unloading_over_and_over_leaves_the_host_well() {
    let node = Node::new();
    let round =
        after(INIT, "option vm-image debian12\noption vm-image debian12\ntask\nhook task_exit\nhook exit\nunload\n");
    let answer = node.play(Slurm::New, "stepd", &round.repeat(5));
    assert_eq!(answer.matches("task ended with 0").count(), 5, "{answer}");
    assert_eq!(answer.matches("execve LIBEXEC/spank-vm-step sleep 1").count(), 5, "{answer}");
    assert!(answer.ends_with("alive\n"), "{answer}");
}

#[test]
fn no_descriptor_and_no_thread_is_left_behind() {
    let node = Node::new();
    let round = after(INIT, ROUND);
    let answer = node.play(Slurm::New, "stepd", &format!("count\n{}count\n", round.repeat(50)));
    let counts: Vec<&str> = answer.lines().filter(|line| line.contains(" descriptors, ")).collect();
    assert!(counts[0].ends_with(", 1 threads"), "{counts:?}");
    assert_eq!(counts[0], counts[1]);
    assert_eq!(answer.matches("task ended with 0").count(), 50, "{answer}");
}

#[test]
fn one_job_s_options_do_not_reach_the_next_load() {
    let node = Node::new();
    let script = format!("{}{}", after(INIT, "option vm-image debian12\nunload\n"), after(INIT, "task\n"));
    let answer = node.play(Slurm::Old, "stepd", &script);
    assert!(answer.contains("execve sleep 1\n"), "{answer}");
}
