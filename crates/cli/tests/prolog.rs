//! The shipped Prolog, with stand-ins for everything it asks: which nodes it drains, which jobs it lets start, what it says.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const SHIPPED: &str = include_str!("../../../slurm-conf/prolog");

const WITH_PLUGIN: &str = "echo '--vm-image=NAME'";
const STALLS: &str = "exec sleep 1000";

/// What happened to a job.
#[derive(Debug, PartialEq, Eq)]
enum Job {
    /// Without a word.
    Starts,
    /// The journal has these words.
    StartsWith(String),
    /// The node is drained for this reason.
    IsKeptOff(String),
}

fn script(dir: &Path, name: &str, text: &str) {
    node::testing::program(&dir.join(name), &format!("#!/bin/sh\n{text}\n")).unwrap();
}

/// A node on which the check of the node and srun are these scripts.
fn node(check: Option<&str>, srun: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let text = SHIPPED
        .replace("program=/usr/libexec/spank-vm/spank-vm", &format!("program={at}/spank-vm"))
        .replace("config=/etc/slurm/spank-vm.toml", &format!("config={at}/spank-vm.toml"))
        .replace("PATH=", &format!("PATH={at}:"))
        .replace("timeout 20", "timeout 0.5");
    script(dir.path(), "prolog", &text);
    script(dir.path(), "srun", srun);
    script(dir.path(), "scontrol", &format!("printf '%s\\n' \"$@\" >>{at}/drained"));
    script(dir.path(), "logger", &format!("printf '%s\\n' \"$*\" >>{at}/journal"));
    if let Some(check) = check {
        script(dir.path(), "spank-vm", check);
    }
    dir
}

/// Starts a job with this image there.
fn start(node: &TempDir, image: &str) -> Job {
    let mut prolog = Command::new(node.path().join("prolog"));
    prolog.env_clear().env("PATH", "/usr/bin:/bin").env("SLURMD_NODENAME", "n1");
    prolog.env("SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image", image);
    let ended = prolog.output().unwrap();
    let read = |name: &str| fs::read_to_string(node.path().join(name)).ok();
    match (ended.status.code(), read("drained"), read("journal")) {
        (Some(0), None, None) => Job::Starts,
        (Some(0), None, Some(journal)) => Job::StartsWith(journal),
        (Some(1), Some(drained), None) => {
            let mut lines = drained.lines();
            assert_eq!([lines.next(), lines.next()], [Some("update"), Some("nodename=n1")], "{drained}");
            assert_eq!(lines.next(), Some("state=drain"), "{drained}");
            Job::IsKeptOff(lines.collect())
        }
        other => panic!("{other:?}: {ended:?}"),
    }
}

fn starts_with(words: &[&str], job: Job) {
    let Job::StartsWith(journal) = job else { panic!("{job:?}") };
    assert!(words.iter().all(|word| journal.contains(word)), "{journal}");
    assert_eq!(journal.lines().count(), 1, "{journal}");
}

fn is_kept_off(words: &[&str], job: Job) {
    let Job::IsKeptOff(reason) = job else { panic!("{job:?}") };
    assert!(reason.starts_with("reason=spank-vm: ") && words.iter().all(|word| reason.contains(word)), "{reason}");
}

#[test]
fn a_job_without_an_image_starts_on_any_node() {
    assert_eq!(start(&node(None, "exit 1"), "none"), Job::Starts);
}

#[test]
fn a_node_in_order_takes_the_job_without_a_word_and_one_that_lacks_something_is_drained_with_the_reason() {
    assert_eq!(start(&node(Some("exit 0"), WITH_PLUGIN), "tiny"), Job::Starts);
    is_kept_off(&["no boot kit"], start(&node(Some("echo no boot kit; exit 1"), WITH_PLUGIN), "tiny"));
    is_kept_off(&["/spank-vm is missing"], start(&node(None, WITH_PLUGIN), "tiny"));
}

#[test]
fn what_only_stalled_drains_no_node_and_is_in_the_journal() {
    let stalled = "echo 'kit (/usr/share/kit): no answer within 15 s'; exit 0";
    let node = node(Some(stalled), WITH_PLUGIN);
    starts_with(&["spank-vm", "kit (/usr/share/kit): no answer within 15 s", "tiny"], start(&node, "tiny"));
}

#[test]
fn a_failure_that_is_over_at_the_second_look_is_none() {
    let node =
        node(Some("[ ! -e ${0%/*}/seen ] || exit 0; : >${0%/*}/seen; echo srun: no answer; exit 1"), WITH_PLUGIN);
    assert_eq!(start(&node, "tiny"), Job::Starts);
}

#[test]
fn a_program_that_stalls_drains_no_node_whose_srun_has_the_plugin() {
    starts_with(&["does not answer"], start(&node(Some(STALLS), WITH_PLUGIN), "tiny"));
}

#[test]
fn where_nobody_says_that_the_plugin_is_loaded_the_job_is_kept_off() {
    for srun in ["echo --other", "echo --vm-image; exit 1", STALLS] {
        is_kept_off(&["does not answer", "whether Slurm loads the plugin"], start(&node(Some(STALLS), srun), "tiny"));
    }
}

#[test]
fn no_variable_of_the_job_reaches_what_the_prolog_asks() {
    let node = node(Some("[ -z \"$SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image\" ]"), WITH_PLUGIN);
    assert_eq!(start(&node, "tiny"), Job::Starts);
}
