//! Processes of the node are killed or stopped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use testkit::process::{all, is_there, parent, signal, words};
use testkit::wait::{wait_for, wait_for_file};
use testkit::{Cluster, system};

use crate::remains::{of_templates, templates};
use crate::step::{Shown, Step, UNTIL_TOLD, node};
use crate::{Fault, Saw};

const fn host(name: &'static str, tries: u32, run: fn(&Cluster) -> Saw) -> Fault {
    Fault { area: "node", name, tries, run }
}

pub const FAULTS: &[Fault] = &[
    host("QEMU is killed while the command runs", 3, qemu_killed),
    host("the file server of a VM is killed while the command runs", 3, file_server_killed),
    host("a file system of the host hangs, and the step is cancelled", 1, file_system_hangs),
    host("QEMU is killed while the guest starts", 1, qemu_killed_early),
    host("one of four QEMUs of a slot is killed", 1, one_of_four),
    host("the runner is killed while the command runs", 3, runner_killed),
    host("the runner is killed while it makes a template", 1, builder_killed),
    host("QEMU is killed while it boots for a template", 1, builder_s_qemu_killed),
    host("slurmstepd is killed; the step is cancelled later", 1, slurmstepd_killed),
    host("slurmd is killed and started again", 1, slurmd_killed),
    host("slurmctld is killed and started again", 1, slurmctld_killed),
    host("slurmd and slurmstepd are killed, as in a crash of the node, and slurmd starts again", 1, node_reboot),
    host("QEMU is stopped for a while", 1, qemu_paused),
    host("QEMU is stopped and the step is cancelled", 1, qemu_stopped),
    host("QEMU is stopped before the guest answers", 1, qemu_stopped_early),
    host("runner and QEMU are stopped while the guest starts, for longer than it may take", 1, stopped_while_it_starts),
    host("the runner is stopped and the step is cancelled", 1, runner_stopped),
];

fn qemu_killed(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], "sleep 1000");
    let since = signal(step.qemu(), libc::SIGKILL);
    step.end().saw(since, 125, &["vm: error: image 'tiny' on ", "QEMU was killed (signal 9)"])
}

fn file_server_killed(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], "exec 3> lock; flock 3; echo > locked; sleep 1000");
    wait_for_file(&step.dir.join("locked"));
    let since = signal(step.file_server(), libc::SIGKILL);
    let lock = step.dir.join("lock").display().to_string();
    let saw = step.end().saw(since, 125, &["image 'tiny' on ", "the file server of the VM was killed (signal 9)"]);
    system(&["flock", "--nonblock", &lock, "true"]);
    saw
}

/// Only who asks there waits: other files, output and signals go on.
fn file_system_hangs(cluster: &Cluster) -> Saw {
    let script = format!(
        "{UNTIL_TOLD} trap 'echo a signal > signalled' USR1; (echo > slow/file) & sleep 0.5; echo here; echo > alive; \
         while :; do sleep 0.1; done"
    );
    let step = Step::running(cluster, &[], &script);
    let slow = Frozen::below(&step.dir);
    let since = Instant::now();
    step.tell();
    wait_for_file(&step.dir.join("alive"));
    cluster.run(&["scancel", "-s", "USR1", "-n", "faulty"]).ok();
    wait_for_file(&step.dir.join("signalled"));
    let ended = step.cancel(cluster);
    drop(slow);
    // What hangs in the host's kernel cannot be killed, in a VM or not: srun waits no longer than it does for any such step.
    let code = ended.code;
    ended.saw(since, code, &["here", "CANCELLED"])
}

/// A file system on which whoever writes waits; it goes away with this value.
struct Frozen {
    disk: PathBuf,
    mounted: PathBuf,
}

impl Frozen {
    fn below(dir: &Path) -> Self {
        let (disk, mounted) = (dir.with_extension("disk"), dir.join("slow"));
        File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        fs::create_dir(&mounted).unwrap();
        let text = |path: &Path| path.display().to_string();
        system(&["mkfs.ext4", "-q", "-E", "root_owner=65534:65534", &text(&disk)]);
        system(&["mount", "-o", "loop", &text(&disk), &text(&mounted)]);
        system(&["chmod", "1777", &text(&mounted)]);
        system(&["fsfreeze", "--freeze", &text(&mounted)]);
        Self { disk, mounted }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.mounted).status();
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
        let _ = fs::remove_file(&self.disk);
    }
}

