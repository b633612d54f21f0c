//! A private Slurm, and ways to run things on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::User;

use crate::place::{built, cluster_script};
use crate::process;
use crate::ran::{Ran, ran};
use crate::undo::afterwards;
use crate::wait::wait_for;

/// Deadline for any command of a test.
const COMMAND_TIMEOUT_S: &str = "600";

/// Deadline for the leftovers of a finished job to disappear.
const SETTLE: Duration = Duration::from_secs(15);

/// Deadline for jobs that a failed case has left to end.
const FORGET: Duration = Duration::from_secs(90);

/// Set to anything, each node of a cluster is in a network of its own; the process that starts it must be in no network
/// of the machine.
pub const OWN_NETWORKS: &str = "SPANK_VM_OWN_NETWORKS";

/// Nodes of a cluster.
const NODES: usize = 4;

/// A running cluster of four nodes with the plugin, in a directory that every user may read. It ends at the
/// latest when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// All files of the cluster are below this directory.
    pub dir: PathBuf,
    /// The ordinary user that submits.
    pub user: String,
    number: AtomicU32,
    is_stopped: AtomicBool,
}

impl Cluster {
    /// Starts a cluster whose nodes have enough memory for the tests.
    ///
    /// # Errors
    ///
    /// See [`Self::with_memory`].
    pub fn start() -> Result<Self, String> {
        Self::with_memory(4096)
    }

    /// Copies what was built to a place all users can read, and starts Slurm there with so many MiB per node.
    ///
    /// # Errors
    ///
    /// If something was not built, or a daemon does not come up; the text says which.
    pub fn with_memory(node_mib: u64) -> Result<Self, String> {
        Self::below("/tmp", node_mib)
    }

    /// A cluster for jobs that see another `/tmp` than the cluster's daemons, where one in `/tmp` would be hidden.
    ///
    /// # Errors
    ///
    /// See [`Self::with_memory`].
    pub fn outside_tmp() -> Result<Self, String> {
        Self::below("/var/tmp", 4096)
    }

    fn below(parent: &str, node_mib: u64) -> Result<Self, String> {
        for (name, file) in [("stage", "lib/spank_vm.so"), ("kit", "kit.toml"), ("images", "tiny.toml")] {
            let needed = built(name).join(file);
            if !needed.exists() {
                return Err(format!("{} is missing: run 'make build kit images'", needed.display()));
            }
        }
        let user = run(Command::new(cluster_script()).arg("user"))?.trim().to_owned();
        let dir =
            PathBuf::from(run(Command::new("mktemp").args(["-d", &format!("{parent}/spank-vm-test.XXXXXX")]))?.trim());
        // From here on, any error leads to a cleanup.
        let cluster = Self { dir, user, number: AtomicU32::new(0), is_stopped: AtomicBool::new(false) };
        run(Command::new("chmod").arg("755").arg(&cluster.dir))?;
        for name in ["stage", "kit", "images"] {
            run(Command::new("cp").arg("-aT").arg(built(name)).arg(cluster.dir.join(name)))?;
        }
        fs::create_dir(cluster.dir.join("scratch")).map_err(|e| e.to_string())?;
        run(Command::new("chmod").arg("1777").arg(cluster.dir.join("scratch")))?;
        cluster.configure("", "");
        let (nodes, memory) = (NODES.to_string(), node_mib.to_string());
        let mut start = Command::new(cluster_script());
        start.arg("start").arg(cluster.slurm_dir()).args(["--nodes", &nodes, "--cpus", "2", "--memory", &memory]);
        if std::env::var_os(OWN_NETWORKS).is_some() {
            start.args(["--own-networks", "yes"]);
        }
        run(start.arg("--plugstack").arg(cluster.dir.join("plugstack.conf")))?;
        Ok(cluster)
    }

    /// The directory that the cluster's script calls DIR: Slurm's configuration, logs and state.
    pub fn slurm_dir(&self) -> PathBuf {
        self.dir.join("slurm")
    }

    /// The configuration file that Slurm's commands must use.
    pub fn slurm_conf(&self) -> PathBuf {
        self.slurm_dir().join("etc/slurm.conf")
    }

    /// Writes the site's configuration and the plugin's line; `config` replaces keys of the
    /// default, `plugin_arguments` arguments of the line.
    pub fn configure(&self, config: &str, plugin_arguments: &str) {
        let dir = self.dir.display();
        let defaults = [
            ("image_dirs", format!("['{dir}/images']")),
            ("kit", format!("'{dir}/kit'")),
            ("accel", "'tcg'".to_owned()),
            ("allow_root", "true".to_owned()),
            ("state_dir", format!("'{dir}/state'")),
            ("template_dir", format!("'{dir}/templates'")),
            ("scratch_dir", format!("'{dir}/scratch'")),
        ];
        let mut text: String = defaults
            .iter()
            .filter(|(key, _)| !config.lines().any(|line| line.starts_with(&format!("{key} "))))
            .map(|(key, value)| format!("{key} = {value}\n"))
            .collect();
        text.push_str(config);
        fs::write(self.config_file(), text).unwrap();
        let line = format!(
            "optional {dir}/stage/lib/spank_vm.so libexec={dir}/stage/libexec config={dir}/spank-vm.toml \
             state_dir={dir}/state template_dir={dir}/templates {plugin_arguments}\n"
        );
        fs::write(self.dir.join("plugstack.conf"), line).unwrap();
    }

