//! Exit status, signals, and bytes through the standard streams.

use std::fs::{self, File};
use std::process::Stdio;

use testkit::wait::wait_for_file;
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("the_exit_code_of_the_command_is_the_step_s", exit_code),
    ("death_by_a_signal_is_reported_by_srun_as_such", death_by_signal),
    ("a_command_that_does_not_exist_ends_with_127_and_one_that_is_no_program_with_126", not_found),
    ("stdout_and_stderr_stay_apart", two_outputs),
    ("100_MB_through_stdout_arrive_byte_identical", big_stdout),
    ("100_MB_through_stdin_arrive_byte_identical", big_stdin),
    ("the_end_of_stdin_is_seen_whether_it_is_a_file_a_pipe_or_nothing", end_of_stdin),
    ("scancel_ends_a_vm_step_and_leaves_nothing", cancel),
    ("a_signal_sent_with_scancel_reaches_the_command", signal_reaches_command),
    ("output_on_a_full_disk_is_told_and_is_no_success", full_disk),
];

/// A generator that exists on both sides: every block differs, and no block can be compressed.
const GENERATE: &str =
    "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo block $i; head -c 999990 /dev/zero | tr '\\0' a; done";

fn exit_code(cluster: &Cluster) {
    for code in ["7", "0", "255"] {
        let ran = cluster.srun(&["--vm-image=tiny", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(ran.code.to_string(), code, "{ran:?}");
    }
}

fn death_by_signal(cluster: &Cluster) {
    let in_vm = cluster.srun(&["--vm-image=tiny", "sh", "-c", "kill -SEGV $$"]);
    let bare = cluster.srun(&["sh", "-c", "ulimit -c 0; kill -SEGV $$"]);
    assert_eq!(in_vm.code, bare.code, "{in_vm:?} {bare:?}");
    assert!(in_vm.stderr.contains("Segmentation fault"), "{in_vm:?}");
}

fn not_found(cluster: &Cluster) {
    let ran = cluster.srun(&["--vm-image=tiny", "no-such-command"]);
    assert_eq!(ran.code, 127, "{ran:?}");
    ran.fails_with_one_line(&["no-such-command", "No such file or directory"]);
    let ran = cluster.srun(&["--vm-image=tiny", "/etc/os-release"]);
    assert_eq!(ran.code, 126, "{ran:?}");
    ran.fails_with_one_line(&["/etc/os-release", "Permission denied"]);
}

fn two_outputs(cluster: &Cluster) {
    let ran = cluster.srun(&["--vm-image=tiny", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
}

fn big_stdout(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let command = format!("srun --vm-image=tiny sh -c {} | sha256sum", quoted(GENERATE));
    let in_vm = cluster.run_in(&dir, &["sh", "-c", &command]).ok();
    let bare = cluster.run_in(&dir, &["sh", "-c", &format!("sh -c {} | sha256sum", quoted(GENERATE))]).ok();
    assert_eq!(in_vm, bare);
}

fn big_stdin(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let input =
        cluster.run_in(&dir, &["sh", "-c", &format!("sh -c {} > input; sha256sum < input", quoted(GENERATE))]).ok();
    let mut srun = cluster.command_in(&dir, &["srun", "--vm-image=tiny", "sha256sum"]);
    srun.stdin(File::open(dir.join("input")).unwrap());
    assert_eq!(ran(srun.output().unwrap()).ok(), input);
}

fn end_of_stdin(cluster: &Cluster) {
    let dir = cluster.work_dir();
    assert_eq!(cluster.run_in(&dir, &["srun", "--vm-image=tiny", "wc", "-c"]).ok().trim(), "0");
    let piped = cluster.run_in(&dir, &["sh", "-c", "echo hello | srun --vm-image=tiny cat"]).ok();
    assert_eq!(piped, "hello\n");
    // The command does not read it at all, and ends before the input does.
    let unread = cluster.run_in(&dir, &["sh", "-c", "head -c 3000000 /dev/zero | srun --vm-image=tiny echo done"]).ok();
    assert_eq!(unread, "done\n");
}

fn cancel(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "echo running > started; exec sleep 1000";
    let mut srun = cluster.command_in(&dir, &["srun", "-J", "cancelled", "--vm-image=tiny", "sh", "-c", script]);
    let srun = srun.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("started"));
    cluster.run(&["scancel", "-n", "cancelled"]).ok();
    let ended = ran(srun.wait_with_output().unwrap());
    assert_ne!(ended.code, 0, "{ended:?}");
}

fn signal_reaches_command(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "trap 'echo got USR1; exit 3' USR1; echo running > started; while :; do sleep 0.1; done";
    let mut srun = cluster.command_in(&dir, &["srun", "-J", "signalled", "--vm-image=tiny", "sh", "-c", script]);
    let srun = srun.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("started"));
    cluster.run(&["scancel", "-s", "USR1", "-n", "signalled"]).ok();
    let ended = ran(srun.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.stdout.as_str()), (3, "got USR1\n"), "{ended:?}");
}

fn full_disk(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let submit = |options: &[&str]| {
        let argv = [&["sbatch", "--wait", "-o", "/dev/full", "-e", "err"], options].concat();
        let ran = cluster.run_in(&dir, &argv);
        (ran.code, std::fs::read_to_string(dir.join("err")).unwrap())
    };
    let (bare, _) = submit(&["--wrap", "cat /etc/passwd"]);
    let (in_vm, told) = submit(&["--vm-image=tiny", "--wrap", "cat /etc/passwd"]);
    assert_eq!((bare, in_vm), (1, 1), "{told}");
    let line = "vm: error: the task's stdout cannot be written: No space left on device; what does not fit is lost\n";
    assert_eq!(told, line);
    // The command goes on: what it does beside its output is not lost.
    for options in [&[][..], &["--vm-image=tiny"]] {
        let work = "cat /etc/passwd; cat /etc/passwd; echo done > proof; exit 3";
        let (code, _) = submit(&[options, &["--wrap", work]].concat());
        assert_eq!((code, fs::read_to_string(dir.join("proof")).unwrap().as_str()), (3, "done\n"), "{options:?}");
        fs::remove_file(dir.join("proof")).unwrap();
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
