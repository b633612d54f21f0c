//! Programs of MPI: what Slurm's interface for them gives each task, in VMs as on bare metal, and `mpirun` within one VM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use testkit::place::repository;
use testkit::undo::with_text;
use testkit::wait::wait_for_file;
use testkit::{Cluster, Ran, is_chatter, process, system};

use crate::Case;
use crate::documents::code;

pub const CASES: &[Case] = &[
    ("pmi_of_another_kind_than_vms_have_is_refused_and_none_is_not", interfaces),
    ("pmi_lets_tasks_in_vms_of_two_nodes_find_each_other_through_both_of_its_wires", exchange),
    ("pmi_tasks_that_end_or_die_in_the_middle_of_a_fence_end_the_step_as_on_bare_metal", ends),
    ("pmi_nonsense_of_a_task_is_told_and_starts_nothing_on_the_host", nonsense),
    ("pmi_sockets_are_the_runners_alone_and_the_death_of_a_vm_is_that_of_its_rank", holders),
    ("pmi_by_a_site_s_default_reaches_tasks_in_vms_too", default_interface),
    ("pmi_starts_a_program_of_mpich_under_srun", mpich),
    ("pmix_starts_a_program_of_open_mpi_under_srun_and_the_death_of_a_rank_ends_the_step", open_mpi),
    ("pmix_nonsense_of_a_task_is_told_and_does_not_reach_slurm", pmix_nonsense),
    ("pmix_that_is_too_old_on_the_node_is_refused_to_who_asks_for_it_and_told_once_to_who_has_it_by_default", pmix_old),
    ("the_program_of_the_guide_works_as_it_is_started_there", guide),
];

pub const LONG_CASES: &[Case] = &[("mpirun_of_open_mpi_and_of_mpich_starts_its_processes_in_the_vm", mpirun)];

fn interfaces(cluster: &Cluster) {
    // Where Slurm has no plugin for pmix, it refuses that itself.
    let refusal = ["--mpi=cray_shasta with --vm-image", "--mpi=pmi2", "--mpi=none", "docs/parallel.md"];
    cluster
        .run(&["env", "SLURM_MPI_TYPE=cray_shasta", "srun", "--vm-image=tiny", "true"])
        .fails_with_one_line(&refusal);
    cluster.srun(&["--vm-image=tiny", "--mpi=cray_shasta", "true"]).fails_with_one_line(&refusal[..3]);
    let refusal = ["--mpi=pmi2 with --vms-per-slot=2", "one rank", "--ntasks"];
    cluster.srun(&["--vm-image=tiny", "--mpi=pmi2", "--vms-per-slot=2", "true"]).fails_with_one_line(&refusal);
    cluster.srun(&["--mpi=cray_shasta", "--vm-image=none", "true"]).ok();
    let list = cluster.srun(&["--vm-image=tiny", "--mpi=list"]);
    assert!((list.stdout + &list.stderr).contains("pmi2"));
    // The same words behind the command are the command's.
    let stdout = cluster.srun(&["--vm-image=tiny", "--mpi=none", "echo", "--mpi=pmix"]).ok();
    assert_eq!(stdout, "--mpi=pmix\n");
}

/// A directory with the program `pmi`, which needs nothing of an image.
fn program(cluster: &Cluster) -> PathBuf {
    let dir = cluster.work_dir();
    let source = repository().join("tests/slurm/pmi.c");
    system(&["cc", "-O1", "-static", "-o", dir.join("pmi").to_str().unwrap(), source.to_str().unwrap()]);
    dir
}

/// A step of four tasks on two nodes in `dir`; `image` is `tiny` or `none`.
fn step(image: &str, words: &[&str]) -> Vec<String> {
    let head = ["srun", "-Q", "-N2", "-n4", "--mpi=pmi2", "--kill-on-bad-exit=1"].map(str::to_owned);
    let words = words.iter().map(|&word| word.to_owned());
    head.into_iter().chain([format!("--vm-image={image}")]).chain(words).collect()
}