    /// The site's configuration.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("spank-vm.toml")
    }

    /// The program `spank-vm`.
    pub fn program(&self) -> PathBuf {
        self.dir.join("stage/libexec/spank-vm")
    }

    /// Runs `work` while the site's configuration has other values.
    pub fn with_config(&self, config: &str, work: impl FnOnce()) {
        self.configure(config, "");
        let _default = afterwards(|| self.configure("", ""));
        work();
    }

    /// A new empty directory that belongs to the user.
    pub fn work_dir(&self) -> PathBuf {
        let dir = self.dir.join(format!("work{}", self.number.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&dir).unwrap();
        run(Command::new("chown").arg(&self.user).arg(&dir)).unwrap();
        dir
    }

    /// A command that runs on the cluster as the user, in `cwd`.
    pub fn command_in(&self, cwd: &Path, argv: &[&str]) -> Command {
        self.command_as(&self.user, cwd, argv)
    }

    /// A command that runs on the cluster as `user`.
    pub fn command_as(&self, user: &str, cwd: &Path, argv: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "10", COMMAND_TIMEOUT_S]).arg(cluster_script()).arg("run").arg(self.slurm_dir());
        command.args(["--user", user, "--"]).args(argv).current_dir(cwd).stdin(Stdio::null());
        command
    }

    /// Runs `argv` on the cluster as the user.
    pub fn run(&self, argv: &[&str]) -> Ran {
        self.run_in(&self.work_dir(), argv)
    }

    /// Runs `argv` on the cluster as the user in `cwd`.
    pub fn run_in(&self, cwd: &Path, argv: &[&str]) -> Ran {
        ran(self.command_in(cwd, argv).output().unwrap())
    }

    /// Runs `argv` on the cluster as root.
    pub fn run_as_root(&self, argv: &[&str]) -> Ran {
        ran(self.command_as("root", Path::new("/"), argv).output().unwrap())
    }

    /// Runs `srun OPTIONS… COMMAND…` as the user.
    pub fn srun(&self, arguments: &[&str]) -> Ran {
        self.run(&[&["srun"], arguments].concat())
    }

    /// Runs `spank-vm ARGUMENTS…` with the site's configuration as `user`, outside of any job.
    pub fn tool(&self, user: &str, arguments: &[&str]) -> Ran {
        self.tool_in(user, Path::new("/"), arguments)
    }

    /// As [`Self::tool`], in `cwd`. The words of reports are those for a locale without marks.
    pub fn tool_in(&self, user: &str, cwd: &Path, arguments: &[&str]) -> Ran {
        let (program, config) = (self.program(), self.config_file());
        let head = ["/usr/bin/env", "LC_ALL=C", program.to_str().unwrap(), "--config", config.to_str().unwrap()];
        ran(self.command_as(user, cwd, &[&head, arguments].concat()).output().unwrap())
    }

    /// The nodes' names.
    pub fn nodes(&self) -> Vec<String> {
        let listed = self.run_as_root(&["sinfo", "-h", "-N", "-o", "%N"]).ok();
        listed.lines().map(str::to_owned).collect()
    }

    /// The QEMU processes of its VMs, except those without a kit.
    pub fn qemus(&self) -> Vec<i32> {
        // Not by its arguments: a clone's name no file.
        let is_qemu = |pid: &i32| {
            process::words(*pid).first().is_some_and(|program| program.starts_with("/usr/bin/qemu"))
                && process::has_open(*pid, &self.dir)
        };
        process::all().filter(is_qemu).collect()
    }

    /// Kills a daemon (`slurmctld`, or the slurmd of a node) unless it is dead, and starts it again.
    #[track_caller]
    pub fn restart(&self, daemon: &str) {
        run(Command::new(cluster_script()).arg("restart").arg(self.slurm_dir()).arg(daemon)).unwrap();
    }

    /// Runs `work` while the slurmd of a node, and all that it starts, was started by this program.
    pub fn with_node_started_by(&self, node: &str, starter: &Path, work: impl FnOnce()) {
        let restart = |starter: Option<&Path>| {
            // What a killed slurmd does not say of a job's end, the controller asks for again minutes later.
            wait_for("the node is idle", || {
                let state = self.run_as_root(&["sinfo", "-h", "-n", node, "-o", "%T"]).stdout;
                (state.trim() == "idle").then_some(())
            });
            run(Command::new(cluster_script()).arg("restart").arg(self.slurm_dir()).arg(node).args(starter)).unwrap();
        };
        restart(Some(starter));
        let _usual = afterwards(|| restart(None));
        work();
    }

    /// The leftovers of jobs that the cluster's script finds; empty if all is well.
    pub fn sweep_check(&self) -> Option<String> {
        let swept = Command::new(cluster_script()).arg("sweep-check").arg(self.slurm_dir()).output().unwrap();
        (!swept.status.success()).then(|| String::from_utf8_lossy(&swept.stdout).into_owned())
    }

    /// Whether the machine is as before the test: no process, state or disk of a VM, every node fit for work.
    ///
    /// # Errors
    ///
    /// What is still there after a while.
    pub fn nothing_is_left(&self) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let left = self.remains();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("left behind: {}", left.join("; ")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends what a failed case left in the queue and makes its nodes fit for work again, so that the next case fails for its own reasons
    /// only. What does not end within [`FORGET`] is left.
    pub fn forget_jobs(&self) {
        let said = self.run_as_root(&["sh", "-c", &forgetting_jobs(FORGET)]);
        tell_of_forgetting(&said.stdout, &said.stderr);
    }

    /// Removes all templates of this cluster's nodes. A step that has ended for its user may still use one on its node.
    pub fn forget_templates(&self) {
        let dir = self.dir.join("templates");
        wait_for("the end of those who use templates", || {
            let _ = fs::remove_dir_all(&dir);
            (!dir.exists()).then_some(())
        });
    }

    fn remains(&self) -> Vec<String> {
        let mut left = process::using(&self.dir.join("stage"));
        left.extend(process::using(&self.dir.join("kit")));
        left.extend(self.qemus().iter().map(|qemu| format!("QEMU {qemu}")));
        for place in ["state", "scratch"] {
            let listing = fs::read_dir(self.dir.join(place)).into_iter().flatten().flatten();
            // The node's own note about KVM is not a leftover of a job.
            let names = listing.map(|e| e.file_name()).filter(|name| name != "kvm.verdict");
            left.extend(names.map(|name| format!("{place}/{}", name.to_string_lossy())));
        }
        let nodes = self.run_as_root(&["sinfo", "-h", "-N", "-o", "%N %T"]).stdout;
        left.extend(nodes.lines().filter(|line| !line.ends_with(" idle")).map(str::to_owned));
        if nodes.lines().count() != NODES {
            left.push(format!("sinfo says: {nodes}"));
        }
        left
    }

    /// Stops Slurm and removes everything.
    ///
    /// # Errors
    ///
    /// The script's message if a part of the cluster does not end.
    pub fn stop(&self) -> Result<(), String> {
        if self.is_stopped.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let stopped = run(Command::new(cluster_script()).arg("stop").arg(self.slurm_dir()));
        let _ = fs::remove_dir_all(&self.dir);
        stopped.map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(why) = self.stop() {
            eprintln!("the cluster in {} does not stop: {why}", self.dir.display());
        }
    }
}

