//! The administrator's commands, and VMs without Slurm.

use std::process::Stdio;

use testkit::wait::wait_for_file;
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("check_shows_every_setting_and_finds_the_node_fit", check),
    ("check_names_what_is_missing_and_fails", check_missing),
    ("ps_lists_a_running_vm_step_with_its_user_and_image", ps),
    ("a_command_runs_in_a_vm_without_slurm_and_its_time_is_accounted_for", run_without_slurm),
    ("a_kit_and_an_image_that_are_used_verify", verify),
];

fn check(cluster: &Cluster) {
    let report = cluster.tool("root", &["check"]).ok();
    for word in [
        "boot_timeout_s = 60",
        "qemu      ok",
        "kit       ok",
        "images    ok",
        "scratch   ok",
        "state     ok",
        "templates ok",
    ] {
        assert!(report.contains(word), "{word} is not in:\n{report}");
    }
}

fn check_missing(cluster: &Cluster) {
    cluster.with_config("kit = '/nonexistent/kit'\n", || {
        let report = cluster.tool("root", &["check"]);
        assert_eq!(report.code, 1, "{report:?}");
        assert!(report.stdout.contains("kit       MISSING  no boot kit in /nonexistent/kit"), "{}", report.stdout);
    });
}

fn ps(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "echo > running; while [ ! -e listed ]; do sleep 0.1; done";
    let mut step = cluster.command_in(&dir, &["srun", "--vm-image=tiny", "sh", "-c", script]);
    let step = step.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("running"));
    let listing = cluster.tool("root", &["ps"]).ok();
    std::fs::write(dir.join("listed"), "").unwrap();
    ran(step.wait_with_output().unwrap()).ok();
    let line = listing.lines().nth(1).unwrap_or_default();
    assert!(line.contains(&cluster.user) && line.contains(" tiny "), "{listing}");
}

fn run_without_slurm(cluster: &Cluster) {
    let words =
        ["run", "--image", "tiny", "--vms", "2", "--timing", "--", "sh", "-c", "echo in $SLURM_VM_INDEX; exit 4"];
    // As root: for root a template is kept without Slurm too.
    let ran = cluster.tool("root", &words);
    let mut lines: Vec<&str> = ran.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!((ran.code, lines), (4, vec!["in 0", "in 1"]), "{}", ran.stderr);
    for phase in ["template=", "prepare=", "qemu=", "wake=", "exec=", "teardown="] {
        assert_eq!(ran.stderr.matches(phase).count(), 2, "{phase} in {}", ran.stderr);
    }
}

fn verify(cluster: &Cluster) {
    assert!(cluster.tool("root", &["kit", "show"]).ok().starts_with("kit verified"));
    let shown = cluster.tool("root", &["image", "show", "tiny"]).ok();
    assert!(shown.contains("format = \"squashfs\"") && shown.contains("sha256 = "), "{shown}");
}
