//! `spank-vm check` on a node that lacks nearly everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Runs the check with nothing but an empty directory.
fn check(locale: &str, words: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    command(dir.path(), words).env("LC_ALL", locale).output().unwrap()
}

/// The check of a node that has what is in the directory.
fn command(dir: &Path, words: &[&str]) -> Command {
    let config = dir.join("spank-vm.toml");
    let at = dir.display();
    fs::write(&config, format!("kit = '{at}/kit'\nimage_dirs = ['{at}']\nstate_dir = '{at}/state'\n")).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_spank-vm"));
    program.arg("--config").arg(&config).arg("check").args(words);
    program
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn programs_get_each_requirement_with_its_state_meaning_and_remedy() {
    let output = check("C", &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!((report["verdict"].as_str(), report["exit_code"].as_u64()), (Some("missing"), Some(1)));
    assert_eq!(report["settings"]["boot_timeout_s"], 60);
    let checks = report["checks"].as_array().unwrap();
    let kit = checks.iter().find(|check| check["name"] == "kit").unwrap();
    assert!(kit["state"] == "missing" && kit["remedy"].as_str().unwrap().contains("spank-vm kit build"), "{kit}");
    for check in checks {
        let named =
            ["name", "about", "found"].iter().all(|key| check[key].as_str().is_some_and(|text| !text.is_empty()));
        assert!(named && ["ok", "limited", "missing"].iter().any(|state| check["state"] == *state), "{check}");
    }
}

#[test]
fn people_get_marks_where_the_locale_has_them_and_no_colours_in_a_file() {
    for (locale, line) in [("C", "\nkit       MISSING  no boot kit in "), ("C.UTF-8", "\n✗ kit       no boot kit in ")]
    {
        let said = text(&check(locale, &[]));
        assert!(said.contains(line) && !said.contains('\u{1b}'), "{said}");
        assert!(said.contains("why: its kernel and agent") && said.contains("do:  'spank-vm kit build'"), "{said}");
    }
}

#[test]
fn a_health_checker_gets_one_line() {
    let output = check("C", &["--node"]);
    let said = text(&output);
    assert!(output.status.code() == Some(1) && said.lines().count() == 1 && said.contains("no boot kit"), "{output:?}");
}

/// A node whose kit stalls: a pipe that nobody writes to makes wait who opens it, as a file server that is down does.
fn stalling() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("kit")).unwrap();
    assert!(Command::new("mkfifo").arg(dir.path().join("kit/kit.toml")).status().unwrap().success());
    dir
}

#[test]
fn what_stalls_is_named_and_fails_no_node_but_one_whose_srun_does_not_say_that_the_plugin_is_loaded() {
    let dir = stalling();
    let at = dir.path();
    let path = format!("{}:{}", at.display(), std::env::var("PATH").unwrap());
    for (srun, plugin) in [("echo --vm-image", "ok"), ("exec sleep 1000", "missing")] {
        node::testing::program(&at.join("srun"), &format!("#!/bin/sh\n{srun}\n")).unwrap();
        let look = |words: &[&str]| {
            let words = [&["--node", "--within", "2"], words].concat();
            let since = Instant::now();
            let output = command(at, &words).env("PATH", &path).output().unwrap();
            assert!(since.elapsed() < Duration::from_secs(10), "{output:?}");
            output
        };
        let output = look(&["--json"]);
        let report: Value = serde_json::from_str(&text(&output)).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
        assert_eq!(of("plugin")["state"], plugin, "{report:#}");
        let (state, stalled) = (&of("kit")["state"], &of("kit")["stalled"]);
        assert_eq!((state.as_str(), stalled.as_bool()), (Some("limited"), Some(true)), "{report:#}");
        // A machine without QEMU lacks more.
        let missing = checks.iter().any(|check| check["state"] == "missing");
        assert_eq!(output.status.code(), Some(missing.into()), "{report:#}");
        let told = text(&look(&[]));
        assert!(told.lines().count() == 1 && told.contains("/kit): no answer within 2 s"), "{told}");
        assert_eq!(told.contains("whether Slurm loads the plugin here is not known"), plugin == "missing", "{told}");
    }
}

#[test]
fn the_death_of_the_process_that_looks_is_told_at_once_and_fails_no_node() {
    let dir = stalling();
    let since = Instant::now();
    let mut check = command(dir.path(), &["--node", "--within", "120", "--json"]);
    let check = check.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", check.id());
    let is_looking = |child: &&str| {
        fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|words| words.ends_with(b"--look\0--within\x00120\0"))
    };
    let killed = loop {
        assert!(since.elapsed() < Duration::from_secs(60), "no process looks");
        let found = fs::read_to_string(&children).unwrap_or_default();
        if let Some(child) = found.split_whitespace().find(is_looking) {
            // It has found what does not stall.
            std::thread::sleep(Duration::from_secs(2));
            break Command::new("kill").args(["-KILL", child]).status().unwrap();
        }
    };
    assert!(killed.success());
    let output = check.wait_with_output().unwrap();
    assert!(since.elapsed() < Duration::from_secs(100), "{output:?}");
    let report: Value = serde_json::from_str(&text(&output)).unwrap();
    let kit = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "kit").unwrap();
    assert!(
        kit["found"]
            .as_str()
            .unwrap()
            .ends_with("/kit): no answer, because the process that looks has died (signal: 9 (SIGKILL))"),
        "{kit}"
    );
    assert_eq!(kit["state"], "limited", "{kit}");
}

#[test]
fn a_configuration_is_found_by_a_relative_path_in_the_look_with_another_user_s_rights_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("site.toml"), "kit = '/nowhere/kit'\n").unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_spank-vm"));
    let words = ["--config", "site.toml", "check", "--json"];
    let said = program.args(words).env("LC_ALL", "C").current_dir(dir.path()).output().unwrap();
    let report: Value = serde_json::from_str(&text(&said)).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let users = checks.iter().find(|check| check["name"] == "users").unwrap();
    // Where the tests do not run as root, or users cannot execute what was built, it is another reason.
    assert!(!users["found"].as_str().unwrap().contains("site.toml cannot be read"), "{users}");
}