/// A script of root's that ends all jobs, waits this long for their end, and gives nodes back that were taken from Slurm. It says which.
pub(crate) fn forgetting_jobs(patience: Duration) -> String {
    format!(
        "squeue -h -o %A | xargs -r scancel
        timeout {} sh -c 'while squeue -h | grep -q .; do sleep 0.2; done'
        sinfo -h -N -t drain,down -o '%N was %T: %E'
        for node in $(sinfo -h -N -t drain,down -o %N); do scontrol update nodename=$node state=resume; done",
        patience.as_secs()
    )
}

/// Prints what that script has said.
pub(crate) fn tell_of_forgetting(stdout: &str, stderr: &str) {
    if !(stdout.is_empty() && stderr.is_empty()) {
        eprintln!("\nafter a case that failed: {stdout}{stderr}");
    }
}

/// The user id of an account of this machine.
pub fn uid(user: &str) -> u32 {
    let found = User::from_name(user).expect("the accounts can be read");
    found.unwrap_or_else(|| panic!("no account '{user}'")).uid.as_raw()
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_dead_cluster_s_nodes_are_free_even_if_its_directory_is_left() {
        let place = tempfile::tempdir().unwrap();
        let (claims, owner) = (place.path().join("claims"), place.path().join("owner"));
        fs::create_dir_all(&claims).unwrap();
        fs::create_dir(&owner).unwrap();
        fs::write(claims.join("zz.names"), format!("{}\n", owner.display())).unwrap();
        let lib = cluster_script().parent().unwrap().join("lib");
        let is_free = || {
            let script = format!(
                "set -euo pipefail; . {0}/processes.sh; . {0}/config.sh; CLAIMS={1}; CLUSTER_DIR=/nowhere; prefix_is_free zz",
                lib.display(),
                claims.display()
            );
            Command::new("bash").args(["-c", &script]).status().unwrap().success()
        };
        assert!(is_free());
        // A daemon of that cluster.
        fs::copy("/bin/sh", owner.join("slurmd")).unwrap();
        let mut daemon = Command::new(owner.join("slurmd"));
        let mut daemon = daemon.args(["-c", "read line"]).stdin(Stdio::piped()).spawn().unwrap();
        assert!(!is_free());
        drop(daemon.stdin.take());
        daemon.wait().unwrap();
        assert!(is_free());
    }
}