fn qemu_killed_early(cluster: &Cluster) -> Saw {
    let mut since = None;
    let mut ended = None;
    // A boot, because it gives time for an early kill; after a killed clone, the runner falls back to a boot.
    cluster.with_config("start = 'boot'\n", || {
        let step = Step::started(cluster, &[], "sleep 1000");
        since = Some(signal(step.qemu(), libc::SIGKILL));
        ended = Some(step.end());
    });
    ended.unwrap().saw(since.unwrap(), 125, &["QEMU was killed (signal 9)"])
}

fn one_of_four(cluster: &Cluster) -> Saw {
    let script = "echo > running-$SLURM_VM_INDEX; while [ ! -e go-on ]; do sleep 0.05; done";
    let step = Step::running(cluster, &["--vms-per-slot=4", "--mem=1200"], script);
    for number in 0..4 {
        wait_for_file(&step.dir.join(format!("running-{number}")));
    }
    let since = signal(step.qemu(), libc::SIGKILL);
    step.tell();
    step.end().saw(since, 125, &["vm: error: VM ", " of 0 to 3: image 'tiny' on ", "QEMU was killed (signal 9)"])
}

fn runner_killed(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], "sleep 1000");
    let since = signal(step.runner(), libc::SIGKILL);
    step.end().saw(since, 137, &["task 0: Killed"])
}

/// The draft and its lock stay until somebody makes the same template, or slurmd starts.
fn builder_killed(cluster: &Cluster) -> Saw {
    let before = templates(cluster);
    // Two processors: a template that no other row needs.
    let step = Step::started(cluster, &["-c2"], "sleep 1000");
    wait_for("a draft and its lock", || (of_templates(cluster).len() == 2).then_some(()));
    let since = signal(step.runner(), libc::SIGKILL);
    let saw = step.end().saw(since, 137, &["task 0: Killed"]);
    // Draft and lock, unless the sweep at the job's end has been here already.
    let left = of_templates(cluster);
    assert!(left.len() <= 2, "{left:?}");
    assert_eq!(templates(cluster), before, "none was made");
    restart(cluster, &node(cluster));
    saw
}

/// It says nothing about the image: this step boots, and the next one makes the template.
fn builder_s_qemu_killed(cluster: &Cluster) -> Saw {
    // Two processors: a template that no other row needs.
    let options = ["-c2"];
    let step = Step::started(cluster, &options, "echo > ran");
    let runner = step.runner();
    // Not the one that is only asked for its version.
    let boots = |pid: &i32| parent(*pid) == Some(runner) && words(*pid).iter().any(|word| word == "-machine");
    let since = signal(wait_for("a QEMU that boots", || all().find(boots)), libc::SIGKILL);
    let words = ["vm: warning: image 'tiny' starts slowly on ", "without a template: QEMU was killed (signal 9)"];
    let saw = step.end().saw(since, 0, &words);
    let next = Step::started(cluster, &options, "echo > ran").end();
    assert_eq!((next.code, next.stderr.contains("slowly")), (0, false), "{next:?}");
    saw
}

/// Slurm does not notice it, with VMs or without: srun waits until somebody cancels the step. But the VM is gone at
/// once.
fn slurmstepd_killed(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], "sleep 1000");
    let (slurmstepd, qemu) = (step.slurmstepd(), step.qemu());
    let since = signal(slurmstepd, libc::SIGKILL);
    wait_for("QEMU's end", || (!is_there(qemu)).then_some(()));
    let saw = cancelled(step, cluster, since);
    remove_cgroups(&node(cluster));
    saw
}

/// Slurm's own control groups, which only a living slurmstepd removes. They can be removed once they are empty.
pub fn remove_cgroups(node: &str) {
    let controllers = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let tops = controllers.map(|controller| controller.path().join(format!("slurm_{node}"))).filter(|top| top.exists());
    for top in tops {
        wait_for("empty control groups", || {
            let jobs = [top.to_str()?, "-mindepth", "1", "-depth", "-path", "*/uid_*", "-type", "d"];
            let _ = Command::new("find").args(jobs).args(["-exec", "rmdir", "{}", "+"]).output();
            let mut left = std::fs::read_dir(&top).ok()?.flatten();
            left.all(|entry| !entry.file_name().to_string_lossy().starts_with("uid_")).then_some(())
        });
    }
}

fn cancelled(step: Step, cluster: &Cluster, since: Instant) -> Saw {
    let ended = step.cancel(cluster);
    // No slurmstepd is left to report the end, so srun of 22.05 ends with 0.
    let code = ended.code;
    ended.saw(since, code, &["srun: "])
}

