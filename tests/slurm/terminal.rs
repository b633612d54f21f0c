//! Interactive steps.

use testkit::Cluster;

use crate::Case;

pub const CASES: &[Case] = &[
    ("an_interactive_step_has_a_terminal_of_the_user_s_size", terminal),
    ("a_boot_that_takes_its_time_is_announced_on_a_terminal_only", announced),
    ("the_exit_code_of_an_interactive_step_arrives", exit_code),
];

/// Runs `step` with a terminal of 33 lines and 99 columns, as `script` of util-linux makes one.
pub fn in_terminal(cluster: &Cluster, step: &str) -> testkit::Ran {
    let inner = format!("stty rows 33 cols 99; exec {step}");
    cluster.run(&["script", "-qec", &inner, "/dev/null"])
}

fn terminal(cluster: &Cluster) {
    let step = "srun --vm-image=tiny --pty sh -c 'tty; stty size; test -t 0 -a -t 1 -a -t 2 && echo all three'";
    let screen = in_terminal(cluster, step).ok();
    for expected in ["/dev/pts/", "33 99", "all three"] {
        assert!(screen.contains(expected), "{expected} is not in {screen:?}");
    }
}

fn announced(cluster: &Cluster) {
    cluster.with_config("start = 'boot'\n", || {
        let screen = in_terminal(cluster, "srun --vm-image=tiny --pty true").ok();
        assert!(screen.contains("vm: tiny starting"), "{screen:?}");
        assert_eq!(cluster.srun(&["-Q", "--vm-image=tiny", "true"]).stderr, "");
    });
}

fn exit_code(cluster: &Cluster) {
    assert_eq!(in_terminal(cluster, "srun --vm-image=tiny --pty sh -c 'exit 6'").code, 6);
}