fn in_dir(cluster: &Cluster, dir: &Path, image: &str, words: &[&str]) -> Ran {
    let argv = step(image, words);
    cluster.run_in(dir, &argv.iter().map(String::as_str).collect::<Vec<_>>())
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn exchange(cluster: &Cluster) {
    let dir = program(cluster);
    let expected: Vec<String> = (0..4).map(|rank| format!("rank {rank} of 4: sum 6, 1824 bytes")).collect();
    // A child of a shell has the socket too.
    for words in [&["./pmi", "1"][..], &["./pmi", "2", "child"]] {
        for image in ["none", "tiny"] {
            assert_eq!(sorted(&in_dir(cluster, &dir, image, words).ok()), expected, "{words:?} {image}");
        }
    }
}

/// What a bare step of these words ends with, and a VM step too: the code, and what its tasks wrote.
fn same_end(cluster: &Cluster, dir: &Path, words: &[&str]) -> (i32, String) {
    let bare = in_dir(cluster, dir, "none", words);
    let vm = in_dir(cluster, dir, "tiny", words);
    assert_eq!((vm.code, &vm.stdout), (bare.code, &bare.stdout), "{words:?}: {}\n{}", vm.stderr, bare.stderr);
    (vm.code, vm.stdout)
}

fn ends(cluster: &Cluster) {
    let dir = program(cluster);
    // The others wait in their fence until Slurm ends the step, with SIGTERM.
    for words in [["./pmi", "2", "kill"], ["./pmi", "1", "exit"], ["./pmi", "1", "abort"]] {
        let (code, stdout) = same_end(cluster, &dir, &words);
        assert!(code != 0 && stdout.is_empty(), "{words:?}: {code} {stdout}");
    }
}

fn nonsense(cluster: &Cluster) {
    let dir = program(cluster);
    let witness = dir.join("witness");
    let touch = format!("touch {}", witness.display());
    for wire in ["1", "2"] {
        let ran = in_dir(cluster, &dir, "tiny", &["./pmi", wire, "spawn", &touch]);
        assert_ne!(ran.code, 0);
        assert_eq!(ran.stderr.matches("MPI_Comm_spawn").count(), 1, "{}", ran.stderr);
        assert!(ran.stdout.contains("rank 1: Slurm has closed the socket"), "{}", ran.stdout);
    }
    let ran = in_dir(cluster, &dir, "tiny", &["./pmi", "2", "garbage"]);
    assert_ne!(ran.code, 0);
    let told = ran.stderr.lines().filter(|line| !is_chatter(line) && line.contains("'GET / HTTP/1.0'"));
    assert_eq!(told.count(), 1, "{}", ran.stderr);
    assert!(!witness.exists(), "a guest has started a program on the host");
}

/// What `/proc` says of the descriptors of a process.
fn descriptors(pid: i32) -> Vec<String> {
    let listed = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    listed.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
}

fn holders(cluster: &Cluster) {
    let dir = program(cluster);
    let argv = step("tiny", &["./pmi", "2", "half"]);
    let mut step = cluster.command_in(&dir, &argv.iter().map(String::as_str).collect::<Vec<_>>());
    let step = step.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("half"));
    let qemus = cluster.qemus();
    let runner = process::parent(qemus[0]).unwrap();
    let number = process::variable(runner, "PMI_FD").expect("a variable PMI_FD");
    let socket = fs::read_link(format!("/proc/{runner}/fd/{number}")).unwrap().display().to_string();
    assert!(socket.starts_with("socket:"), "{socket}");
    for pid in process::all().filter(|&pid| process::parent(pid) == Some(runner)) {
        assert!(!descriptors(pid).contains(&socket), "{:?}", process::words(pid));
    }
    // All run, and three wait in a fence for the fourth.
    system(&["kill", "-KILL", &qemus[0].to_string()]);
    let ended = testkit::ran(step.wait_with_output().unwrap());
    assert_ne!(ended.code, 0);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.matches("QEMU was killed").count(), 1, "{}", ended.stderr);
}

