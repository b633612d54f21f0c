//! The administrator's commands, and VMs without Slurm.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use testkit::wait::wait_for_file;
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("check_shows_every_setting_and_finds_the_node_fit", check),
    ("check_names_what_is_missing_and_fails", check_missing),
    ("check_tells_programs_the_same_as_people_and_judges_with_a_user_s_rights", check_for_programs),
    ("ps_lists_a_running_vm_step_with_its_user_image_phase_and_size", ps),
    ("metrics_show_what_runs_and_what_is_kept", metrics),
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

fn check_for_programs(cluster: &Cluster) {
    let closed = cluster.work_dir().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::os::unix::fs::chown(&closed, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    cluster.with_config(&format!("scratch_dir = '{}'\n", closed.display()), || {
        let users = |words: &[&str]| {
            let ran = cluster.tool("root", &[&["check", "--json", "--image", "tiny"], words].concat());
            let users = ran.stdout.split("\"name\": \"users\"").nth(1).unwrap_or_default().to_owned();
            (ran.code, users.contains("\"missing\""), users.contains("\"limited\""), ran.stdout)
        };
        // A group could give the site's users what nobody lacks; a user who was named lacks it.
        let (code, missing, limited, said) = users(&[]);
        assert!(code == 0 && !missing && limited && said.contains("\"exit_code\": 0"), "{said}");
        assert_eq!(users(&["--strict"]).0, 3);
        let (code, missing, _, said) = users(&["--user", &cluster.user]);
        assert!(code == 1 && missing && said.contains("\"verdict\": \"missing\""), "{said}");
        let quick = cluster.tool("root", &["check", "--node", "--user", &cluster.user]);
        assert!(quick.code == 1 && quick.stdout.contains("scratch: "), "{quick:?}");
    });
}

/// A step that runs while `look` looks.
fn while_running<T>(cluster: &Cluster, look: impl FnOnce() -> T) -> T {
    let dir = cluster.work_dir();
    let script = "echo > running; while [ ! -e listed ]; do sleep 0.1; done";
    let words = ["srun", "--mem=500", "--vm-image=tiny", "--vms-per-slot=1", "sh", "-c", script];
    let mut step = cluster.command_in(&dir, &words);
    let step = step.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("running"));
    let seen = look();
    std::fs::write(dir.join("listed"), "").unwrap();
    ran(step.wait_with_output().unwrap()).ok();
    seen
}

fn ps(cluster: &Cluster) {
    let (listing, by_user) =
        while_running(cluster, || ["root", &cluster.user].map(|user| cluster.tool(user, &["ps"]).ok()).into());
    let line: Vec<&str> = listing.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!((line[1], line[2], line[3], line[5]), (cluster.user.as_str(), "tiny", "run", "1/1"), "{listing}");
    // 500 MiB less what QEMU keeps.
    assert!((300..500).contains(&line[6].parse::<u64>().unwrap()), "{listing}");
    let sums: Vec<&str> = listing.lines().last().unwrap_or_default().split_whitespace().collect();
    assert_eq!((sums[..4].to_vec(), sums[5]), (vec!["total:", "1", "1/1", line[6]], line[8]), "{listing}");
    assert!(by_user.contains(" run "), "the user sees the phase of an own task: {by_user}");
}

fn metrics(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let (file, state) = (dir.join("vm.prom"), dir.join("sums"));
    let words = ["metrics", "--textfile", file.to_str().unwrap(), "--state", state.to_str().unwrap()];
    std::os::unix::fs::chown(&dir, Some(0), Some(0)).unwrap();
    while_running(cluster, || cluster.tool("root", &words).ok());
    let text = std::fs::read_to_string(&file).unwrap();
    for line in ["spank_vm_tasks_running 1", "spank_vm_vms_running 1", "spank_vm_tasks_left_over 0"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    assert!(!text.contains("spank_vm_cache_items{cache=\"templates\",owner=\"users\"} 0\n"), "{text}");
    let refused = cluster.tool(&cluster.user, &words);
    assert!(refused.code == 1 && refused.stderr.contains("only root sees"), "{refused:?}");
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
