//! What sites configure in slurm.conf besides: a /tmp of each job's own, generic resources, large nodes, forwarded displays.
//!
//! Each needs daemons that were started with it. So these cases are for the night.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use testkit::Cluster;
use testkit::undo::{Undo, afterwards, with_text};
use testkit::wait::wait_for;

use crate::Case;

pub const LONG_CASES: &[Case] = &[
    ("a_job_with_a_tmp_of_its_own_shares_it_with_its_vms", private_tmp),
    ("a_step_with_a_generic_resource_is_the_same_in_a_vm", generic_resource),
    ("a_vm_of_eight_gigabytes_has_them_at_its_command_s_first_line", much_memory),
    ("a_forwarded_display_ends_at_the_node_and_the_step_runs", forwarded_display),
];

/// Runs `work` while the daemons were started with a changed slurm.conf and with these files beside it.
fn with_daemons_of(
    cluster: &Cluster,
    change: impl FnOnce(&str) -> String,
    beside: &[(&str, String)],
    work: impl FnOnce(),
) {
    let path = cluster.slurm_conf();
    let restart = || {
        all_are_idle(cluster);
        cluster.restart("slurmctld");
        cluster.nodes().iter().for_each(|node| cluster.restart(node));
        // A controller that was killed may remember jobs that have ended.
        cluster.run_as_root(&["scancel", "-u", &cluster.user]).ok();
        all_are_idle(cluster);
    };
    // Dropped last, when the files are as before.
    let _old = afterwards(restart);
    let files: Vec<(PathBuf, &String)> = beside.iter().map(|(name, text)| (path.with_file_name(name), text)).collect();
    let _beside: Vec<Undo<'_>> = files.iter().map(|(file, text)| with_text(file, text)).collect();
    let _file = with_text(&path, &change(&fs::read_to_string(&path).unwrap()));
    restart();
    work();
}

fn all_are_idle(cluster: &Cluster) {
    wait_for("all nodes idle", || {
        let states = cluster.run_as_root(&["sinfo", "-h", "-N", "-o", "%N %T"]).stdout;
        (states.lines().count() == cluster.nodes().len() && states.lines().all(|node| node.ends_with(" idle")))
            .then_some(())
    });
}

/// What a job writes there, and where it works, its VMs have by the rules for any other directory of the node.
fn private_tmp(_: &Cluster) {
    let cluster = &Cluster::outside_tmp().unwrap();
    let lines = "PrologFlags=Contain\nJobContainerType=job_container/tmpfs\n";
    let container = format!("AutoBasePath=true\nBasePath={}/of-jobs\n", cluster.dir.display());
    let change = |text: &str| format!("{text}\n{lines}");
    with_daemons_of(cluster, change, &[("job_container.conf", container)], || {
        let dir = cluster.work_dir();
        let script = "#!/bin/sh\nVM='-Q --mem=500 --vm-image=tiny'\necho of the job >/tmp/note\nsrun cat /tmp/note\n\
                      srun $VM ls -A /tmp\n\
                      srun $VM --vm-mount=/tmp:/mnt sh -c 'cat /mnt/note; echo of the VM >/mnt/answer'\ncat /tmp/answer\n\
                      mkdir /tmp/below; cd /tmp/below; srun $VM sh -c 'pwd; echo written there >file'; cat file\n";
        fs::write(dir.join("job"), script).unwrap();
        cluster.run_in(&dir, &["sbatch", "-Q", "--wait", "--mem=600", "-o", "out", "-e", "err", "job"]).ok();
        let said = fs::read_to_string(dir.join("out")).unwrap();
        let expected = "of the job\nof the job\nof the VM\n/tmp/below\nwritten there\n";
        assert_eq!(said, expected, "{}", fs::read_to_string(dir.join("err")).unwrap());
        assert!(!Path::new("/tmp/answer").exists() && !Path::new("/tmp/below").exists());
    });
    cluster.stop().unwrap();
}

