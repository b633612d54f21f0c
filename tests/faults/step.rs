//! A VM step that runs, and the processes it consists of.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

use testkit::wait::{wait_for, wait_for_file};
use testkit::{Cluster, Ran, is_chatter, process, ran};

use crate::Saw;

/// Start of a script that waits for the test; add what the script does after that.
pub const UNTIL_TOLD: &str = "while [ ! -e go-on ]; do sleep 0.05; done; ";

/// The node that all faults happen on.
pub fn node(cluster: &Cluster) -> String {
    cluster.nodes().remove(0)
}

/// A step of one task whose command runs in a VM.
#[derive(Debug)]
pub struct Step {
    srun: Option<Child>,
    /// Its working directory: the test signals it by files made here.
    pub dir: PathBuf,
    state_dir: PathBuf,
}

impl Step {
    /// Starts `script` in a VM and waits until it runs.
    pub fn running(cluster: &Cluster, options: &[&str], script: &str) -> Self {
        let step = Self::started(cluster, options, script);
        wait_for_file(&step.dir.join("running"));
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
            process::is_named(pid, "spank-vm").then_some(pid)
        })
    }

    /// Its QEMU, once there is one.
    pub fn qemu(&self) -> i32 {
        let runner = self.runner();
        wait_for("QEMU", || process::all().find(|&pid| process::parent(pid) == Some(runner) && process::is_vm(pid)))
    }

    /// The server of its shares, once there is one.
    pub fn file_server(&self) -> i32 {
        let runner = self.runner();
        let is_server = |pid: &i32| process::words(*pid).get(1).is_some_and(|word| word == "file-server");
        wait_for("the file server", || {
            process::all().find(|pid| process::parent(*pid) == Some(runner) && is_server(pid))
        })
    }

    /// The slurmstepd that started the runner.
    pub fn slurmstepd(&self) -> i32 {
        let stepd = process::parent(self.runner()).expect("a parent");
        assert!(process::is_named(stepd, "slurmstepd"), "{stepd}");
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
            // Not SIGKILL: the program before srun passes this signal on, and srun cancels the job.
            process::signal(srun.id() as i32, libc::SIGTERM);
            let _ = srun.wait();
        }
    }
}

/// What a step showed to its user.
pub trait Shown {
    /// Asserts the exit code, and that the output contains all of `words`; records the output as what the user saw.
    fn saw(self, since: Instant, code: i32, words: &[&str]) -> Saw;
}

impl Shown for Ran {
    #[track_caller]
    fn saw(self, since: Instant, code: i32, words: &[&str]) -> Saw {
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