fn default_interface(cluster: &Cluster) {
    let dir = program(cluster);
    let path = cluster.slurm_conf();
    let none = fs::read_to_string(&path).unwrap();
    let _none = with_text(&path, &none.replace("MpiDefault=none", "MpiDefault=pmi2"));
    let told = cluster.run_in(&dir, &["srun", "-Q", "-N2", "-n2", "--vm-image=tiny", "./pmi", "2"]);
    let two = cluster.srun(&["-Q", "-n2", "--vms-per-slot=2", "--vm-image=tiny", "sh", "-c", "echo ${PMI_RANK-none}"]);
    assert_eq!(sorted(&told.ok()), ["rank 0 of 2: sum 1, 912 bytes", "rank 1 of 2: sum 1, 912 bytes"]);
    assert_eq!(two.stderr.matches("pmi2 reaches into no slot of several VMs").count(), 1, "{}", two.stderr);
    assert_eq!(two.ok(), "none\n".repeat(4));
}

/// Steps whose ranks can send each other messages: alone, or with these options besides.
const CONNECTED: &[&[&str]] = &[&["-N1", "-n1"], &["-N1", "-n2", "--vm-scope=node"]];

fn ranks(step: &[&str]) -> usize {
    step.iter().find_map(|word| word.strip_prefix("-n")).unwrap().parse().unwrap()
}

fn mpich(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::copy(repository().join("tests/slurm/halo.py"), dir.join("halo.py")).unwrap();
    // On bare metal, without MPI.
    let expected = cluster.run_in(&dir, &["srun", "-Q", "python3", "halo.py", "serial"]).ok();
    let sum = expected.trim().strip_prefix("1 ").unwrap();
    for step in CONNECTED {
        let ranks = ranks(step);
        let srun = ["srun", "-Q", "--mpi=pmi2", "--mem=1500", "--vm-image=debian12-mpi"];
        let told = cluster.run_in(&dir, &[&srun[..], step, &["python3", "halo.py"]].concat()).ok();
        assert_eq!(told, format!("{ranks} {sum}\n").repeat(ranks), "{step:?}");
    }
}

fn open_mpi(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::copy(repository().join("tests/slurm/halo.py"), dir.join("halo.py")).unwrap();
    let expected = cluster.run_in(&dir, &["srun", "-Q", "python3", "halo.py", "serial"]).ok();
    let sum = expected.trim().strip_prefix("1 ").unwrap();
    let srun = ["srun", "-Q", "--mpi=pmix", "--mem=1500", "--vm-image=debian12-mpi"];
    for step in CONNECTED {
        let ranks = ranks(step);
        let told = cluster.run_in(&dir, &[&srun[..], step, &["python3", "halo.py", "openmpi"]].concat()).ok();
        assert_eq!(told, format!("{ranks} {sum}\n").repeat(ranks), "{step:?}");
    }
    // The other one waits in a barrier: slurmstepd's server has lost a rank, and ends the step.
    let dies = "from mpi4py import MPI; import os, signal\n\
                MPI.COMM_WORLD.rank or os.kill(os.getpid(), signal.SIGKILL)\n\
                MPI.COMM_WORLD.barrier(); print('passed')";
    let ran = cluster.run_in(&dir, &[&srun[..], CONNECTED[1], &["python3", "-c", dies]].concat());
    assert!(ran.code != 0 && ran.stdout.is_empty(), "{} {}", ran.code, ran.stdout);
}

fn pmix_nonsense(cluster: &Cluster) {
    // The address is the VM's own; busybox connects as anything could.
    let script = "uri=${PMIX_SERVER_URI41#*//}; echo ${PMIX_GDS_MODULE-none} ${uri%:*}; \
                  yes garbage | head -c 3000 | nc ${uri%:*} ${uri#*:}; echo ended";
    let ran = cluster.srun(&["-Q", "--mpi=pmix", "-n1", "--vm-image=tiny", "sh", "-c", script]);
    assert_eq!(ran.stderr.matches("speaks to Slurm's PMIx server").count(), 1, "{}", ran.stderr);
    assert_eq!(ran.ok(), "hash 127.80.0.1\nended\n");
    let refusal = ["--mpi=pmix with --vms-per-slot=2", "one rank", "--ntasks"];
    cluster.srun(&["--vm-image=tiny", "--mpi=pmix", "--vms-per-slot=2", "true"]).fails_with_one_line(&refusal);
}

