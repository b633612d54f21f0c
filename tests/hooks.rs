//! The real library in the hands of a C program that plays Slurm (`hooks/fake_slurmstepd.c`).
//!
//! What the hooks decide is tested beside them with a fake in Rust; here it is about the border to
//! C: what is exported, what is called with which types, panics, loading and unloading.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output, Stdio};
use std::sync::OnceLock;

/// The Slurm that is played.
#[derive(Debug, Clone, Copy)]
enum Slurm {
    /// 22.05: a plugin can replace `argv[0]` only.
    Old,
    /// 24.11: has spank_prepend_task_argv.
    New,
    /// A release nobody has seen yet.
    Unknown,
}

/// The library as cargo leaves it for tests: beside the test program.
fn library() -> PathBuf {
    let path = env::current_exe().unwrap().with_file_name("libspank_vm.so");
    assert!(path.exists(), "{} is missing: build with --features plugin", path.display());
    path
}

/// Compiles the C program, once per Slurm.
fn fake(slurm: Slurm) -> &'static Path {
    static BUILT: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    let (number, defines): (usize, &[&str]) = match slurm {
        Slurm::Old => (0, &["-DAPI=38"]),
        Slurm::New => (1, &["-DAPI=42", "-DPREPEND"]),
        Slurm::Unknown => (2, &["-DAPI=999", "-DPREPEND"]),
    };
    BUILT[number].get_or_init(|| {
        // In cargo's directory for tests, where it may stay; complete from its first moment on.
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

/// A machine with the programs of the package, and one play on it.
struct Node {
    root: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { root: tempfile::tempdir().unwrap() };
        node.install("spank-vm-step", "exit 0");
        node.install("spank-vm", "[ \"$3\" = debian12 ] || { echo \"no image '$3'\" >&2; exit 1; }");
        node
    }

    fn install(&self, name: &str, script: &str) {
        let path = self.path(name);
        let mut file = fs::File::create(&path).unwrap();
        writeln!(file, "#!/bin/sh\n{script}").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `LIBEXEC` in `script` and in the answer stands for this node's directory.
    fn play(&self, slurm: Slurm, program: &str, script: &str) -> String {
        self.play_with(slurm, program, script, &[])
    }

    fn play_with(&self, slurm: Slurm, program: &str, script: &str, env: &[(&str, &str)]) -> String {
        let output = self.run(slurm, program, script, env);
        assert!(output.stderr.is_empty(), "the plugin wrote to standard error: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.replace(self.root.path().to_str().unwrap(), "LIBEXEC")
    }

    fn run(&self, slurm: Slurm, program: &str, script: &str, env: &[(&str, &str)]) -> Output {
        let mut child = Command::new(fake(slurm))
            .arg(library())
            .arg(program)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let script = script.replace("LIBEXEC", self.root.path().to_str().unwrap());
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

const INIT: &str = "load\ninit libexec=LIBEXEC state_dir=LIBEXEC/state template_dir=LIBEXEC/templates\nargv sleep 1\n";
const ALL_WELL: &str = "loaded spank_vm spank 160500\ninit = 0\n";

fn after(start: &str, rest: &str) -> String {
    format!("{start}{rest}")
}

#[test]
fn only_what_slurm_looks_for_is_exported() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "plugin_name",
            "plugin_type",
            "plugin_version",
            "slurm_spank_exit",
            "slurm_spank_init",
            "slurm_spank_init_post_opt",
            "slurm_spank_local_user_init",
            "slurm_spank_task_exit",
            "slurm_spank_task_init",
            "slurm_spank_task_init_privileged",
        ]
    );
}

#[test]
fn one_library_serves_several_releases_and_an_unknown_one_can_refuse_it() {
    let node = Node::new();
    assert_eq!(node.play(Slurm::Old, "stepd", "load\n"), "loaded spank_vm spank 160500\nalive\n");
    assert_eq!(node.play(Slurm::New, "stepd", "load\n"), "loaded spank_vm spank 180b00\nalive\n");
    assert_eq!(node.play(Slurm::Unknown, "stepd", "load\n"), "loaded spank_vm spank 000000\nalive\n");
}

#[test]
fn a_bare_metal_job_is_not_touched() {
    let node = Node::new();
    for slurm in [Slurm::Old, Slurm::New] {
        let answer = node.play(slurm, "stepd", &after(INIT, "env A=1\ntask\nhook task_exit\nhook exit\nunload\n"));
        let (_, rest) = answer.split_once("init = 0\n").unwrap();
        assert_eq!(rest, "execve sleep 1\nwith A=1\ntask ended with 0\ntask_exit = 0\nexit = 0\nalive\n");
    }
    assert!(!node.path("state").exists());
}

#[test]
fn the_task_of_a_vm_job_becomes_the_step_program_on_an_old_slurm() {
    let node = Node::new();
    let script = after(INIT, "option vm-image debian12\noption vms-per-slot 4\nset mem 1000\nset tasks 2\ntask\n");
    let answer = node.play(Slurm::Old, "stepd", &script);
    assert_eq!(
        answer,
        after(
            ALL_WELL,
            "option vm-image = 0\noption vms-per-slot = 0\nexecve LIBEXEC/spank-vm-step 1\n\
             with SPANK_VM_REQUEST=image=debian12 vms=4 argv0=sleep mem=500 state=LIBEXEC/state/7.0.0\n\
             task ended with 0\nalive\n"
        )
    );
}

#[test]
fn the_step_program_is_put_before_the_command_where_slurm_can_do_that() {
    let node = Node::new();
    let answer = node.play(Slurm::New, "stepd", &after(INIT, "option vm-image debian12\ntask\n"));
    assert!(
        answer.ends_with(
            "execve LIBEXEC/spank-vm-step sleep 1\n\
             with SPANK_VM_REQUEST=image=debian12 vms=1 state=LIBEXEC/state/7.0.0\n\
             task ended with 0\nalive\n"
        ),
        "{answer}"
    );
}

#[test]
fn the_command_that_srun_hid_is_put_back() {
    let node = Node::new();
    let hidden =
        after(INIT, "argv spank-vm-step 1\nenv SLURM_SPANK_VM_COMMAND=sleep\noption vm-image debian12\ntask\n");
    let answer = node.play(Slurm::New, "stepd", &hidden);
    assert!(answer.contains("execve LIBEXEC/spank-vm-step sleep 1\nwith SPANK_VM_REQUEST="), "{answer}");
    assert!(!answer.contains("SLURM_SPANK_VM_COMMAND"), "{answer}");
    let answer = node.play(Slurm::Old, "stepd", &hidden);
    assert!(answer.contains("execve LIBEXEC/spank-vm-step 1\nwith SPANK_VM_REQUEST="), "{answer}");
    assert!(answer.contains("argv0=sleep") && !answer.contains("SLURM_SPANK_VM_COMMAND"), "{answer}");
}

#[test]
fn srun_hides_the_command_of_a_vm_step() {
    let node = Node::new();
    let script = after(INIT, "option vm-image debian12\nhook init_post_opt\nhook local_user_init\nshow\nhook exit\n");
    let answer = node.play(Slurm::Old, "srun", &script);
    assert!(
        answer.ends_with("init_post_opt = 0\nlocal_user_init = 0\nspank-vm-step 1, for sleep\nexit = 0\nalive\n"),
        "{answer}"
    );
}

#[test]
fn the_marker_word_without_its_variable_fails_closed() {
    let node = Node::new();
    let answer = node.play(Slurm::Old, "stepd", &after(INIT, "argv spank-vm-step 1\noption vm-image debian12\ntask\n"));
    assert!(answer.contains("error: vm: the command of this step was replaced"), "{answer}");
    assert!(answer.ends_with("task ended with 1\nalive\n") && !answer.contains("execve"), "{answer}");
}

#[test]
fn a_failing_vm_task_costs_one_line_and_ends_even_where_slurm_would_go_on() {
    let node = Node::new();
    fs::remove_file(node.path("spank-vm-step")).unwrap();
    let answer = node.play(Slurm::New, "stepd", &after(INIT, "option vm-image debian12\ntask\n"));
    assert!(!answer.contains("execve") && !answer.contains("Failed to invoke"), "{answer}");
    assert_eq!(answer.matches("error: ").count(), 1, "{answer}");
    assert!(answer.contains("cannot run LIBEXEC/spank-vm-step: No such file or directory;"), "{answer}");
}

#[test]
fn bad_option_values_are_taken_down_and_told_by_the_task() {
    let node = Node::new();
    for (option, value) in [("vm-image", "x;y"), ("vm-image", ""), ("vm-image", "(null)"), ("vms-per-slot", "65")] {
        let script = after(INIT, &format!("option vm-image debian12\noption {option} {value}\ntask\n"));
        let answer = node.play(Slurm::Old, "stepd", &script);
        assert!(!answer.contains(&format!("option {option} = -1")) && !answer.contains("execve"), "{answer}");
        assert!(answer.contains(&format!("error: vm: --{option}")), "{answer}");
        assert!(answer.ends_with("task ended with 1\nalive\n"), "{answer}");
    }
}

#[test]
fn a_client_with_a_bad_option_says_one_line_and_exits() {
    let node = Node::new();
    for (options, line) in [
        ("option vm-image a;b\n", "error: vm: --vm-image='a;b': an image name is"),
        ("option vms-per-slot 4\n", "error: vm: --vms-per-slot=4 needs an image: add --vm-image=NAME"),
        ("option vm-image debain12\n", "error: vm: no image 'debain12'"),
    ] {
        for program in ["srun", "sbatch"] {
            let output = node.run(Slurm::Old, program, &after(INIT, &format!("{options}hook init_post_opt\n")), &[]);
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.lines().last().unwrap().starts_with(line), "{text}");
            assert_eq!(text.matches("error: ").count(), 1, "{text}");
        }
    }
}

#[test]
fn list_prints_the_catalogue_and_ends_the_client() {
    let node = Node::new();
    node.install("spank-vm", "echo \"$*\"; exit 3");
    let output = node.run(Slurm::Old, "sbatch", &after(INIT, "option vm-image list\n"), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((text, output.status.code()), (after(ALL_WELL, "image list\n"), Some(3)));
}

#[test]
fn options_lost_by_export_none_are_found_in_the_batch_step() {
    let node = Node::new();
    let script = after(
        INIT,
        "set step 0xfffffffb\nenv SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image=debian12\n\
         env SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vms_per_slot=2\ntask\n",
    );
    let answer = node.play(Slurm::Old, "stepd", &script);
    assert!(answer.contains("execve LIBEXEC/spank-vm-step 1\n"), "{answer}");
    assert!(answer.contains("image=debian12 vms=2 argv0=sleep script=1 state=LIBEXEC/state/7.batch.0"), "{answer}");
}

#[test]
fn the_task_s_directory_belongs_to_its_user_alone_and_is_swept_without_following_links() {
    let node = Node::new();
    // Root gives the directory to the job's user; a developer's test run has only itself.
    let me = fs::metadata(node.root.path()).unwrap().uid();
    let owner = if me == 0 { 65534 } else { me };
    let script =
        after(INIT, &format!("option vm-image debian12\nset uid {owner}\nset gid {owner}\nset tasks 2\ntask\n"));
    // Group ids other than the own one cannot be given away by non-root either.
    if me != 0 && fs::metadata(node.root.path()).unwrap().gid() != owner {
        return;
    }
    node.play(Slurm::Old, "stepd", &script);
    let dir = node.path("state/7.0.0");
    let meta = fs::metadata(&dir).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (owner, 0o700));

    let precious = node.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "").unwrap();
    symlink(&precious, dir.join("link")).unwrap();
    symlink(&precious, node.path("state/7.0.1")).unwrap();
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    let sweep = after(INIT, "option vm-image debian12\nset tasks 2\nhook task_exit\nhook exit\nhook exit\nunload\n");
    let answer = node.play(Slurm::Old, "stepd", &sweep);
    assert!(answer.ends_with("task_exit = 0\nexit = 0\nexit = 0\nalive\n"), "{answer}");
    assert_eq!(fs::read_dir(node.path("state")).unwrap().count(), 0);
    assert!(precious.join("file").exists());
}

