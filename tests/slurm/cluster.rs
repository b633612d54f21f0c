//! A private Slurm, and ways to run things on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest that any command of a test may take.
const COMMAND_TIMEOUT_S: &str = "600";

/// Longest that the remains of a finished job may stay visible.
const SETTLE: Duration = Duration::from_secs(15);

/// A running cluster of four nodes with the plugin, in a directory that every user may read.
pub struct Cluster {
    /// Everything of the cluster is below.
    pub dir: PathBuf,
    /// The ordinary user that submits.
    pub user: String,
    number: AtomicU32,
}

/// How a command ended, as text.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 + signal when killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Asserts success and returns stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// Asserts failure with exactly one line that contains all of `words`; srun's own
    /// account of how the tasks ended does not count.
    #[track_caller]
    pub fn fails_with_one_line(self, words: &[&str]) {
        assert_ne!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let own = |line: &&str| {
            !(line.trim().is_empty()
                || line.contains("Exited with exit code")
                || line.contains("task 0: ")
                || line.contains("queued and waiting")
                || line.contains("has been allocated resources"))
        };
        let lines: Vec<&str> = self.stderr.lines().filter(own).collect();
        assert_eq!(lines.len(), 1, "one line expected, got:\n{}", self.stderr);
        for word in words {
            assert!(lines[0].contains(word), "'{word}' is not in: {}", lines[0]);
        }
    }
}

impl Cluster {
    /// Starts a cluster whose nodes have memory for the tests.
    #[allow(dead_code)] // measurements choose the memory
    pub fn start() -> Result<Self, String> {
        Self::with_memory(4096)
    }

    /// Copies what was built to a place all users can read, and starts Slurm there with so many MiB per node.
    pub fn with_memory(node_mib: u64) -> Result<Self, String> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        for needed in ["stage/lib/spank_vm.so", "stage/libexec/spank-vm", "kit/kit.toml", "images/tiny.toml"] {
            if !target.join(needed).exists() {
                return Err(format!("target/{needed} is missing: run 'make test'"));
            }
        }
        let dir = PathBuf::from(run(Command::new("mktemp").args(["-d", "/tmp/spank-vm-test.XXXXXX"]))?.trim());
        run(Command::new("chmod").arg("755").arg(&dir))?;
        run(Command::new("cp").arg("-a").args(["stage", "kit", "images"].map(|d| target.join(d))).arg(&dir))?;
        let user = run(Command::new(script()).arg("user"))?.trim().to_owned();
        let cluster = Self { dir, user, number: AtomicU32::new(0) };
        fs::create_dir(cluster.dir.join("scratch")).map_err(|e| e.to_string())?;
        run(Command::new("chmod").arg("1777").arg(cluster.dir.join("scratch")))?;
        cluster.configure("", "");
        let plugstack = cluster.dir.join("plugstack.conf");
        run(Command::new(script())
            .arg("start")
            .arg(cluster.dir.join("slurm"))
            .args(["--nodes", "4", "--cpus", "2", "--memory", &node_mib.to_string(), "--plugstack"])
            .arg(plugstack))
        .inspect_err(|_| cluster.remove())?;
        Ok(cluster)
    }

    /// The file that Slurm's commands must be pointed to.
    #[allow(dead_code)] // the benchmark starts srun without a wrapper
    pub fn slurm_conf(&self) -> PathBuf {
        self.dir.join("slurm/etc/slurm.conf")
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
        fs::write(self.dir.join("spank-vm.toml"), text).unwrap();
        let line = format!(
            "optional {dir}/stage/lib/spank_vm.so libexec={dir}/stage/libexec config={dir}/spank-vm.toml \
             state_dir={dir}/state template_dir={dir}/templates {plugin_arguments}\n"
        );
        fs::write(self.dir.join("plugstack.conf"), line).unwrap();
    }

    /// Runs `work` while the site's configuration has other values.
    pub fn with_config(&self, config: &str, work: impl FnOnce()) {
        self.configure(config, "");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        self.configure("", "");
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
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
        command.args(["-k", "10", COMMAND_TIMEOUT_S]).arg(script()).arg("run").arg(self.dir.join("slurm"));
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

    /// Runs `srun OPTIONS… COMMAND…` as the user.
    pub fn srun(&self, arguments: &[&str]) -> Ran {
        self.run(&[&["srun"], arguments].concat())
    }

    /// Whether the machine is as before the test: no process, state or disk of a VM, every node fit for work.
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

    fn remains(&self) -> Vec<String> {
        let mut left = processes_of(&self.dir.join("stage"))
            .into_iter()
            .chain(processes_of(&self.dir.join("kit")))
            .collect::<Vec<_>>();
        for place in ["state", "scratch"] {
            let listing = fs::read_dir(self.dir.join(place)).into_iter().flatten().flatten();
            // The node's own verdict on KVM is no remains of a job.
            let names = listing.map(|e| e.file_name()).filter(|name| name != "kvm-verdict");
            left.extend(names.map(|name| format!("{place}/{}", name.to_string_lossy())));
        }
        let nodes = self.command_as("root", Path::new("/"), &["sinfo", "-h", "-N", "-o", "%N %T"]).output().unwrap();
        let nodes = String::from_utf8_lossy(&nodes.stdout).into_owned();
        left.extend(nodes.lines().filter(|line| !line.ends_with(" idle")).map(str::to_owned));
        if nodes.lines().count() != 4 {
            left.push(format!("sinfo says: {nodes}"));
        }
        left
    }

    /// Stops Slurm and removes everything.
    pub fn stop(&self) -> Result<(), String> {
        let stopped = run(Command::new(script()).arg("stop").arg(self.dir.join("slurm")));
        self.remove();
        stopped.map(drop)
    }

    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/cluster")
}

/// Processes whose command line names something below `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let needle = format!("{}/", dir.display());
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        if !process.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let cmdline = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        if cmdline.contains(&needle) {
            let short: String = cmdline.chars().take(80).collect();
            found.push(format!("process {}: {short}", process.file_name().to_string_lossy()));
        }
    }
    found
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

/// What `output` says, as text.
pub fn ran(output: Output) -> Ran {
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) }
}
