//! A VM stays within what Slurm gave its task, and whatever is full is reported in one line.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::process;
use testkit::undo::afterwards;
use testkit::wait::wait_for_file;
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("qemu_is_in_the_control_groups_and_on_the_processors_of_its_task", membership),
    ("what_other_steps_of_the_job_use_is_not_given_to_a_guest", shared_job),
    ("a_guest_that_eats_all_its_memory_loses_the_eater_and_the_step_lives", hungry_guest),
    ("files_larger_than_a_guest_s_memory_do_not_hurt_it", page_cache),
    ("a_qemu_that_the_node_kills_for_lack_of_memory_is_out_of_memory_to_slurm", hungry_neighbour),
    ("a_full_scratch_directory_ends_the_vm_and_is_not_the_node_s_fault", full_scratch),
    ("a_guest_that_fills_its_disk_is_told_so_and_lives", full_disk),
];

/// Perl that takes memory until it is stopped.
const EAT_ALL: &str = "my @b; for (;;) { push @b, q(x) x (4 << 20) }";

/// Starts `srun OPTIONS sh -c 'touch up; wait for go; REST'`, and returns once it is up.
fn start_waiting(cluster: &Cluster, dir: &Path, options: &[&str], rest: &str) -> Child {
    let script = format!("touch up; while [ ! -e go ]; do sleep 0.1; done; {rest}");
    let argv = [&["srun"], options, &["sh", "-c", &script]].concat();
    let child = cluster.command_in(dir, &argv).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("up"));
    child
}

/// Whether this machine lets Slurm enforce memory.
fn is_enforced(cluster: &Cluster) -> bool {
    fs::read_to_string(cluster.dir.join("slurm/etc/cgroup.conf")).unwrap().contains("ConstrainRAMSpace=yes")
}

fn only_qemu(cluster: &Cluster) -> i32 {
    let found = cluster.qemus();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

fn membership(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let step = start_waiting(cluster, &dir, &["--vm-image=tiny", "-n1", "-c1", "--mem=500"], "true");
    let qemu = only_qemu(cluster);
    let runner = process::parent(qemu).unwrap();
    let groups = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(groups(qemu), groups(runner));
    if is_enforced(cluster) {
        for controller in ["memory", "cpuset"] {
            let of_step = |line: &str| line.contains("/job_") && line.contains("/step_0");
            let v1 = format!(":{controller}:");
            assert!(groups(qemu).lines().any(|line| (line.contains(&v1) || line.starts_with("0::")) && of_step(line)));
        }
    }
    // All threads: a guest with more processors than its task must not get more processor time.
    let allowed = process::field(runner, "Cpus_allowed_list:").unwrap();
    assert!(allowed.parse::<u32>().is_ok(), "the task is bound to one processor: {allowed}");
    for thread in fs::read_dir(format!("/proc/{qemu}/task")).unwrap().flatten() {
        assert_eq!(process::field_in(&thread.path(), "Cpus_allowed_list:").unwrap(), allowed);
    }
    fs::write(dir.join("go"), "").unwrap();
    ran(step.wait_with_output().unwrap()).ok();
}

/// Starts a bare step that holds so many MiB until it is killed, and returns once it has them.
fn start_holding(cluster: &Cluster, dir: &Path, options: &[&str], mib: u32) -> Child {
    let hold = format!("$| = 1; my $b; $b .= q(x) x 1048576 for 1..{mib}; print qq(held\\n); sleep 200");
    let argv = [&["srun", "-o", "held"], options, &["perl", "-e", &hold]].concat();
    let child = cluster.command_in(dir, &argv).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(dir.join("held")).unwrap_or_default().is_empty() {
        assert!(Instant::now() < deadline, "the step that holds memory did not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    child
}

/// Number of the one job there is.
fn only_job(cluster: &Cluster) -> String {
    cluster.run(&["squeue", "-h", "-o", "%A"]).ok().trim().to_owned()
}

fn shared_job(cluster: &Cluster) {
    let mut holder = start_holding(cluster, &cluster.work_dir(), &["--mem=800"], 300);
    let job = only_job(cluster);
    let jobid = format!("--jobid={job}");
    let step = [&jobid, "--overlap", "--mem=800", "--vm-image=tiny"];
    let refused = cluster.srun(&[&step[..], &["--vm-mem=600", "true"]].concat());
    let fits = cluster.srun(&[&step[..], &["awk", "/MemTotal/ {print int($2 / 1024)}", "/proc/meminfo"]].concat());
    cluster.run(&["scancel", &job]).ok();
    holder.wait().unwrap();
    if !is_enforced(cluster) {
        // Slurm sets no limit that the steps could share, so each VM has what it asked for.
        assert_eq!((refused.code, refused.stderr.as_str()), (0, ""), "{refused:?}");
        let mib: u32 = fits.ok().trim().parse().unwrap();
        assert!(mib > 600, "{mib}");
        return;
    }
    refused.fails_with_one_line(&[
        "a VM of 600 MiB needs 130 MiB more",
        "of the 800 MiB of job_",
        "MiB are in use by others",
    ]);
    let mib: u32 = fits.ok().trim().parse().unwrap();
    assert!((250..=370).contains(&mib), "{mib}");
}

fn hungry_guest(cluster: &Cluster) {
    let ran = cluster.srun(&["--vm-image=debian12", "--mem=450", "perl", "-e", EAT_ALL]);
    assert_eq!(ran.code, 128 + 9, "{ran:?}");
    let told = ran.stderr.lines().filter(|line| line.contains("the VM ran out of memory")).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].contains("'perl'") && told[0].contains("--mem"), "{ran:?}");
    assert!(!ran.stderr.contains("oom-kill") && !ran.stderr.contains("Out Of Memory"), "{ran:?}");
    // A command that survives its child reports what happened to it.
    let script = format!("perl -e '{EAT_ALL}'; echo status $?");
    let ran = cluster.srun(&["--vm-image=debian12", "--mem=450", "sh", "-c", &script]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "status 137\n"), "{ran:?}");
}

