//! Node VMs for tests: a Debian with its own kernel, systemd and Slurm, in which KVM works. See docs/lab.md.
//!
//! `testkit/lab/lab` makes and holds them; this module is the Rust side for tests. A lab ends with the process that
//! started it, however that process ends.

mod dead;
mod ended;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{forgetting_jobs, tell_of_forgetting};

pub use ended::Ended;

/// Deadline for one script in a node VM, in seconds.
const SCRIPT_S: &str = "240";

/// Deadline for a lab to be up, in seconds: two boots on a busy machine, and Slurm's registration.
const START_S: &str = "1300";

/// Deadline for a reboot until Slurm has the node back, in seconds.
const REBOOT_S: &str = "700";

/// How long a lab may take to end.
const END: Duration = Duration::from_secs(30);

/// Deadline for an event that a test waits for. Everything is slow here, and that must not make a test fail.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A lab that is up: one or two node VMs that form a cluster.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    nodes: u8,
    holder: Child,
}

impl Lab {
    /// Starts `nodes` node VMs of a Debian release and waits until Slurm has all of them.
    ///
    /// The caller's thread must live as long as the lab: when the thread ends, the lab ends.
    ///
    /// # Errors
    /// A text that says what did not come up, with the end of its console output.
    pub fn start(release: &str, nodes: u8) -> Result<Self, String> {
        Self::start_emulated(release, nodes, "single")
    }