#[test]
fn loading_and_unloading_over_and_over_leaves_the_host_well() {
    let node = Node::new();
    let round =
        after(INIT, "option vm-image debian12\noption vm-image debian12\ntask\nhook task_exit\nhook exit\nunload\n");
    let answer = node.play(Slurm::New, "stepd", &round.repeat(5));
    assert_eq!(answer.matches("task ended with 0").count(), 5, "{answer}");
    assert_eq!(answer.matches("execve LIBEXEC/spank-vm-step sleep 1").count(), 5, "{answer}");
    assert!(answer.ends_with("alive\n"), "{answer}");
}

#[test]
fn one_job_s_options_do_not_reach_the_next_load() {
    let node = Node::new();
    let script = format!("{}{}", after(INIT, "option vm-image debian12\nunload\n"), after(INIT, "task\n"));
    let answer = node.play(Slurm::Old, "stepd", &script);
    assert!(answer.contains("execve sleep 1\n"), "{answer}");
}

#[test]
fn a_slurm_that_refuses_everything_stops_vm_tasks_and_no_others() {
    let node = Node::new();
    let answer = node.play(Slurm::Old, "stepd", &after(INIT, "deaf\ntask\nhook task_exit\nhook exit\n"));
    assert!(answer.contains("execve sleep 1\n") && !answer.contains("error: "), "{answer}");
    let answer = node.play(Slurm::Old, "stepd", &after(INIT, "option vm-image debian12\ndeaf\ntask\nhook exit\n"));
    assert!(!answer.contains("execve") && answer.ends_with("exit = 0\nalive\n"), "{answer}");
    assert!(answer.contains("error: vm: Slurm refused S_JOB_STEPID: Bad argument"), "{answer}");
}

