//! One VM for a node's tasks (`--vm-scope=node`): each task is as on bare metal, and the guest is the same for all.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

use testkit::wait::{wait_for, wait_for_file};
use testkit::{Cluster, ran, system};

use crate::Case;

pub const CASES: &[Case] = &[
    ("the_tasks_of_a_node_share_one_vm_and_each_has_its_own_rank", one_vm_per_node),
    ("a_shared_vm_has_the_memory_and_processors_of_all_its_tasks", size),
    ("tasks_of_a_node_share_memory_and_see_each_other_s_processes", shared_memory),
    ("openmp_has_the_threads_of_a_bare_step_and_so_has_each_task_of_a_hybrid_job", openmp),
    ("each_task_of_a_node_has_its_own_streams_and_exit_code", streams_and_codes),
    ("a_task_s_end_is_seen_while_others_of_its_vm_go_on", end_is_seen_at_once),
    ("a_signal_reaches_every_task_of_a_shared_vm", signal_reaches_all),
    ("stdin_goes_to_every_task_or_to_the_one_that_is_named", stdin),
    ("programs_of_multi_prog_run_in_one_vm_of_the_node", multi_prog),
    ("output_files_and_labels_of_tasks_are_their_own_in_a_shared_vm", files_and_labels),
    ("a_terminal_is_the_first_task_s_in_a_shared_vm", terminal),
    ("a_bad_exit_ends_the_other_tasks_of_a_vm_if_that_is_asked_for", kill_on_bad_exit),
    ("a_batch_script_s_steps_inherit_the_scope", batch),
    ("scancel_ends_a_shared_vm_and_leaves_nothing", cancel),
    ("what_does_not_go_with_a_shared_vm_is_refused_with_one_line", refused),
    ("the_site_chooses_what_has_a_vm_and_what_is_allowed", site),
    ("a_task_of_a_node_that_cannot_start_says_so_alone", one_cannot_start),
    ("a_vm_that_cannot_be_had_is_told_by_each_task", no_vm),
];

/// They wait longer for a task than a VM does.
pub const LONG_CASES: &[Case] = &[
    ("a_task_that_comes_when_its_vm_runs_already_is_as_the_others", late),
    ("a_task_that_comes_after_its_vm_s_end_says_so_alone", too_late),
];

const NODE: [&str; 2] = ["--vm-image=tiny", "--vm-scope=node"];

fn step<'a>(options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&NODE, options, &["sh", "-c", script]].concat()
}

/// Prints a task's rank, its threads, their sum, and the processors that OpenMP sees.
const THREADS: &str = r#"
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    int sum = 0, threads = 0;
    #pragma omp parallel reduction(+ : sum)
    {
        #pragma omp single
        threads = omp_get_num_threads();
        sum += omp_get_thread_num() + 1;
    }
    printf("%s %d %d %d\n", getenv("SLURM_PROCID"), threads, sum, omp_get_num_procs());
    return 0;
}
"#;