    /// The same for measurements: a node's processors run at the same time, as real ones do. Now and then that loses a guest
    /// (docs/lab.md), so it is not for tests. `SPANK_VM_LAB_THREADS=single` in the environment emulates them as tests do.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_to_measure(release: &str, nodes: u8) -> Result<Self, String> {
        let threads = std::env::var("SPANK_VM_LAB_THREADS").unwrap_or_else(|_| "multi".to_owned());
        Self::start_emulated(release, nodes, &threads)
    }

    fn start_emulated(release: &str, nodes: u8, threads: &str) -> Result<Self, String> {
        dead::sweep(Path::new("/tmp"));
        let name = format!("/tmp/{}{}.XXXXXX", dead::PREFIX, std::process::id());
        let made = Command::new("mktemp").args(["-d", &name]).output();
        let dir = PathBuf::from(text(made.map_err(|e| format!("mktemp: {e}"))?.stdout).trim());
        let log = fs::File::create(dir.join("hold.log")).map_err(|e| format!("{}: {e}", dir.display()))?;
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(program())
            .arg("hold")
            .arg(&dir)
            .args([release, &nodes.to_string()])
            .env("SPANK_VM_LAB_THREADS", threads)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("{}: {e}", program().display()))?;
        let mut lab = Self { dir, nodes, holder };
        lab.await_nodes().map_err(|why| {
            let said = fs::read_to_string(lab.dir.join("hold.log")).unwrap_or_default();
            format!("the lab of {release} does not come up: {why}{said}")
        })?;
        Ok(lab)
    }

    /// Waits until all nodes are up, or their holder is dead.
    fn await_nodes(&mut self) -> Result<(), String> {
        let mut waiting = self.tool(START_S, "wait", &[]).stdout(Stdio::null()).spawn().map_err(|e| e.to_string())?;
        loop {
            let up = waiting.try_wait().map_err(|e| e.to_string())?;
            let dead = self.holder.try_wait().map_err(|e| e.to_string())?;
            match (up, dead) {
                (Some(status), _) if status.success() => return Ok(()),
                (Some(_), _) => {
                    return Err(waiting.wait_with_output().map_or_else(|e| e.to_string(), |o| text(o.stderr)));
                }
                (None, Some(_)) => {
                    // The holder is dead, so there is nothing to wait for any more.
                    let _ = waiting.kill();
                    let _ = waiting.wait();
                    return Err(String::new());
                }
                (None, None) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// How many nodes it has.
    pub fn nodes(&self) -> u8 {
        self.nodes
    }

    /// The node's Slurm, QEMU, systemd and Linux: on each line a package's name and its version.
    pub fn versions(&self) -> String {
        fs::read_to_string(self.dir.join("versions")).unwrap_or_default()
    }

    /// Runs a script for bash in the first node VM as `user` ("root", "ada" who may use /dev/kvm, "bob" who may not),
    /// in the user's home, without a terminal.
    pub fn sh(&self, user: &str, script: &str) -> Ended {
        self.sh_on(1, user, script)
    }

    /// The same in node VM `node`. Each has files of its own.
    pub fn sh_on(&self, node: u8, user: &str, script: &str) -> Ended {
        let mut command = self.tool(SCRIPT_S, "sh", &["--node", &node.to_string(), "--user", user]);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("timeout is installed");
        // The script is short: it fits into a pipe, and bash reads it before any other program does.
        child.stdin.take().expect("it is a pipe").write_all(wrapped(script).as_bytes()).expect("the script is read");
        ended(child.wait_with_output().expect("a child can be waited for"))
    }

    /// Runs a script as root that must succeed, and returns its standard output.
    #[track_caller]
    pub fn root(&self, script: &str) -> String {
        self.sh("root", script).ok()
    }

    /// Runs `script` as root again and again until it succeeds.
    ///
    /// # Panics
    /// After [`PATIENCE`]; the message has `what` was waited for and the output of the last try.
    #[track_caller]
    pub fn wait_until(&self, what: &str, script: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let last = self.sh("root", script);
            if last.code == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "waited {} s until {what}: {last:?}", PATIENCE.as_secs());
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// The same for what a job does that was put back into the queue, which is told to begin before its two minutes are over. That
    /// counts for nothing while Slurm still ends the job's former run, and what it hears late of that one can end the next: so
    /// some seconds pass first.
    #[track_caller]
    pub fn wait_for_requeued(&self, what: &str, script: &str) {
        let begin = "sleep 5; squeue -h -t COMPLETING | grep -q . ||
            for job in $(squeue -h -t PENDING -o %i); do scontrol update jobid=$job starttime=now; done";
        self.wait_until(what, &format!("{{ {script}; }} || {{ {begin}; squeue; sinfo -hN -o '%N %T %E'; false; }}"));
    }

    /// Reboots the first node VM, whatever runs in it, and waits until Slurm has it back.
    #[track_caller]
    pub fn reboot(&self) {
        let done = self.tool(REBOOT_S, "reboot", &[]).output().expect("timeout is installed");
        assert!(done.status.success(), "{}", text(done.stderr));
    }

    /// Ends what a failed test left in the queue and gives its nodes back, so that the next one fails for its own reasons only.
    /// What does not end within [`PATIENCE`] is left.
    pub fn forget_jobs(&self) {
        let said = self.sh("root", &forgetting_jobs(PATIENCE));
        tell_of_forgetting(&said.stdout, &said.stderr);
    }

    /// Ends the lab and removes what it had.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(mut self) -> Result<(), String> {
        self.end()
    }

    fn end(&mut self) -> Result<(), String> {
        if !self.dir.exists() {
            return Ok(());
        }
        let pid = self.holder.id().to_string();
        if matches!(self.holder.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-TERM", &pid]).status();
        }
        let deadline = Instant::now() + END;
        while matches!(self.holder.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.holder.kill();
                return Err(format!("the lab in {} did not end within {} s", self.dir.display(), END.as_secs()));
            }
            thread::sleep(Duration::from_millis(50));
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(format!("{}: {error}", self.dir.display())),
            _ => Ok(()),
        }
    }

    fn tool(&self, seconds: &str, what: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "10", seconds]).arg(program()).arg(what).arg(&self.dir).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// bash reads the script as a whole before it begins, so that commands in it have an empty standard input.
fn wrapped(script: &str) -> String {
    format!("{{ {script}\n}} </dev/null; exit $?\n")
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/lab")
}

fn ended(output: Output) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Ended { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
