//! Every command that a document tells people to type exists, with its options.

use std::fs;
use std::process::Command;

use request::OPTIONS;

use crate::documents::{Document, documents, repository};

const MAKEFILE: &str = include_str!("../../../../Makefile");

/// A command line, with the name of its document.
type Line = (String, Vec<String>);

/// Every word sequence of `text` that starts with `program`, from code blocks and inline code.
fn commands_in(text: &str, program: &str) -> Vec<Vec<String>> {
    let blocks = text.lines().filter(|line| line.starts_with("    ")).flat_map(|line| line.split('|'));
    let prose = text.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    let fences = text.split("```").skip(1).step_by(2).flat_map(str::lines);
    // What a terminal shows begins with a prompt.
    let words = |text: &str| text.split_whitespace().skip_while(|word| *word == "$").map(str::to_owned).collect();
    let lines = prose.chain(blocks).chain(fences).map(words);
    lines.filter(|words: &Vec<String>| words.first().is_some_and(|first| first == program)).collect()
}

/// The same for all documents.
fn commands(program: &str) -> Vec<Line> {
    let of_one = |Document { name, text }: &Document| {
        let lines = commands_in(text, program).into_iter();
        lines.map(|words| (name.clone(), words)).collect::<Vec<_>>()
    };
    documents().iter().flat_map(of_one).collect()
}

#[test]
fn every_make_target_exists() {
    let targets = commands("make");
    assert!(targets.len() >= 20, "{targets:?}");
    for (document, words) in targets {
        let words: Vec<&str> = words.iter().map(String::as_str).take_while(|word| !word.starts_with('#')).collect();
        let (variables, targets): (Vec<&str>, Vec<&str>) = words[1..].iter().partition(|word| word.contains('='));
        for target in targets {
            let names =
                |line: &str| line.split_once(':').is_some_and(|(names, _)| names.split(' ').any(|n| n == target));
            assert!(MAKEFILE.lines().any(names), "{document}: make {target}");
        }
        for variable in variables.iter().filter_map(|word| word.split('=').next()) {
            let used = [format!("$({variable})"), format!("{variable} ?="), format!("$(or $({variable})")];
            // Variables of benchmarks are read from the environment.
            let is_used =
                used.iter().any(|used| MAKEFILE.contains(used.as_str())) || MAKEFILE.contains(&format!("{variable}="));
            assert!(is_used, "{document}: {words:?}: the Makefile has no {variable}");
        }
    }
}

#[test]
fn every_package_and_suite_of_cargo_exists() {
    let root = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let crates = fs::read_dir(repository().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let manifests: Vec<String> = crates.map(|dir| fs::read_to_string(dir.join("Cargo.toml")).unwrap()).collect();
    let is_named = |text: &str, name: &str| text.contains(&format!("\nname = \"{name}\"\n"));
    let after = |words: &[String], option: &str| {
        words.iter().position(|word| word == option).and_then(|at| words.get(at + 1).cloned())
    };
    let lines = commands("cargo");
    assert!(lines.len() >= 2, "{lines:?}");
    for (document, words) in lines {
        if let Some(package) = after(&words, "-p") {
            let exists = is_named(&root, &package) || manifests.iter().any(|text| is_named(text, &package));
            assert!(exists, "{document}: {words:?}: no package {package}");
        }
        if let Some(suite) = after(&words, "--test") {
            assert!(is_named(&root, &suite), "{document}: {words:?}: no suite {suite}");
        }
    }
}

#[test]
fn every_subcommand_and_option_of_the_program_exists() {
    let lines = commands("spank-vm");
    assert!(lines.len() >= 6, "{lines:?}");
    for (document, words) in lines {
        let words: Vec<&str> = words.iter().map(String::as_str).take_while(|word| *word != "--").collect();
        let is_name = |word: &&&str| !word.starts_with('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let subcommand: Vec<&str> = words[1..].iter().take_while(is_name).copied().collect();
        let help = Command::new(env!("CARGO_BIN_EXE_spank-vm")).args(&subcommand).arg("--help").output().unwrap();
        assert!(help.status.success(), "{document}: {words:?}");
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains(&format!("spank-vm {}", subcommand.join(" "))), "{document}: {words:?}");
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{document}: {option} of {words:?}");
        }
    }
}

/// Programs of the repository, by their path.
#[test]
fn every_script_that_is_called_exists() {
    let mut seen = 0;
    for Document { name, text } in documents() {
        let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
        let calls = lines.filter_map(|line| line.trim_start_matches("$ ").split_whitespace().next());
        for path in calls.filter(|word| ["testkit/", "tests/images/"].iter().any(|dir| word.starts_with(dir))) {
            seen += 1;
            assert!(repository().join(path).is_file(), "{name}: {path}");
        }
    }
    assert!(seen >= 2);
}

#[test]
fn every_option_of_slurm_s_programs_that_is_written_of_exists() {
    let samples = ["slurm-conf/spank-vm.toml", "slurm-conf/example-job.sh"].map(crate::documents::document);
    for Document { name, text } in documents().into_iter().chain(samples) {
        for word in text.split("--vm").skip(1) {
            let rest: String = word.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let option = format!("vm{}", rest.trim_end_matches('-'));
            // `--vm…` stands for all.
            let known = option == "vm" || option == "vms" || OPTIONS.iter().any(|row| row.about.name == option);
            assert!(known, "{name}: --{option}");
        }
    }
}
