//! A VM step that runs, and the processes it consists of.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::Saw;
use crate::cluster::{Cluster, Ran, ran};

/// Longest that anything awaited here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A script that ends when the test says so; to be followed by what it does then.
pub const UNTIL_TOLD: &str = "while [ ! -e go-on ]; do sleep 0.05; done; ";

/// The node that all faults happen on.
pub fn node(cluster: &Cluster) -> String {
    let nodes = cluster.command_as("root", Path::new("/"), &["sinfo", "-h", "-N", "-o", "%N"]).output().unwrap();
    String::from_utf8_lossy(&nodes.stdout).lines().next().expect("a node").to_owned()
}

/// A step of one task whose command runs in a VM.
#[derive(Debug)]
pub struct Step {
    srun: Option<Child>,
    /// Where it runs: files made here tell it things.
    pub dir: PathBuf,
    state_dir: PathBuf,
}

impl Step {
    /// Starts `script` in a VM and waits until it runs.
    pub fn running(cluster: &Cluster, options: &[&str], script: &str) -> Self {
        let step = Self::started(cluster, options, script);
        wait_for("the command", || step.dir.join("running").exists().then_some(()));
        step
    }

    /// Starts `script` in a VM and waits for nothing.
    pub fn started(cluster: &Cluster, options: &[&str], script: &str) -> Self {
        let dir = cluster.work_dir();
        let script = format!("echo > running; {script}");
        let head = ["srun", "-w", &node(cluster), "-J", "faulty", "--vm-image=tiny"];
        let argv = [&head, options, &["sh", "-c", &script]].concat();
        let mut command = cluster.command_in(&dir, &argv);
        let srun = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { srun: Some(srun), dir, state_dir: cluster.dir.join("state") }
    }

    /// Lets a script that began with [`UNTIL_TOLD`] go on.
    pub fn tell(&self) {
        fs::write(self.dir.join("go-on"), "").unwrap();
    }

    /// The runner, once there is one.
    pub fn runner(&self) -> i32 {
        wait_for("the runner", || {
            let task = fs::read_dir(&self.state_dir).ok()?.flatten().find(|entry| entry.path().is_dir())?;
            let status = fs::read_to_string(task.path().join("status.toml")).ok()?;
            let pid =
                status.lines().find_map(|line| line.strip_prefix("runner = \""))?.split('-').next()?.parse().ok()?;
            is_named(pid, "spank-vm").then_some(pid)
        })
    }

    /// Its QEMU, once there is one.
    pub fn qemu(&self) -> i32 {
        let runner = self.runner();
        wait_for("QEMU", || processes().find(|&pid| parent(pid) == Some(runner) && is_named(pid, "qemu")))
    }

    /// The slurmstepd that started the runner.
    pub fn slurmstepd(&self) -> i32 {
        let stepd = parent(self.runner()).expect("a parent");
        assert!(is_named(stepd, "slurmstepd"), "{stepd}");
        stepd
    }

    /// Waits for its end as the user sees it.
    pub fn end(mut self) -> Ran {
        ran(self.srun.take().expect("taken once").wait_with_output().unwrap())
    }

    /// Cancels it and waits.
    pub fn cancel(self, cluster: &Cluster) -> Ran {
        cluster.run(&["scancel", "-n", "faulty"]).ok();
        self.end()
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // A row that failed in the middle must not leave its job to the others.
        if let Some(mut srun) = self.srun.take() {
            // Not killed: what stands before srun passes this on, and srun cancels the job.
            signal(srun.id() as i32, libc::SIGTERM);
            let _ = srun.wait();
        }
    }
}

impl Ran {
    /// Asserts the exit code and that all of `words` are in what was printed, and makes it what the user saw.
    #[track_caller]
    pub fn saw(self, since: Instant, code: i32, words: &[&str]) -> Saw {
        let all = format!("{}{}", self.stdout, self.stderr);
        assert_eq!(self.code, code, "{all}");
        for word in words {
            assert!(all.contains(word), "'{word}' is not in: {all}");
        }
        let lines = self.stdout.lines().chain(self.stderr.lines().filter(|line| !is_chatter(line)));
        let text = lines.map(|line| format!("`{}`", line.replace(['|', '`'], "'"))).collect::<Vec<_>>().join("<br>");
        let code = if code == 0 { String::new() } else { format!("exit {code}<br>") };
        Saw { since, text: format!("{code}{text}") }
    }
}

/// srun's lines about waiting for its turn depend on how long the job before took to end.
fn is_chatter(line: &str) -> bool {
    line.trim().is_empty() || line.contains("queued and waiting") || line.contains("has been allocated resources")
}

/// Waits until `look` finds something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not there in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal and says when.
pub fn signal(pid: i32, signo: i32) -> Instant {
    let signal = nix::sys::signal::Signal::try_from(signo).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    Instant::now()
}

/// Runs a command of root's outside the cluster.
#[track_caller]
pub fn system(words: &[&str]) -> ExitStatus {
    let done = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.signal(), None);
    done.status
}

/// All processes.
pub fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether the process lives and its program's name begins with `name`.
pub fn is_named(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name))
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