#[test]
fn wrong_arguments_in_plugstack_are_told_to_vm_tasks_only() {
    let node = Node::new();
    let start = "load\ninit colour=red\nargv sleep 1\n";
    let answer = node.play(Slurm::Old, "stepd", &after(start, "task\n"));
    assert!(answer.contains("init = 0\nexecve sleep 1\n"), "{answer}");
    let answer = node.play(Slurm::Old, "stepd", &after(start, "option vm-image debian12\ntask\n"));
    assert!(!answer.contains("execve") && answer.contains("error: vm: plugstack.conf: wrong argument"), "{answer}");
}

/// The library panics on demand in debug builds only.
#[cfg(debug_assertions)]
mod panics {
    use super::*;

    fn panic_in(hook: &str, program: &str, script: &str) -> String {
        Node::new().play_with(Slurm::Old, program, &after(INIT, script), &[("SPANK_VM_TEST_PANIC", hook)])
    }

    #[test]
    fn a_panic_becomes_a_line_and_the_host_lives() {
        for (hook, script) in [("slurm_spank_task_exit", "hook task_exit\n"), ("slurm_spank_exit", "hook exit\n")] {
            let answer = panic_in(hook, "stepd", script);
            assert!(answer.contains(&format!("error: vm: internal error in {hook} (src/")), "{answer}");
            assert!(answer.contains("asked for by the test") && answer.ends_with(" = 0\nalive\n"), "{answer}");
        }
    }