fn openmp(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("threads.c"), THREADS).unwrap();
    let [source, program] = ["threads.c", "threads"].map(|name| dir.join(name).display().to_string());
    system(&["cc", "-O1", "-fopenmp", "-static", "-o", &program, &source]);
    let ran = |variables: &[&str], options: &[&str]| {
        let line = [&["env"], variables, &["srun", "-Q"], options, &["./threads"]].concat();
        lines(&cluster.run_in(&dir, &line).ok()).join("\n")
    };
    // As many as the task has processors; what the user says; two tasks with two threads each, in VMs of their own and in one.
    for (variables, options, first) in [
        (&[][..], &["-c2"][..], "0 2 3 2"),
        (&["OMP_NUM_THREADS=3"], &["-c2"], "0 3 6 2"),
        (&["OMP_NUM_THREADS=2"], &["-N1", "-n2", "--mem=1024"], "0 2 3 "),
        (&["OMP_NUM_THREADS=2", "OMP_PROC_BIND=true"], &["-N2", "-n2", "-c2"], "0 "),
    ] {
        let bare = ran(variables, options);
        assert!(bare.starts_with(first), "{bare}");
        for scope in ["--vm-scope=slot", "--vm-scope=node"] {
            assert_eq!(ran(variables, &[options, &["--vm-image=tiny", scope]].concat()), bare, "{scope} {options:?}");
        }
    }
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn one_vm_per_node(cluster: &Cluster) {
    let script = "echo $SLURM_PROCID $SLURM_LOCALID $(hostname) $(cat /proc/sys/kernel/random/boot_id)";
    let stdout = cluster.srun(&step(&["-n4", "-N2", "--mem=1200"], script)).ok();
    let words: Vec<Vec<&str>> = lines(&stdout).into_iter().map(|line| line.split(' ').collect()).collect();
    let ranks: Vec<_> = words.iter().map(|words| (words[0], words[1])).collect();
    assert_eq!(ranks, [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")], "{stdout}");
    for which in [2, 3] {
        let hosts: BTreeSet<&str> = words.iter().map(|words| words[which]).collect();
        assert!(hosts.len() == 2 && words[0][which] == words[1][which], "{stdout}");
    }
    assert!(words[0][2].ends_with("-n0") && words[3][2].ends_with("-n1"), "{stdout}");
}

fn size(cluster: &Cluster) {
    let script = "[ $SLURM_PROCID = 1 ] || { nproc --all; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo; }";
    let stdout = cluster.srun(&step(&["-N1", "-n2", "-c1", "--mem=1024"], script)).ok();
    let numbers: Vec<u64> = stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers[0], 2);
    assert!((750..=891).contains(&numbers[1]), "{numbers:?}");
}

fn shared_memory(cluster: &Cluster) {
    let script = "if [ $SLURM_LOCALID = 0 ]; then echo hello > /dev/shm/word; echo $$ > /tmp/pid; \
                  until [ -e /tmp/seen ]; do sleep 0.02; done; \
                  else until [ -s /tmp/pid ]; do sleep 0.02; done; cat /dev/shm/word; \
                  kill -0 $(cat /tmp/pid) && echo there; : > /tmp/seen; fi";
    assert_eq!(cluster.srun(&step(&["-N1", "-n2", "--mem=900"], script)).ok(), "hello\nthere\n");
}

fn streams_and_codes(cluster: &Cluster) {
    let script = "echo out $SLURM_PROCID; echo err $SLURM_PROCID >&2; exit $((SLURM_PROCID * 7))";
    let ran = cluster.srun(&step(&["-Q", "-N1", "-n2", "--mem=900"], script));
    assert_eq!((ran.code, lines(&ran.stdout)), (7, vec!["out 0", "out 1"]), "{ran:?}");
    assert!(ran.stderr.contains("err 0\n") && ran.stderr.contains("err 1\n"), "{ran:?}");
    let big = "head -c 3000000 /dev/zero | tr '\\0' $SLURM_PROCID";
    let stdout = cluster.srun(&step(&["-N1", "-n2", "--mem=900"], big)).ok();
    for digit in ["0", "1"] {
        assert_eq!(stdout.matches(digit).count(), 3_000_000);
    }
}

fn end_is_seen_at_once(cluster: &Cluster) {
    // The task that founded the VM may be any: either ends first, once.
    for first in ["0", "1"] {
        let dir = cluster.work_dir();
        let script = format!(
            "if [ $SLURM_PROCID = {first} ]; then (while :; do echo more; sleep 0.05; done) & echo $! > left; exit 3; fi; \
             until [ -e go-on ]; do sleep 0.02; done; kill -0 $(cat left) && echo alive; exit 4"
        );
        let argv = [&["srun", "-Q", "-N1", "-n2", "--mem=900", "-o", "out.%t"], &step(&[], &script)[..]].concat();
        let running = cluster.command_in(&dir, &argv).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let state = dir.parent().unwrap().join("state");
        wait_for("the end of one task", || {
            let left = fs::read_to_string(dir.join("left")).is_ok_and(|text| text.ends_with('\n'));
            let tasks = fs::read_dir(&state).into_iter().flatten().flatten();
            let tasks = tasks.filter(|entry| entry.file_name().to_string_lossy().split('.').count() == 3).count();
            (left && tasks == 1).then_some(())
        });
        fs::write(dir.join("go-on"), "").unwrap();
        let ran = ran(running.wait_with_output().unwrap());
        assert_eq!(ran.code, 4, "{ran:?}");
        let other = if first == "0" { "1" } else { "0" };
        assert_eq!(fs::read_to_string(dir.join(format!("out.{other}"))).unwrap(), "alive\n");
    }
}

fn signal_reaches_all(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "trap 'echo got $SLURM_PROCID; exit 2' USR1; : > started$SLURM_PROCID; while :; do sleep 0.05; done";
    let argv = [&["srun", "-Q", "-J", "both", "-N1", "-n2", "--mem=900"], &step(&[], script)[..]].concat();
    let running = cluster.command_in(&dir, &argv).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("started0"));
    wait_for_file(&dir.join("started1"));
    cluster.run(&["scancel", "-s", "USR1", "-n", "both"]).ok();
    let ran = ran(running.wait_with_output().unwrap());
    assert_eq!((ran.code, lines(&ran.stdout)), (2, vec!["got 0", "got 1"]), "{ran:?}");
}