fn page_cache(cluster: &Cluster) {
    let script = "for file in /var/big big; do dd if=/dev/zero of=$file bs=1M count=200 2>/dev/null && \
                  cat $file >/dev/null && echo $file; done; rm big";
    let ran = cluster.srun(&["--vm-image=tiny", "--vm-root", "--mem=300", "sh", "-c", script]);
    assert_eq!(ran.ok(), "/var/big\nbig\n");
}

/// The guest uses all memory that its step was promised; then a neighbour in the job takes more than is left.
fn hungry_neighbour(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let eat =
        "my $b; $b .= q(x) x 1048576 for 1..140; open F, q(>up); close F; for (1..120) { exit if -e q(go); sleep 1 }";
    let argv = ["srun", "--vm-image=debian12", "--mem=400", "perl", "-e", eat];
    let step = cluster.command_in(&dir, &argv).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("up"));
    let job = only_job(cluster);
    let options = [&format!("--jobid={job}"), "--overlap", "--mem=400"];
    let mut neighbour = start_holding(cluster, &dir, &options, 230);
    let is_enforced = is_enforced(cluster);
    if !is_enforced {
        fs::write(dir.join("go"), "").unwrap();
    }
    let ran = ran(step.wait_with_output().unwrap());
    let _ = cluster.run(&["scancel", &job]);
    let _ = neighbour.wait();
    if !is_enforced {
        // Without a limit the neighbour takes nothing from the guest.
        ran.ok();
        return;
    }
    assert_ne!(ran.code, 0);
    let own = "the node's kernel killed QEMU, because the memory of this task is used up";
    assert!(ran.stderr.contains(own), "{ran:?}");
    assert!(ran.stderr.contains("Out Of Memory") && ran.stderr.contains("oom-kill event"), "{ran:?}");
}

fn full_scratch(cluster: &Cluster) {
    let small = cluster.dir.join("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m,mode=1777", "tmpfs"]).arg(&small).status();
    assert!(mounted.unwrap().success());
    let mounted = afterwards(|| {
        // After a failure something may still be open; then that failure is the one to report.
        let lazily = if std::thread::panicking() { "-l" } else { "-v" };
        assert!(Command::new("umount").arg(lazily).arg(&small).status().unwrap().success());
        fs::remove_dir(&small).unwrap();
    });
    cluster.with_config(&format!("scratch_dir = '{}'\n", small.display()), || {
        let script = "dd if=/dev/zero of=/var/big bs=1M count=200 && sync && echo written";
        let ended = cluster.srun(&["--vm-image=tiny", "--vm-root", "sh", "-c", script]);
        assert_eq!((ended.code, ended.stdout.as_str()), (125, ""), "{ended:?}");
        ended.fails_with_one_line(&["no space is left", "scratch_dir"]);
        fs::write(small.join("fill"), vec![1; 32 << 20]).unwrap_err();
        let refused = cluster.srun(&["--vm-image=tiny", "true"]);
        assert_eq!(refused.code, 125, "{refused:?}");
        refused.fails_with_one_line(&["No space left", "scratch_dir"]);
        // A Prolog does not drain the node either.
        assert_eq!(cluster.tool("root", &["check", "--node"]).ok(), "");
    });
    cluster.nothing_is_left().unwrap();
    drop(mounted);
}

/// A kit whose private disks are small: `kit build --scratch` without the build.
fn full_disk(cluster: &Cluster) {
    let kit = cluster.dir.join("small-kit");
    fs::create_dir(&kit).unwrap();
    for file in fs::read_dir(cluster.dir.join("kit")).unwrap().flatten() {
        symlink(file.path(), kit.join(file.file_name())).unwrap();
    }
    let disk = kit.join("scratch.ext4");
    fs::remove_file(&disk).unwrap();
    fs::File::create(&disk).unwrap().set_len(32 << 20).unwrap();
    assert!(Command::new("/sbin/mkfs.ext4").args(["-q", "-F", "-L", "scratch"]).arg(&disk).status().unwrap().success());
    cluster.with_config(&format!("kit = '{}'\n", kit.display()), || {
        let script =
            "dd if=/dev/zero of=/var/big bs=1M count=200 || echo full; rm /var/big; echo x >/var/small && echo alive";
        let ended = cluster.srun(&["--vm-image=tiny", "--vm-root", "sh", "-c", script]);
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "full\nalive\n"), "{ended:?}");
        assert!(ended.stderr.contains("No space left on device"), "{ended:?}");
    });
    fs::remove_dir_all(kit).unwrap();
}