    #[test]
    fn a_panic_in_a_hook_that_may_fail_returns_minus_one() {
        let answer = panic_in("slurm_spank_local_user_init", "srun", "hook local_user_init\n");
        assert!(answer.ends_with("local_user_init = -1\nalive\n"), "{answer}");
    }

    #[test]
    fn a_panic_in_the_option_callback_is_caught_too() {
        let answer = panic_in("an option", "stepd", "option vm-image debian12\ntask\n");
        assert!(answer.contains("option vm-image = -1\n"), "{answer}");
        assert!(!answer.contains("execve") && answer.ends_with("task ended with 1\nalive\n"), "{answer}");
    }

    #[test]
    fn a_panic_in_the_first_hook_does_not_drain_the_node() {
        let answer = panic_in("slurm_spank_init", "stepd", "hook init_post_opt\n");
        assert!(answer.contains("init = 0\n") && answer.ends_with("init_post_opt = 0\nalive\n"), "{answer}");
    }

    #[test]
    fn a_panic_never_lets_a_vm_task_run_on_the_host() {
        let answer = panic_in("slurm_spank_task_init", "stepd", "option vm-image debian12\ntask\n");
        assert!(answer.contains("internal error") && !answer.contains("execve"), "{answer}");
        assert!(answer.ends_with("task ended with 1\nalive\n") && !answer.contains("Failed to invoke"), "{answer}");
    }
}