fn stdin(cluster: &Cluster) {
    let of = |option: &str| {
        let command = format!("echo shared | srun -N1 -n2 --mem=900 {option} {} cat", NODE.join(" "));
        cluster.run(&["sh", "-c", &command]).ok()
    };
    assert_eq!(of(""), "shared\nshared\n");
    assert_eq!(of("--input=1"), "shared\n");
}

fn multi_prog(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("programs"), "0 sh -c 'echo zero $(hostname)'\n1 echo one %t\n").unwrap();
    let argv = [&["srun", "-N1", "-n2", "--mem=900"], &NODE[..], &["--multi-prog", "programs"]].concat();
    let ran = cluster.run_in(&dir, &argv);
    // Each task says so on releases where a plugin cannot change its command.
    if ran.stderr.contains("--multi-prog with --vm-image needs Slurm 23.11") {
        return assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    }
    let stdout = ran.ok();
    assert!(lines(&stdout)[0] == "one 1" && lines(&stdout)[1].ends_with("-n0"), "{stdout}");
}

fn files_and_labels(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let argv =
        [&["srun", "-N1", "-n2", "--mem=900", "-o", "out.%t"], &step(&[], "echo I am $SLURM_PROCID")[..]].concat();
    cluster.run_in(&dir, &argv).ok();
    for task in ["0", "1"] {
        assert_eq!(fs::read_to_string(dir.join(format!("out.{task}"))).unwrap(), format!("I am {task}\n"));
    }
    let stdout = cluster.srun(&step(&["--label", "-N1", "-n2", "--mem=900"], "echo I am $SLURM_PROCID")).ok();
    assert_eq!(lines(&stdout), ["0: I am 0", "1: I am 1"]);
}

fn terminal(cluster: &Cluster) {
    let script = "test -t 1 && echo $SLURM_PROCID has one";
    let srun = format!("srun --pty -N1 -n2 --mem=900 {} sh -c '{script}'", NODE.join(" "));
    let ran = cluster.run(&["script", "-qec", &srun, "/dev/null"]);
    assert!(ran.stdout.contains("0 has one") && !ran.stdout.contains("1 has one"), "{ran:?}");
}

fn kill_on_bad_exit(cluster: &Cluster) {
    let script = "[ $SLURM_PROCID = 1 ] && exit 9; sleep 300";
    let ran = cluster.srun(&step(&["-Q", "--kill-on-bad-exit=1", "-N1", "-n2", "--mem=900"], script));
    assert_ne!(ran.code, 0, "{ran:?}");
    let waited = cluster.srun(&step(&["-Q", "--kill-on-bad-exit=0", "--wait=2", "-N1", "-n2", "--mem=900"], script));
    assert_ne!(waited.code, 0, "{waited:?}");
}

fn batch(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let text = "#!/bin/sh\n#SBATCH -N1 -n2 --mem=900 --vm-scope=node -o out\n\
                srun --vm-image=tiny sh -c 'cat /proc/sys/kernel/random/boot_id'\n";
    fs::write(dir.join("job.sh"), text).unwrap();
    let ran = cluster.run_in(&dir, &["sbatch", "--wait", "--vm-image=none", "job.sh"]);
    let out = fs::read_to_string(dir.join("out")).unwrap_or_default();
    assert_eq!(ran.code, 0, "{ran:?} {out}");
    let ids = lines(&out);
    assert!(ids.len() == 2 && ids[0] == ids[1], "{out}");
    let script = "#!/bin/sh\nhostname\n";
    fs::write(dir.join("in-vm.sh"), script).unwrap();
    let argv = ["sbatch", "--wait", "-N1", "-n2", "--mem=900", "-o", "out2", NODE[0], NODE[1], "in-vm.sh"];
    cluster.run_in(&dir, &argv).ok();
    assert!(fs::read_to_string(dir.join("out2")).unwrap().starts_with("vm"), "the script's task has a VM of its own");
}

fn cancel(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = ": > started$SLURM_PROCID; trap '' TERM; sleep 300";
    let argv = [&["srun", "-Q", "-J", "shared", "-N1", "-n2", "--mem=900"], &step(&[], script)[..]].concat();
    let running = cluster.command_in(&dir, &argv).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_file(&dir.join("started0"));
    wait_for_file(&dir.join("started1"));
    assert_eq!(cluster.qemus().len(), 1);
    cluster.run(&["scancel", "-n", "shared"]).ok();
    assert_ne!(running.wait_with_output().unwrap().status.code(), Some(0));
    wait_for("the end of QEMU", || cluster.qemus().is_empty().then_some(()));
}

