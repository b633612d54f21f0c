//! The library is loaded, called and unloaded under memcheck, which finds every use of invalid memory.

use super::stand_in::{INIT, Node, PANIC_ENV, ROUND, Slurm, after};
use std::fs;
use std::process::Command;

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