fn slurmd_killed(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], &format!("{UNTIL_TOLD} echo the command has ended well"));
    let since = Instant::now();
    restart(cluster, &node(cluster));
    step.tell();
    step.end().saw(since, 0, &["the command has ended well"])
}

fn slurmctld_killed(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], &format!("{UNTIL_TOLD} echo the command has ended well"));
    // It saves its state every few seconds; changes that it had no time to save are lost.
    let written = || std::fs::metadata(cluster.dir.join("slurm/state/job_state")).and_then(|meta| meta.modified()).ok();
    let before = std::time::SystemTime::now();
    let job = cluster.run(&["squeue", "-h", "-n", "faulty", "-o", "%A"]).ok();
    cluster.run(&["scontrol", "update", &format!("JobId={}", job.trim()), "Comment=changed"]).ok();
    wait_for("the controller's notes", || written().filter(|written| *written > before));
    let since = Instant::now();
    restart(cluster, "slurmctld");
    step.tell();
    step.end().saw(since, 0, &["the command has ended well"])
}

/// The leftovers of a node crash: there was no cleanup, and slurmd starts later.
fn node_reboot(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], "sleep 1000");
    let node = node(cluster);
    let slurmd = std::fs::read_to_string(cluster.dir.join(format!("slurm/run/{node}.pid"))).unwrap();
    let slurmd: i32 = slurmd.split(' ').next().unwrap().parse().unwrap();
    let (slurmstepd, qemu) = (step.slurmstepd(), step.qemu());
    signal(slurmd, libc::SIGKILL);
    let since = signal(slurmstepd, libc::SIGKILL);
    wait_for("QEMU's end", || (!is_there(qemu)).then_some(()));
    assert_eq!(std::fs::read_dir(cluster.dir.join("state")).unwrap().count(), 1, "the task's directory is left");
    let listed = cluster.tool("root", &["ps"]).ok();
    assert!(listed.contains(" gone"), "{listed}");
    restart(cluster, &node);
    wait_for("the sweep", || (std::fs::read_dir(cluster.dir.join("state")).unwrap().count() == 0).then_some(()));
    let saw = cancelled(step, cluster, since);
    remove_cgroups(&node);
    saw
}

fn qemu_paused(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], &format!("{UNTIL_TOLD} echo the command has ended well"));
    let qemu = step.qemu();
    let since = signal(qemu, libc::SIGSTOP);
    step.tell();
    std::thread::sleep(std::time::Duration::from_secs(2));
    signal(qemu, libc::SIGCONT);
    step.end().saw(since, 0, &["the command has ended well"])
}

fn qemu_stopped(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], "sleep 1000");
    let since = signal(step.qemu(), libc::SIGSTOP);
    cancelled(step, cluster, since)
}

fn qemu_stopped_early(cluster: &Cluster) -> Saw {
    let mut since = None;
    let mut ended = None;
    cluster.with_config("start = 'boot'\nboot_timeout_s = 3\n", || {
        let step = Step::started(cluster, &[], "sleep 1000");
        since = Some(signal(step.qemu(), libc::SIGSTOP));
        ended = Some(step.end());
    });
    ended.unwrap().saw(since.unwrap(), 125, &["no answer within 3 s"])
}

fn stopped_while_it_starts(cluster: &Cluster) -> Saw {
    let patience = 15;
    let mut since = None;
    let mut ended = None;
    cluster.with_config(&format!("start = 'boot'\nboot_timeout_s = {patience}\n"), || {
        let step = Step::started(cluster, &[], "echo it came up");
        let processes = [step.qemu(), step.runner()];
        since = processes.map(|pid| signal(pid, libc::SIGSTOP)).into_iter().min();
        std::thread::sleep(std::time::Duration::from_secs(patience + 1));
        for pid in processes {
            signal(pid, libc::SIGCONT);
        }
        ended = Some(step.end());
    });
    ended.unwrap().saw(since.unwrap(), 0, &["it came up"])
}

fn runner_stopped(cluster: &Cluster) -> Saw {
    let step = Step::running(cluster, &[], "sleep 1000");
    let since = signal(step.runner(), libc::SIGSTOP);
    cancelled(step, cluster, since)
}

/// Kills a daemon of the cluster unless it is dead, and starts it again.
fn restart(cluster: &Cluster, daemon: &str) {
    cluster.restart(daemon);
    wait_for("the controller", || cluster.run_as_root(&["scontrol", "ping"]).stdout.contains(" UP").then_some(()));
}
