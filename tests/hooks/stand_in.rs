//! The stand-in for slurmd, slurmstepd and their clients: a C program that plays a script, and a node it plays it on.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output, Stdio};
use std::sync::OnceLock;

/// The Slurm release that the program plays.
#[derive(Debug, Clone, Copy)]
pub enum Slurm {
    /// 22.05: a plugin can replace `argv[0]` only.
    Old,
    /// 24.11: has spank_prepend_task_argv.
    New,
    /// A release nobody has seen yet.
    Unknown,
}

/// The same file that is installed.
pub fn library() -> PathBuf {
    let stage = env::var_os("SPANK_VM_STAGE").expect("SPANK_VM_STAGE: run 'make test-hooks'");
    Path::new(&stage).join("lib/spank_vm.so")
}

/// Says in which hook [`panicking_library`] panics.
pub const PANIC_ENV: &str = "SPANK_VM_TEST_PANIC";

/// The same source with a panic in each hook, for [`PANIC_ENV`] to choose from.
fn panicking_library() -> PathBuf {
    env::var_os("SPANK_VM_PANICKING_PLUGIN").expect("SPANK_VM_PANICKING_PLUGIN: run 'make test-hooks'").into()
}

/// Compiles the C program, once per Slurm.
pub fn fake(slurm: Slurm) -> &'static Path {
    static BUILT: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let (number, defines): (usize, &[&str]) = match slurm {
        Slurm::Old => (0, &["-DAPI=38"]),
        Slurm::New => (1, &["-DAPI=42", "-DPREPEND"]),
        Slurm::Unknown => (2, &["-DAPI=999", "-DPREPEND"]),
    };
    BUILT[number].get_or_init(|| {
        // In cargo's directory for tests, where it may stay. It gets its name only when it is complete.
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake_slurmstepd.{number}"));
        let unfinished = program.with_extension(format!("{number}.{}", process::id()));
        let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
        let compiler = cc::Build::new().cargo_metadata(false).target(&target).host(&target).opt_level(0).get_compiler();
        let mut command = compiler.to_command();
        if let Some(include) = env::var_os("SLURM_INCLUDE_DIR") {
            command.arg("-I").arg(include);
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hooks/fake_slurmstepd.c");
        // -rdynamic: the library finds spank_* in the program, as it does in slurmstepd.
        let status = command
            .args(["-Wall", "-Wextra", "-Werror", "-rdynamic"])
            .args(defines)
            .arg(source)
            .arg("-o")
            .arg(&unfinished)
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(status.success());
        fs::rename(&unfinished, &program).unwrap();
        program
    })
}

/// A machine with the programs of the package, and one run of the C program on it.
pub struct Node {
    pub root: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Self {
        let node = Self { root: tempfile::tempdir().unwrap() };
        // Users pass through it, as through /var.
        fs::set_permissions(node.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        node.install("spank-vm-step", "exit 0");
        node.install("spank-vm", "[ \"$3\" = debian12 ] || { echo \"no image '$3'\" >&2; exit 1; }");
        node
    }

    pub fn install(&self, name: &str, script: &str) {
        let path = self.path(name);
        let mut file = fs::File::create(&path).unwrap();
        writeln!(file, "#!/bin/sh\n{script}").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `LIBEXEC` in `script` and in the answer stands for this node's directory.
    pub fn play(&self, slurm: Slurm, program: &str, script: &str) -> String {
        self.play_with(slurm, program, script, &[])
    }

    pub fn play_with(&self, slurm: Slurm, program: &str, script: &str, env: &[(&str, &str)]) -> String {
        let output = self.run(slurm, program, script, env);
        assert!(output.stderr.is_empty(), "the plugin wrote to standard error: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.replace(self.root.path().to_str().unwrap(), "LIBEXEC")
    }

    pub fn run(&self, slurm: Slurm, program: &str, script: &str, env: &[(&str, &str)]) -> Output {
        self.run_by(Command::new("env"), slurm, program, script, env)
    }

    /// The same with these words on the program's own command line.
    pub fn play_called(&self, slurm: Slurm, program: &str, called: &[&str], script: &str) -> String {
        let mut through = Command::new("sh");
        // After the words that run_by puts there.
        through.args(["-c", "words=$1; shift; exec \"$@\" $words", "sh", &called.join(" ")]);
        let output = self.run_by(through, slurm, program, script, &[]);
        assert!(output.stderr.is_empty(), "the plugin wrote to standard error: {output:?}");
        String::from_utf8(output.stdout).unwrap().replace(self.root.path().to_str().unwrap(), "LIBEXEC")
    }

    /// The same under another program, such as valgrind.
    pub fn run_by(&self, mut by: Command, slurm: Slurm, program: &str, script: &str, env: &[(&str, &str)]) -> Output {
        let panics = env.iter().any(|(name, _)| *name == PANIC_ENV);
        let mut child = by
            .arg(fake(slurm))
            .arg(if panics { panicking_library() } else { library() })
            .arg(program)
            // srun takes what it sends from its own command line.
            .args(if program == "srun" { &["sleep", "1"][..] } else { &[] })
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let script = script.replace("LIBEXEC", self.root.path().to_str().unwrap());
        // In Latin-1, so a letter outside ASCII is not valid UTF-8.
        let bytes: Vec<u8> = script.chars().map(|c| u8::try_from(c).unwrap()).collect();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        child.wait_with_output().unwrap()
    }
}

pub const INIT: &str = "load\ninit libexec=LIBEXEC state_dir=LIBEXEC/state template_dir=LIBEXEC/templates \
                    image_cache_dir=LIBEXEC/copies\nargv sleep 1\n";

pub const ALL_WELL: &str = "loaded spank_vm spank 160500\ninit = 0\n";

/// What slurmstepd does from the start of a job to its end; and srun, with another copy of the library.
pub const ROUND: &str = "option vm-image debian12\noption vms-per-slot 65\noption vms-per-slot 4\noption vm-mount /sw:ro\n\
                     option vm-env A=1,B\nset mem 1000\nset tasks 2\nenv A=1\ntask\nhook task_exit\nhook exit\nunload\n";

pub fn after(start: &str, rest: &str) -> String {
    format!("{start}{rest}")
}
