//! What a command inherits of limits, priority and time, and what that does to the machinery.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use testkit::{Cluster, Ran, clock, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("every_soft_limit_is_the_command_s_and_stops_no_vm", soft_limits),
    ("a_hard_limit_that_a_vm_can_live_with_stops_none", harmless_hard_limits),
    ("a_hard_limit_that_forbids_a_vm_is_named_and_is_the_user_s", forbidding_hard_limits),
    ("niceness_and_io_priority_are_the_command_s", priorities),
    ("a_clone_has_the_limits_of_a_machine_of_its_size", derived_limits),
    ("a_command_sees_all_its_memory_at_its_first_line", memory_at_once),
    ("a_guest_s_clock_that_somebody_sets_comes_back", clock_steps),
    ("a_guest_s_clock_that_drifts_is_held_to_the_host_s", clock_drifts),
];

/// Options of `ulimit`, and values that programs can live with and QEMU could not.
const LOW: [(&str, &str); 10] = [
    ("-c", "1"),
    ("-d", "200000"),
    ("-f", "1000"),
    ("-l", "0"),
    ("-m", "1000"),
    ("-n", "40"),
    ("-s", "256"),
    ("-t", "3"),
    ("-u", "400"),
    ("-v", "600000"),
];

fn soft_limits(cluster: &Cluster) {
    let run = |options: &str, program: &str| cluster.run(&["bash", "-c", &format!("{options}; srun {program}")]);
    for (option, value) in LOW {
        let script = format!("bash -c 'ulimit -S {option}; echo x > f && cat f'");
        let limit = format!("ulimit -S {option} {value}");
        let bare = run(&limit, &script).ok();
        // Slurm itself sets the limit of resident memory to what the job has.
        assert!(option == "-m" || bare == format!("{value}\nx\n"), "{option} {value}: {bare}");
        assert_eq!(run(&limit, &format!("--vm-image=debian12 {script}")).ok(), bare, "{option} {value}");
    }
    let all: Vec<String> = LOW.iter().map(|(option, value)| format!("{option} {value}")).collect();
    let all = format!("ulimit -S {}", all.join(" "));
    let bare = run(&all, "bash -c 'ulimit -Sa'").ok();
    assert_eq!(run(&all, "--vm-image=debian12 bash -c 'ulimit -Sa'").ok(), bare);
    // And a boot, which makes a template: on a node that has none.
    cluster.with_config(&format!("template_dir = '{}/none'\n", cluster.dir.display()), || {
        assert_eq!(run(&all, "--vm-image=debian12 bash -c 'ulimit -Sa'").ok(), bare);
    });
}

/// Runs `spank-vm run` as the user after `limits`, outside of Slurm, where hard limits can be lowered.
fn run_limited(cluster: &Cluster, limits: &str, command: &str) -> Ran {
    let (program, config) = (cluster.program(), cluster.config_file());
    let (program, config) = (program.display(), config.display());
    let script = format!("{limits}; exec {program} --config {config} run --image tiny {command}");
    ran(cluster.command_as(&cluster.user, Path::new("/"), &["bash", "-c", &script]).output().unwrap())
}

/// The same once there is one: root makes the directories for them with a node's first step.
fn first_template(cluster: &Cluster) -> Vec<String> {
    cluster.srun(&["--vm-image=tiny", "true"]).ok();
    assert_eq!(run_limited(cluster, "true", "-- echo fine").ok(), "fine\n");
    templates(cluster)
}

/// The user's templates.
fn templates(cluster: &Cluster) -> Vec<String> {
    // Before a user's first template there is no directory.
    let shelves = fs::read_dir(cluster.dir.join("templates/users")).into_iter().flatten().flatten();
    let kept = shelves.flat_map(|shelf| fs::read_dir(shelf.path()).unwrap().flatten());
    let names = kept.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn harmless_hard_limits(cluster: &Cluster) {
    let before = first_template(cluster);
    assert!(!before.is_empty());
    for limit in
        ["-c 0", "-e 0", "-i 0", "-l 0", "-m 1000", "-q 0", "-r 0", "-s 256", "-x 0", "-R 1000", "-n 100", "-v 3000000"]
    {
        let ran = run_limited(cluster, &format!("ulimit {limit}"), "-- echo fine");
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "fine\n"), "{limit}: {ran:?}");
    }
    assert_eq!(templates(cluster), before);
}

fn forbidding_hard_limits(cluster: &Cluster) {
    let before = first_template(cluster);
    for (option, value, name) in [
        ("-f", "20000", "RLIMIT_FSIZE"),
        ("-v", "1000000", "RLIMIT_AS"),
        ("-d", "1000000", "RLIMIT_DATA"),
        ("-n", "30", "RLIMIT_NOFILE"),
        ("-u", "1", "RLIMIT_NPROC"),
        ("-s", "128", "RLIMIT_STACK"),
    ] {
        let ran = run_limited(cluster, &format!("ulimit {option} {value}"), "-- true");
        assert_eq!(ran.code, 125, "{option} {value}: {ran:?}");
        ran.fails_with_one_line(&[name, &format!("'ulimit -H{}'", &option[1..]), value, "raise it"]);
    }
    // Processor time is the command's, as on the host; but a hard limit is QEMU's too, which may come to it first.
    let ran = run_limited(cluster, "ulimit -t 2", "-- sh -c 'while :; do :; done'");
    assert!(ran.code == 128 + 9 || ran.code == 125 && ran.stderr.contains("RLIMIT_CPU"), "{ran:?}");
    assert_eq!(templates(cluster), before, "a limit says nothing of a template");
}

