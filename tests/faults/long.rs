//! Many VMs, so that small leaks become visible.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use testkit::random::Random;
use testkit::wait::wait_for;
use testkit::{Cluster, ran};

use crate::remains::scratch_in_use;
use crate::{Fault, Saw};

pub const FAULTS: &[Fault] = &[
    Fault { area: "load", name: "200 VM jobs, one after the other on each of two nodes", tries: 1, run: in_a_row },
    Fault { area: "load", name: "64 VMs at once, cancelled at random moments", tries: 2, run: cancelled },
    Fault { area: "load", name: "64 jobs of an array, cancelled at random moments", tries: 1, run: array_cancelled },
    Fault { area: "load", name: "1,000 clones: memory and descriptors of the daemons", tries: 1, run: thousand },
];

fn in_a_row(cluster: &Cluster) -> Saw {
    let since = Instant::now();
    let row = |node: &str| {
        let script =
            "for i in $(seq 100); do srun -Q -w \"$0\" --vm-image=tiny echo \"$i\" || echo \"$i failed\"; done";
        let mut shell = cluster.command_in(&cluster.work_dir(), &["bash", "-c", script, node]);
        shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let rows: Vec<Child> = cluster.nodes().iter().take(2).map(|node| row(node)).collect();
    for shell in rows {
        let printed = ran(shell.wait_with_output().unwrap()).ok();
        let expected: String = (1..=100).map(|number| format!("{number}\n")).collect();
        assert_eq!(printed, expected);
    }
    saw(since, "200 outputs, 200 times exit 0")
}

/// Eight tasks of eight VMs fill the cluster.
fn cancelled(cluster: &Cluster) -> Saw {
    let task = || {
        let options = ["--vms-per-slot=8", "--mem=2048", "-J", "many", "--vm-image=tiny"];
        let argv = [&["srun", "-Q", "-n1", "-c1"], &options[..], &["sleep", "1000"]].concat();
        let mut srun = cluster.command_in(&cluster.work_dir(), &argv);
        srun.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let tasks: Vec<Child> = (0..8).map(|_| task()).collect();
    let jobs = wait_for("eight jobs", || {
        let listed = cluster.run(&["squeue", "-h", "-n", "many", "-o", "%i"]).ok();
        let jobs: Vec<String> = listed.lines().map(str::to_owned).collect();
        (jobs.len() == 8).then_some(jobs)
    });
    let since = Instant::now();
    let mut random = Random::seeded();
    for job in jobs {
        std::thread::sleep(Duration::from_millis(random.below(1500)));
        cluster.run(&["scancel", &job]).ok();
    }
    for task in tasks {
        let ended = ran(task.wait_with_output().unwrap());
        assert_ne!(ended.code, 0, "{ended:?}");
    }
    saw(since, "64 VMs cancelled while they started or ran")
}

fn array_cancelled(cluster: &Cluster) -> Saw {
    let dir = cluster.work_dir();
    let submit =
        ["sbatch", "--parsable", "-a", "0-63", "-o", "out-%a", "--vm-image=tiny", "--mem=600", "--wrap", "sleep 3"];
    let array = cluster.run_in(&dir, &submit).ok().trim().to_owned();
    let since = Instant::now();
    let mut random = Random::seeded();
    let mut tasks: Vec<u64> = (0..64).collect();
    while !tasks.is_empty() {
        let task = tasks.swap_remove(random.below(tasks.len() as u64) as usize);
        std::thread::sleep(Duration::from_millis(random.below(400)));
        // Slurm no longer knows a job that has ended already.
        cluster.run(&["scancel", &format!("{array}_{task}")]);
    }
    wait_for("the end of all", || cluster.run(&["squeue", "-h", "-j", &array]).stdout.is_empty().then_some(()));
    for entry in fs::read_dir(&dir).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap();
        let said: Vec<&str> = text.lines().filter(|line| !line.contains("CANCELLED")).collect();
        assert!(said.is_empty(), "{}: {text}", entry.path().display());
    }
    saw(since, "each job ended or was cancelled, without a word of ours")
}

fn thousand(cluster: &Cluster) -> Saw {
    let before = memory_of_daemons(cluster);
    let since = Instant::now();
    let mut clones = 0;
    while clones < 1000 {
        let options = ["-n8", "--ntasks-per-node=2", "--vms-per-slot=8", "--mem=4096", "--vm-image=tiny"];
        let printed = cluster.srun(&[&options[..], &["echo", "fine"]].concat()).ok();
        assert_eq!(printed.lines().filter(|line| *line == "fine").count(), 64, "{printed}");
        clones += 64;
    }
    cluster.nothing_is_left().unwrap();
    assert_eq!(scratch_in_use(cluster), 0);
    let (mut grown, mut worst) = (Vec::new(), 0);
    for ((name, before), (_, after)) in before.into_iter().zip(memory_of_daemons(cluster)) {
        let kib = after.saturating_sub(before);
        worst = worst.max(kib);
        // Daemons keep some memory for each job; a leak of one page per clone would be 4 MiB.
        if kib > 3072 {
            grown.push(format!("{name} by {kib} KiB"));
        }
    }
    assert!(grown.is_empty(), "{grown:?}");
    saw(since, &format!("{clones} outputs; no daemon grew by more than {worst} KiB"))
}

/// Resident KiB of slurmctld and the slurmds.
fn memory_of_daemons(cluster: &Cluster) -> Vec<(String, u64)> {
    let records = fs::read_dir(cluster.dir.join("slurm/run")).unwrap().flatten().map(|entry| entry.path());
    let mut all: Vec<(String, u64)> = records
        .filter(|path| path.extension().is_some_and(|end| end == "pid"))
        .filter_map(|path| {
            let pid = fs::read_to_string(&path).ok()?.split(' ').next()?.to_owned();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            let kib = line.split_whitespace().next()?.parse().ok()?;
            Some((path.file_stem()?.to_string_lossy().into_owned(), kib))
        })
        .collect();
    all.sort();
    all
}

fn saw(since: Instant, text: &str) -> Saw {
    Saw { since, text: text.to_owned() }
}