/// Older ones name no server to clients since 4.1, as if this TaskProlog were theirs.
fn pmix_old(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("prolog"), "#!/bin/sh\necho unset PMIX_SERVER_URI41\n").unwrap();
    system(&["chmod", "755", dir.join("prolog").to_str().unwrap()]);
    let prolog = format!("--task-prolog={}", dir.join("prolog").display());
    let step = |words: &[&str]| {
        let srun = ["srun", "-Q", "-N1", "-n2", "--mem=900", &prolog, "--vm-image=tiny", "--vm-scope=node"];
        let ran = cluster.run_in(&dir, &[&srun[..], words, &["sh", "-c", "env | grep -c ^PMIX_; true"]].concat());
        let words = "Slurm's MPI interface pmix reaches into no VM, because this node's PMIx is older than 4.1";
        let told = ran.stderr.lines().filter(|line| line.contains(words)).map(str::to_owned).collect::<Vec<_>>();
        (ran, told)
    };
    for asked in ["--mpi=pmix", "--mpi=pmix_v4"] {
        let (ran, told) = step(&[asked]);
        assert!(
            ran.code == 125 && ran.stdout.is_empty() && told.iter().all(|line| line.contains("--mpi=pmi2")),
            "{ran:?}"
        );
        assert_eq!(told.len(), 2, "{ran:?}");
    }
    let path = cluster.slurm_conf();
    let none = fs::read_to_string(&path).unwrap();
    let _none = with_text(&path, &none.replace("MpiDefault=none", "MpiDefault=pmix"));
    let (ran, told) = step(&[]);
    let others = ran.stderr.lines().filter(|line| !is_chatter(line)).count();
    assert!(told.len() == 1 && others == 1, "{ran:?}");
    assert_eq!(ran.ok(), "0\n0\n");
}

/// The line of docs/parallel.md that starts it on one node; tests/network has that for two.
fn guide(cluster: &Cluster) {
    let lines = code("docs/parallel.md");
    let typed: Vec<&String> = lines.iter().filter(|line| line.ends_with("./hello") && line.contains("-N1")).collect();
    let [line] = typed[..] else { panic!("{typed:?}") };
    let dir = cluster.work_dir();
    fs::copy(repository().join("docs/examples/hello"), dir.join("hello")).unwrap();
    let typed = line.replace("srun", "srun -Q --mem=1500");
    let told = cluster.run_in(&dir, &["bash", "-c", &typed]).ok();
    let expected = [0, 1].map(|rank| format!("rank {rank} of 2 on vm-n0: the ranks' sum is 1"));
    let told: Vec<String> = sorted(&told).iter().map(|line| without_job(line)).collect();
    assert_eq!(told, expected);
}

/// The line with the VM's name as that of any job.
fn without_job(line: &str) -> String {
    let (before, after) = line.split_once(" on vm").unwrap_or_else(|| panic!("{line}"));
    format!("{before} on vm{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn mpirun(cluster: &Cluster) {
    for scope in ["slot", "node"] {
        mpirun_in(cluster, &["-Q", "-c2", "--mem=1500", "--vm-image=debian12-mpi", &format!("--vm-scope={scope}")]);
    }
}

fn mpirun_in(cluster: &Cluster, step: &[&str]) {
    let program = "from mpi4py import MPI; c = MPI.COMM_WORLD; print(c.allreduce(c.rank + 1), c.size)";
    let open_mpi = ["mpirun.openmpi", "-n", "2", "python3", "-c", program];
    assert_eq!(cluster.srun(&[step, &open_mpi].concat()).ok(), "3 2\n3 2\n");
    // A program of MPICH that fails if it cannot start: it prints what MPI_Init has set up.
    let mpich = ["sh", "-c", "mpirun.mpich -n 2 mpivars > out && grep -c 'MPI Control Variables' out"];
    assert_eq!(cluster.srun(&[step, &mpich].concat()).ok(), "2\n");
}