fn generic_resource(cluster: &Cluster) {
    let change = |text: &str| {
        let line = |line: &str| match line.starts_with("NodeName=") {
            true => format!("{line} Gres=toy:2\n"),
            false => format!("{line}\n"),
        };
        format!("GresTypes=toy\n{}", text.lines().map(line).collect::<String>())
    };
    let devices = "Name=toy File=/dev/null\nName=toy File=/dev/zero\n".to_owned();
    with_daemons_of(cluster, change, &[("gres.conf", devices)], || {
        let step = |options: &[&str], many: &str| {
            let gres = format!("--gres=toy:{many}");
            let job = "scontrol -o show job $SLURM_JOB_ID | tr ' ' '\\n' | grep ^TresPer";
            let script = format!("{job}; \"$@\"");
            let allocation = ["salloc", "-Q", "--mem=500", &gres, "sh", "-c", &script, "sh", "srun", "-Q", &gres];
            let ran = cluster.run(&[&allocation, options, &["sh", "-c", "env | grep -ci toy; echo ran"]].concat());
            (ran.code, ran.stdout, ran.stderr)
        };
        let vm = ["--vm-image=tiny"];
        assert_eq!(step(&[], "2"), (0, "TresPerNode=gres:toy:2\n0\nran\n".into(), String::new()));
        for many in ["2", "3"] {
            assert_eq!(step(&vm, many), step(&[], many));
        }
    });
}

/// What a runtime reads when it starts decides how large its heap may become.
fn much_memory(cluster: &Cluster) {
    let change = |text: &str| text.replace("RealMemory=4096", "RealMemory=9000");
    with_daemons_of(cluster, change, &[], || {
        for _ in 0..3 {
            let pages = cluster.srun(&["--mem=8000", "--vm-image=debian12", "getconf", "_PHYS_PAGES"]).ok();
            let mib = pages.trim().parse::<u64>().unwrap() / 256;
            // QEMU keeps 168 MiB; the guest's kernel describes the rest in a sixtieth of it.
            assert!(mib > 7600, "{mib}");
        }
    });
}

/// A display of nobody's, but with the files that srun wants to see.
struct Display {
    _socket: UnixListener,
    made_dir: bool,
}

impl Display {
    const DIR: &str = "/tmp/.X11-unix";
    const SOCKET: &str = "/tmp/.X11-unix/X97";

    fn new() -> Self {
        let made_dir = fs::create_dir(Self::DIR).is_ok();
        let open = |path| fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).unwrap();
        if made_dir {
            open(Self::DIR);
        }
        let socket = UnixListener::bind(Self::SOCKET).unwrap();
        open(Self::SOCKET);
        Self { _socket: socket, made_dir }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::SOCKET);
        if self.made_dir {
            let _ = fs::remove_dir(Self::DIR);
        }
    }
}

fn forwarded_display(cluster: &Cluster) {
    let _display = Display::new();
    with_daemons_of(
        cluster,
        |text| format!("{text}\nPrologFlags=X11\n"),
        &[],
        || {
            let step = |options: &str| {
                let script = format!(
                    "export HOME=$PWD XAUTHORITY=$PWD/cookies DISPLAY=:97; \
                 xauth -q add $(hostname)/unix:97 MIT-MAGIC-COOKIE-1 0123456789abcdef0123456789abcdef 2>/dev/null; \
                 srun -Q --x11 --mem=500 {options} sh -c 'echo ${{DISPLAY-no display}} ${{XAUTHORITY-no cookies}}; exit 3'"
                );
                let ran = cluster.run_in(&cluster.work_dir(), &["sh", "-c", &script]);
                assert_eq!(ran.code, 3, "{ran:?}");
                ran.stdout
            };
            let bare = step("");
            assert!(bare.starts_with("localhost:") && bare.contains("/.Xauthority-"), "{bare}");
            assert_eq!(step("--vm-image=tiny"), "no display no cookies\n");
            let passed = step("--vm-image=tiny --vm-env=DISPLAY");
            assert!(passed.starts_with("localhost:") && passed.ends_with(" no cookies\n"), "{passed}");
        },
    );
}
