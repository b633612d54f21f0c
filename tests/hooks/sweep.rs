//! Leftovers of killed processes: the epilog removes those of its job, slurmd all.

use super::stand_in::{INIT, Node, Slurm, after};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

#[test]
fn the_epilog_of_a_job_removes_what_was_left_of_it_and_never_fails() {
    let node = Node::new();
    let state = leave_tasks(&node);
    // And the leftovers of a runner of the job's user that was killed while it copied an image.
    let uid = fs::metadata("/proc/self").unwrap().uid();
    let shelf = node.path("copies/users").join(uid.to_string());
    fs::create_dir_all(&shelf).unwrap();
    for left in [".0a1b.50", "0a1b.lock", "2c3d"] {
        fs::write(shelf.join(left), "").unwrap();
    }
    // Here Slurm calls no slurm_spank_init.
    let epilog = "hook job_epilog libexec=LIBEXEC state_dir=LIBEXEC/state template_dir=LIBEXEC/templates \
                  image_cache_dir=LIBEXEC/copies\n";
    let answer = node.play(Slurm::Old, "script", &format!("load\n{epilog}{epilog}unload\n"));
    assert!(
        answer.contains(
            "verbose: vm: removed 2 left over in LIBEXEC/state\n\
             verbose: vm: removed 2 left over in LIBEXEC/copies\njob_epilog = 0\njob_epilog = 0\n"
        ),
        "{answer}"
    );
    assert_eq!((entries(&state), entries(&shelf)), (vec!["8.0.0".to_owned()], vec!["2c3d".to_owned()]));
    // Wrong arguments, no directory, no job number: none of these may stop a node from running the next job.
    let script = "load\nhook job_epilog nonsense\nhook job_epilog state_dir=/nonexistent/state template_dir=/nonexistent/t \
         image_cache_dir=/nonexistent/i\ndeaf\nhook job_epilog\n";
    let answer = node.play(Slurm::New, "script", script);
    assert_eq!(answer.matches("job_epilog = 0\n").count(), 3, "{answer}");
}

#[test]
fn slurmd_removes_at_its_start_what_no_process_uses() {
    let node = Node::new();
    let state = leave_tasks(&node);
    let draft = node.path("templates/users/1000/.abc.50");
    fs::create_dir_all(draft.join("empty")).unwrap();
    let of_another_boot = node.path("templates/site/00000000-abc");
    fs::create_dir_all(&of_another_boot).unwrap();
    // A task that runs while slurmd is restarted: this process plays the task.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    leave_task(&state.join("9.0.0"), &format!("{}-{started}-{}", process::id(), boot.trim()));
    let answer = node.play(Slurm::Old, "slurmd", &after(INIT, "unload\n"));
    assert!(answer.contains("removed 3 left over in LIBEXEC/state\n") && answer.contains("init = 0\n"), "{answer}");
    assert_eq!(entries(&state), ["9.0.0"]);
    assert!(!draft.exists() && !of_another_boot.exists());
    assert_eq!(entries(&node.path("templates")), ["site", "users"]);
}

/// A process that ended, as a task's directory names it.
fn dead_process() -> String {
    let mut child = Command::new("true").spawn().unwrap();
    let record = format!("{}-1-no-boot", child.id());
    child.wait().unwrap();
    record
}

/// The state directory with leftovers of killed slurmstepds: of job 7 and of job 8.
fn leave_tasks(node: &Node) -> PathBuf {
    let state = node.path("state");
    for name in ["7.0.0", "7.1.3", "8.0.0"] {
        leave_task(&state.join(name), &dead_process());
    }
    state
}

fn leave_task(dir: &Path, process: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("status.toml"), format!("image = \"tiny\"\nvms = 1\nuid = 1\nrunner = \"{process}\"\n"))
        .unwrap();
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