fn priorities(cluster: &Cluster) {
    let program = cluster.program().display().to_string();
    let config = cluster.config_file().display().to_string();
    let run = [&program, "--config", &config, "run", "--image", "debian12", "--"];
    let shows = ["sh", "-c", "nice; ionice"];
    // Niceness and class; which number a class has that is none depends on the kernel.
    let seen = |before: &[&str], run: &[&str]| {
        let argv = [before, run, &shows].concat();
        let told = ran(cluster.command_as(&cluster.user, Path::new("/"), &argv).output().unwrap()).ok();
        told.trim().split(": ").next().unwrap().to_owned()
    };
    for before in [&[][..], &["nice", "-n", "7", "ionice", "-c", "3"]] {
        // Whoever runs this test may be nice already.
        assert_eq!(seen(before, &run), seen(before, &[]));
    }
    assert!(seen(&["nice", "-n", "7", "ionice", "-c", "3"], &run).ends_with("\nidle"));
}

/// Names and values; a name may have several numbers.
fn values(text: &str) -> Vec<(String, Vec<f64>)> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let parse = |mut words: Vec<String>| {
        let name = words.remove(0);
        (name, words.iter().map(|word| word.parse().unwrap()).collect())
    };
    text.lines().map(words).filter(|words| words.len() > 1).map(parse).collect()
}

/// The same kernel boots with that much memory, or wakes up with little and gets the rest.
fn derived_limits(cluster: &Cluster) {
    let script = "cd /proc/sys; for n in kernel/threads-max fs/file-max fs/inotify/max_user_watches fs/epoll/max_user_watches \
                  fs/fanotify/max_user_marks user/max_user_namespaces user/max_mnt_namespaces kernel/pid_max \
                  net/ipv4/tcp_mem net/ipv4/udp_mem net/ipv4/tcp_rmem net/ipv4/tcp_wmem net/ipv4/tcp_max_orphans \
                  net/ipv4/tcp_max_tw_buckets vm/user_reserve_kbytes vm/admin_reserve_kbytes; do \
                  [ -r $n ] && echo $n $(cat $n); done; \
                  echo thp $(grep -c '[[]always' /sys/kernel/mm/transparent_hugepage/enabled).5; for d in /dev/shm /run /etc; do \
                  echo $d $(stat -f -c '%b %c' $d); done";
    let ask = || cluster.srun(&["--mem=2000", "--vm-image=debian12", "sh", "-c", script]).ok();
    let cloned = values(&ask());
    let mut booted = Vec::new();
    cluster.with_config("start = 'boot'\n", || booted = values(&ask()));
    assert!(booted.len() >= 17, "{booted:?}");
    assert_eq!(cloned.len(), booted.len());
    for ((name, cloned), (other, booted)) in cloned.iter().zip(&booted) {
        assert_eq!(name, other);
        assert_eq!(cloned.len(), booted.len(), "{name}");
        for (clone, boot) in cloned.iter().zip(booted) {
            let ratio = clone / boot;
            assert!(
                (0.75..=1.35).contains(&ratio),
                "{name}: {clone} in a clone, {boot} in a machine that booted with it"
            );
        }
    }
}

fn memory_at_once(cluster: &Cluster) {
    for _ in 0..3 {
        let kib =
            cluster.srun(&["--mem=2000", "--vm-image=tiny", "awk", "/MemTotal/ { print $2 }", "/proc/meminfo"]).ok();
        let kib: u64 = kib.trim().parse().unwrap();
        assert!(kib > 1_750_000, "{kib}");
    }
}

/// Heartbeats every two seconds, so that ten of them take no ten minutes.
const FAST: &str = "silence_timeout_s = 6\n";

/// Runs this script of `testkit::clock` as root of a guest; returns how wrong its clock was at each mark.
fn clock_errors_ms(cluster: &Cluster, script: &str) -> Vec<f64> {
    let dir = cluster.work_dir();
    let script = format!("{}; {script}", clock::MARK);
    cluster.with_config(FAST, || {
        cluster.run_in(&dir, &["srun", "--vm-image=debian12", "--vm-root", "bash", "-c", &script]).ok();
    });
    let times = fs::read_to_string(dir.join("times")).unwrap();
    let made = |number| {
        let meta = fs::metadata(dir.join(format!("mark{number}"))).unwrap();
        meta.mtime() as f64 + meta.mtime_nsec() as f64 / 1e9
    };
    clock::errors_ms(&times, &(0..times.lines().count()).map(made).collect::<Vec<_>>())
}

fn clock_steps(cluster: &Cluster) {
    let errors = clock_errors_ms(cluster, clock::STEPS);
    assert!(clock::came_back(&errors), "{errors:?}");
}

fn clock_drifts(cluster: &Cluster) {
    let errors = clock_errors_ms(cluster, clock::DRIFTS);
    assert!(errors.len() == 7 && clock::held(&errors), "{errors:?}");
}
