//! The real library, loaded by a C program that plays Slurm (`hooks/fake_slurmstepd.c`).
//!
//! What the hooks decide is tested beside them with a fake in Rust. These tests are about the
//! border to C: exported symbols, calls and their types, panics, loading and unloading.

#[path = "hooks/ways.rs"]
mod ways;

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output, Stdio};
use std::sync::OnceLock;

/// The Slurm release that the program plays.
#[derive(Debug, Clone, Copy)]
enum Slurm {
    /// 22.05: a plugin can replace `argv[0]` only.
    Old,
    /// 24.11: has spank_prepend_task_argv.
    New,
    /// A release nobody has seen yet.
    Unknown,
}

/// The same file that is installed.
fn library() -> PathBuf {
    let stage = env::var_os("SPANK_VM_STAGE").expect("SPANK_VM_STAGE: run 'make test-hooks'");
    Path::new(&stage).join("lib/spank_vm.so")
}

/// Says in which hook [`panicking_library`] panics.
const PANIC_ENV: &str = "SPANK_VM_TEST_PANIC";

/// The same source with a panic in each hook, for [`PANIC_ENV`] to choose from.
fn panicking_library() -> PathBuf {
    env::var_os("SPANK_VM_PANICKING_PLUGIN").expect("SPANK_VM_PANICKING_PLUGIN: run 'make test-hooks'").into()
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
struct Node {
    root: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { root: tempfile::tempdir().unwrap() };
        // Users pass through it, as through /var.
        fs::set_permissions(node.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
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
        self.run_by(Command::new("env"), slurm, program, script, env)
    }

    /// The same with these words on the program's own command line.
    fn play_called(&self, slurm: Slurm, program: &str, called: &[&str], script: &str) -> String {
        let mut through = Command::new("sh");
        // After the words that run_by puts there.
        through.args(["-c", "words=$1; shift; exec \"$@\" $words", "sh", &called.join(" ")]);
        let output = self.run_by(through, slurm, program, script, &[]);
        assert!(output.stderr.is_empty(), "the plugin wrote to standard error: {output:?}");
        String::from_utf8(output.stdout).unwrap().replace(self.root.path().to_str().unwrap(), "LIBEXEC")
    }

    /// The same under another program, such as valgrind.
    fn run_by(&self, mut by: Command, slurm: Slurm, program: &str, script: &str, env: &[(&str, &str)]) -> Output {
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

const INIT: &str = "load\ninit libexec=LIBEXEC state_dir=LIBEXEC/state template_dir=LIBEXEC/templates \
                    image_cache_dir=LIBEXEC/copies\nargv sleep 1\n";
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
            "slurm_spank_job_epilog",
            "slurm_spank_local_user_init",
            "slurm_spank_task_exit",
            "slurm_spank_task_init",
            "slurm_spank_task_init_privileged",
            "slurm_spank_task_post_fork",
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
             with SPANK_VM_REQUEST=vm-image=debian12 vms-per-slot=4 argv0=sleep mem=500 tasks=2 job=7 imagecache=LIBEXEC/copies\n\
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
             with SPANK_VM_REQUEST=vm-image=debian12 job=7 imagecache=LIBEXEC/copies\n\
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
fn a_value_that_would_arrive_changed_is_refused() {
    let node = Node::new();
    let lost = "set step 0xfffffffb\nenv SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image=debian12\n\
                env SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_env=A=caf\u{e9}\n";
    for options in ["option vm-image debian12\noption vm-env A=caf\u{e9}\n", lost] {
        let answer = node.play(Slurm::New, "stepd", &after(INIT, &format!("{options}task\n")));
        assert!(answer.contains(r"error: vm: --vm-env='A=caf\xe9': "), "{answer}");
        assert!(!answer.contains("execve") && answer.ends_with("task ended with 1\nalive\n"), "{answer}");
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
    assert!(answer.contains("vm-image=debian12 vms-per-slot=2 argv0=sleep script=1"), "{answer}");
}

/// The job's user if root runs the tests; anybody else can only use their own account.
fn user_of_job(node: &Node) -> u32 {
    let me = fs::metadata(node.root.path()).unwrap().uid();
    if me == 0 { 65534 } else { me }
}

#[test]
fn what_the_node_notes_of_a_task_is_root_s_and_is_swept_without_following_links() {
    let node = Node::new();
    let me = fs::metadata(node.root.path()).unwrap().uid();
    let user = user_of_job(&node);
    let script = after(INIT, &format!("option vm-image debian12\nset uid {user}\nset tasks 2\ntask\n"));
    node.play(Slurm::Old, "stepd", &script);
    let dir = node.path("state/7.0.0");
    for (path, mode) in [(dir.clone(), 0o755), (dir.join("status.toml"), 0o644)] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (me, mode));
    }
    let status = fs::read_to_string(dir.join("status.toml")).unwrap();
    assert!(status.starts_with(&format!("image = \"debian12\"\nvms = 1\nuid = {user}\nrunner = \"")), "{status}");

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

/// Between two jobs the user tries everything possible with their own directory.
#[test]
fn root_follows_nothing_that_a_user_puts_into_the_place_of_his_own_files() {
    let node = Node::new();
    fs::set_permissions(node.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let user = user_of_job(&node);
    let job = after(
        INIT,
        &format!("option vm-image debian12\nset uid {user}\nset gid {user}\ntask\nhook task_exit\nhook exit\n"),
    );
    if fs::metadata(node.root.path()).unwrap().uid() != 0 {
        // Only root can make a directory for another user.
        return assert!(node.play(Slurm::New, "stepd", &job).ends_with("alive\n"));
    }
    node.play(Slurm::New, "stepd", &job);
    let (own, precious) = (node.path(&format!("templates/users/{user}")), node.path("precious"));
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "kept").unwrap();
    let before = fs::metadata(&precious).unwrap();
    let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
    let tricks = format!(
        "mkfifo ram .x.1; ln -s {0} site; ln -s {0}/file x.lock; ln {0}/file hard; mkdir -p deep/er; ln -s / deep/er/root; \
         cd ..; mv {user} other; rmdir {user}; ln -s {0} {user}; rm -rf ../users; touch ../../state/mine ../mine mine; true",
        precious.display()
    );
    let mut shell = Command::new("setpriv");
    shell.args(ids).args(["sh", "-c", &tricks]).current_dir(&own).stderr(Stdio::null());
    assert!(shell.status().unwrap().success());
    let answer = node.play(Slurm::New, "stepd", &job);
    assert!(answer.contains("execve LIBEXEC/spank-vm-step") && answer.ends_with("alive\n"), "{answer}");
    let meta = fs::symlink_metadata(&own).unwrap();
    assert!(meta.is_dir() && meta.uid() == user && !own.with_file_name("mine").exists());
    assert!(!node.path("state/mine").exists() && !node.path("templates/mine").exists());
    let now = fs::metadata(&precious).unwrap();
    assert_eq!((now.uid(), now.mode(), now.nlink()), (before.uid(), before.mode(), before.nlink()));
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
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

/// What slurmstepd does from the start of a job to its end; and srun, with another copy of the library.
const ROUND: &str = "option vm-image debian12\noption vms-per-slot 65\noption vms-per-slot 4\noption vm-mount /sw:ro\n\
                     option vm-env A=1,B\nset mem 1000\nset tasks 2\nenv A=1\ntask\nhook task_exit\nhook exit\nunload\n";

#[test]
fn no_descriptor_and_no_thread_is_left_behind() {
    let node = Node::new();
    let round = after(INIT, ROUND);
    let answer = node.play(Slurm::New, "stepd", &format!("count\n{}count\n", round.repeat(50)));
    let counts: Vec<&str> = answer.lines().filter(|line| line.contains(" descriptors, ")).collect();
    assert!(counts[0].ends_with(", 1 threads"), "{counts:?}");
    assert_eq!(counts[0], counts[1]);
    assert_eq!(answer.matches("task ended with 0").count(), 50, "{answer}");
}

/// The library is loaded, called and unloaded under memcheck, which finds every use of invalid memory.
mod memory {
    use super::*;

    /// Plays `script`; returns the complaints of memcheck, and the bytes that were definitely lost.
    fn memcheck(program: &str, script: &str, env: &[(&str, &str)]) -> (String, u64) {
        let node = Node::new();
        let log = node.path("memcheck.%p");
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--quiet", "--leak-check=full", "--show-leak-kinds=definite", "--keep-debuginfo=yes"])
            .arg(format!("--log-file={}", log.display()));
        let output = node.run_by(valgrind, Slurm::New, program, &after(INIT, script), env);
        assert!(output.status.success(), "{output:?}");
        let logs = fs::read_dir(node.root.path()).unwrap().flatten().map(|entry| entry.path());
        let logs = logs.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("memcheck."));
        let text: String = logs.map(|path| fs::read_to_string(path).unwrap()).collect();
        let (leaks, errors): (Vec<&str>, Vec<&str>) = text
            .split("== \n")
            .filter(|block| block.contains("== "))
            .partition(|block| block.contains("definitely lost in loss record"));
        let bytes = leaks.iter().filter(|leak| leak.contains("spank_vm")).map(|leak| bytes_of(leak)).sum();
        (errors.join("\n"), bytes)
    }

    /// `==7== 1,234 (1,000 direct, 234 indirect) bytes in 2 blocks are definitely lost …`
    fn bytes_of(leak: &str) -> u64 {
        let number = leak.split_whitespace().nth(1).unwrap().replace(',', "");
        number.parse().unwrap_or_else(|_| panic!("{leak}"))
    }

    #[test]
    fn nothing_is_read_or_freed_that_is_not_there_and_nothing_is_lost() {
        let rounds = after(ROUND, &after(INIT, ROUND).repeat(4));
        let (errors, lost) = memcheck("stepd", &rounds, &[]);
        assert_eq!((errors.as_str(), lost), ("", 0));
    }

    #[test]
    fn nor_in_a_client_that_hides_a_command() {
        let script = "option vm-image debian12\nhook init_post_opt\nhook local_user_init\nshow\nhook exit\nunload\n";
        assert_eq!(memcheck("srun", script, &[]).0, "");
    }

    #[test]
    fn nor_when_a_hook_panics() {
        let script = after(ROUND, &after(INIT, ROUND));
        for hook in ["slurm_spank_task_init", "slurm_spank_task_exit", "slurm_spank_exit", "an option"] {
            let (errors, _) = memcheck("stepd", &script, &[(PANIC_ENV, hook)]);
            assert_eq!(errors, "", "{hook}");
        }
    }
}

#[test]
fn what_is_installed_panics_on_nobody_s_demand() {
    let library = fs::read(library()).unwrap();
    assert!(!library.windows(PANIC_ENV.len()).any(|window| window == PANIC_ENV.as_bytes()));
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
    assert!(!answer.contains("execve") && answer.contains("plugstack.conf: wrong argument"), "{answer}");
}

mod panics {
    use super::*;

    fn panic_in(hook: &str, program: &str, script: &str) -> String {
        Node::new().play_with(Slurm::Old, program, &after(INIT, script), &[(PANIC_ENV, hook)])
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
    fn a_panic_before_the_tasks_drains_no_node_and_a_task_that_misses_what_was_to_be_made_is_refused() {
        let answer = panic_in(
            "slurm_spank_init_post_opt",
            "stepd",
            "option vm-image tiny\noption vm-net job\nhook init_post_opt\ntask\n",
        );
        assert!(answer.contains("internal error") && answer.contains("init_post_opt = 0\n"), "{answer}");
        assert!(answer.contains("--vm-net=job did not arrive") && !answer.contains("execve"), "{answer}");
    }

    #[test]
    fn a_task_that_root_did_not_prepare_is_refused_and_any_other_runs() {
        let answer = panic_in("slurm_spank_task_init_privileged", "stepd", "option vm-image debian12\ntask\n");
        assert!(answer.contains("internal error") && !answer.contains("execve"), "{answer}");
        assert!(answer.contains("error: vm: this task could not be prepared"), "{answer}");
        let answer = panic_in("slurm_spank_task_init_privileged", "stepd", "task\n");
        assert!(answer.contains("execve sleep 1\n"), "{answer}");
    }

    #[test]
    fn a_panic_never_lets_a_vm_task_run_on_the_host() {
        let answer = panic_in("slurm_spank_task_init", "stepd", "option vm-image debian12\ntask\n");
        assert!(answer.contains("internal error") && !answer.contains("execve"), "{answer}");
        assert!(answer.ends_with("task ended with 1\nalive\n") && !answer.contains("Failed to invoke"), "{answer}");
    }
}

/// A process that ended, as a task's directory names it.
fn dead_process() -> String {
    let mut child = Command::new("true").spawn().unwrap();
    let record = format!("{}-1-no-boot", child.id());
    child.wait().unwrap();
    record
}

/// The state directory with leftovers of killed slurmstepds: of job 7 and of job 8.
fn leave_tasks(node: &Node) -> PathBuf {
    let state = node.path("state");
    for name in ["7.0.0", "7.1.3", "8.0.0"] {
        leave_task(&state.join(name), &dead_process());
    }
    state
}

fn leave_task(dir: &Path, process: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("status.toml"), format!("image = \"tiny\"\nvms = 1\nuid = 1\nrunner = \"{process}\"\n"))
        .unwrap();
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_umask_of_the_first_job_decides_nothing_and_no_directory_need_be_there() {
    let node = Node::new();
    let start = INIT.replace("LIBEXEC/templates", "LIBEXEC/var/cache/spank-vm/templates");
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]);
    let output = node.run_by(shell, Slurm::New, "stepd", &after(&start, "option vm-image debian12\ntask\n"), &[]);
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.contains("execve") && !answer.contains("no template"), "{answer}");
    let users = node.path("var/cache/spank-vm/templates/users");
    for dir in users.ancestors().take_while(|dir| *dir != node.root.path()) {
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o755, "{}", dir.display());
    }
    let uid = fs::metadata("/proc/self").unwrap().uid();
    assert_eq!(fs::metadata(users.join(uid.to_string())).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_cache_that_no_user_gets_to_is_told_in_slurmd_s_log_and_the_step_starts() {
    let node = Node::new();
    fs::create_dir(node.path("templates")).unwrap();
    fs::set_permissions(node.path("templates"), fs::Permissions::from_mode(0o700)).unwrap();
    let answer = node.play(Slurm::New, "stepd", &after(INIT, "option vm-image debian12\ntask\n"));
    let told = answer.lines().find(|line| line.starts_with("info: vm: every VM of user ")).unwrap_or_default();
    assert!(
        told.ends_with("LIBEXEC/templates is closed to users (mode 700): 'chmod 755 LIBEXEC/templates' opens it"),
        "{answer}"
    );
    assert!(answer.contains("execve"), "{answer}");
}

#[test]
fn the_epilog_of_a_job_removes_what_was_left_of_it_and_never_fails() {
    let node = Node::new();
    let state = leave_tasks(&node);
    // Here Slurm calls no slurm_spank_init.
    // And the leftover of a runner of the job's user that was killed while it copied an image.
    let uid = fs::metadata("/proc/self").unwrap().uid();
    let shelf = node.path("copies/users").join(uid.to_string());
    fs::create_dir_all(&shelf).unwrap();
    for left in [".0a1b.50", "0a1b.lock", "2c3d"] {
        fs::write(shelf.join(left), "").unwrap();
    }
    let epilog = "hook job_epilog libexec=LIBEXEC state_dir=LIBEXEC/state template_dir=LIBEXEC/templates \
                  image_cache_dir=LIBEXEC/copies\n";
    let answer = node.play(Slurm::Old, "script", &format!("load\n{epilog}{epilog}unload\n"));
    assert!(
        answer.contains(
            "verbose: vm: removed 2 left over in LIBEXEC/state\n\
             verbose: vm: removed 2 left over in LIBEXEC/copies\njob_epilog = 0\njob_epilog = 0\n"
        ),
        "{answer}"
    );
    assert_eq!((entries(&state), entries(&shelf)), (vec!["8.0.0".to_owned()], vec!["2c3d".to_owned()]));
    // Wrong arguments, no directory, no job number: none of these may stop a node from running the next job.
    let script = "load\nhook job_epilog nonsense\nhook job_epilog state_dir=/nonexistent/state template_dir=/nonexistent/t \
         image_cache_dir=/nonexistent/i\ndeaf\nhook job_epilog\n";
    let answer = node.play(Slurm::New, "script", script);
    assert_eq!(answer.matches("job_epilog = 0\n").count(), 3, "{answer}");
}

#[test]
fn slurmd_removes_at_its_start_what_no_process_uses() {
    let node = Node::new();
    let state = leave_tasks(&node);
    let draft = node.path("templates/users/1000/.abc.50");
    fs::create_dir_all(draft.join("empty")).unwrap();
    let of_another_boot = node.path("templates/site/00000000-abc");
    fs::create_dir_all(&of_another_boot).unwrap();
    // A task that runs while slurmd is restarted: this process plays the task.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    leave_task(&state.join("9.0.0"), &format!("{}-{started}-{}", process::id(), boot.trim()));
    let answer = node.play(Slurm::Old, "slurmd", &after(INIT, "unload\n"));
    assert!(answer.contains("removed 3 left over in LIBEXEC/state\n") && answer.contains("init = 0\n"), "{answer}");
    assert_eq!(entries(&state), ["9.0.0"]);
    assert!(!draft.exists() && !of_another_boot.exists());
    assert_eq!(entries(&node.path("templates")), ["site", "users"]);
}