fn refused(cluster: &Cluster) {
    cluster.srun(&step(&["--vms-per-slot=2"], "true")).fails_with_one_line(&["--vm-scope=node", "--vms-per-slot=2"]);
    cluster.srun(&step(&["--vm-save=x"], "true")).fails_with_one_line(&["--vm-scope=node", "--vm-save"]);
    cluster
        .srun(&["--vm-image=tiny", "--vm-scope=task", "true"])
        .fails_with_one_line(&["--vm-scope='task'", "'slot' or 'node'"]);
    cluster.srun(&["--vm-scope=node", "true"]).fails_with_one_line(&["--vm-scope=node", "--vm-image"]);
}

fn site(cluster: &Cluster) {
    let script = "cat /proc/sys/kernel/random/boot_id";
    let vms = |options: &[&str]| {
        let options = [&["--vm-image=tiny", "-N1", "-n2", "--mem=900"], options, &["sh", "-c", script]].concat();
        lines(&cluster.srun(&options).ok()).into_iter().map(str::to_owned).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(vms(&[]), 2);
    cluster.with_config("vm_scope = \"node\"\n", || {
        assert_eq!((vms(&[]), vms(&["--vm-scope=slot"])), (1, 2));
    });
    cluster.with_config("vm_scopes = [\"slot\"]\n", || {
        let ran = cluster.srun(&step(&["-Q", "-N1", "-n1"], "true"));
        assert_eq!(ran.code, 125, "{ran:?}");
        assert!(ran.stderr.contains("--vm-scope=node: this site allows slot"), "{ran:?}");
    });
}

fn one_cannot_start(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("programs"), "0 no-such-command\n1 sh -c 'sleep 1; echo fine'\n").unwrap();
    let argv = [&["srun", "-Q", "-N1", "-n2", "--mem=900"], &NODE[..], &["--multi-prog", "programs"]].concat();
    let ran = cluster.run_in(&dir, &argv);
    // Each task says so on releases where a plugin cannot change its command.
    if ran.stderr.contains("--multi-prog with --vm-image needs Slurm 23.11") {
        return assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    }
    assert_eq!((ran.code, ran.stdout.as_str()), (127, "fine\n"), "{ran:?}");
    assert_eq!(ran.stderr.matches("no-such-command: No such file").count(), 1, "{ran:?}");
}

fn no_vm(cluster: &Cluster) {
    cluster.with_config("qemu = \"/no/qemu\"\n", || {
        let ran = cluster.srun(&step(&["-Q", "-N1", "-n2", "--mem=900"], "echo never"));
        assert_eq!((ran.code, ran.stdout.as_str()), (75, ""), "{ran:?}");
        assert_eq!(ran.stderr.matches("no QEMU at '/no/qemu'").count(), 2, "{ran:?}");
    });
    let ran = cluster.srun(&step(&["-Q", "-N1", "-n2", "--mem=900", "--vm-mem=4000"], "echo never"));
    assert_eq!((ran.code, ran.stdout.as_str()), (125, ""), "{ran:?}");
    assert!(ran.stderr.contains("the task has 900 MiB"), "{ran:?}");
}

/// A step of two tasks; the second one's TaskProlog takes so many seconds.
fn with_prolog(cluster: &Cluster, seconds: u32, options: &[&str], script: &str) -> testkit::Ran {
    let dir = cluster.work_dir();
    fs::write(dir.join("prolog"), format!("#!/bin/sh\n[ $SLURM_PROCID = 0 ] || sleep {seconds}\n")).unwrap();
    system(&["chmod", "755", dir.join("prolog").to_str().unwrap()]);
    let prolog = format!("--task-prolog={}", dir.join("prolog").display());
    let srun = ["srun", "-Q", "-N1", "-n2", "--mem=900", "--wait=0", &prolog];
    cluster.run_in(&dir, &[&srun, options, &["sh", "-c", script]].concat())
}

fn late(cluster: &Cluster) {
    // The first waits for the second one, so that both are there at once.
    let script = "echo $SLURM_PROCID of $SLURM_NTASKS >&2; touch at.$SLURM_PROCID; \
                  until [ -e at.0 ] && [ -e at.1 ]; do sleep 0.1; done; cat; exit $SLURM_PROCID";
    let [bare, shared] = [&["--vm-image=none"][..], &NODE].map(|options| with_prolog(cluster, 9, options, script));
    assert_eq!((shared.code, &shared.stdout, lines(&shared.stderr)), (bare.code, &bare.stdout, lines(&bare.stderr)));
    assert_eq!(shared.code, 1, "{shared:?}");
}

fn too_late(cluster: &Cluster) {
    let ran = with_prolog(cluster, 80, &NODE, "echo ran $SLURM_PROCID");
    assert_eq!((ran.code, ran.stdout.as_str()), (125, "ran 0\n"), "{ran:?}");
    let told: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("vm: ")).collect();
    assert!(
        told.len() == 1 && told[0].contains("the VM of this node's tasks has ended before this task came"),
        "{ran:?}"
    );
}
