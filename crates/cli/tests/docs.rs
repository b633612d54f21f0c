//! Every command that the documents tell people to type exists, and README's table of options is the one made from the
//! list.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use request::{OPTIONS, OptionRow};

const README: &str = include_str!("../../../README.md");
const README_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
/// The documents that tell people to type something.
const DOCUMENTS: [(&str, &str); 9] = [
    ("README.md", README),
    ("CONTRIBUTING.md", include_str!("../../../CONTRIBUTING.md")),
    ("ARCHITECTURE.md", include_str!("../../../ARCHITECTURE.md")),
    ("SECURITY.md", include_str!("../../../SECURITY.md")),
    ("docs/guests.md", include_str!("../../../docs/guests.md")),
    ("docs/install.md", include_str!("../../../docs/install.md")),
    ("docs/monitoring.md", include_str!("../../../docs/monitoring.md")),
    ("docs/parallel.md", include_str!("../../../docs/parallel.md")),
    ("docs/releasing.md", include_str!("../../../docs/releasing.md")),
];
const MAKEFILE: &str = include_str!("../../../Makefile");

/// Every word sequence of `text` that starts with `program`, from code blocks and inline code.
fn commands_in(text: &'static str, program: &str) -> Vec<Vec<&'static str>> {
    let blocks = text.lines().filter(|line| line.starts_with("    ")).flat_map(|line| line.split('|'));
    let mut fenced = text.split("```");
    let prose = fenced.by_ref().step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    let fences = text.split("```").skip(1).step_by(2).flat_map(str::lines);
    let words = prose.chain(blocks).chain(fences).map(|text| text.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words.first() == Some(&program)).collect()
}

/// The same for all documents, each with the document's name.
fn commands(program: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let of_one = |(name, text): (&'static str, &'static str)| {
        commands_in(text, program).into_iter().map(move |words| (name, words))
    };
    DOCUMENTS.into_iter().flat_map(of_one).collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_make_target_exists() {
    let targets = commands("make");
    assert!(targets.len() >= 20, "{targets:?}");
    for (document, words) in targets {
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
    let after = |words: &[&'static str], option: &str| {
        words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1).copied())
    };
    let lines = commands("cargo");
    assert!(lines.len() >= 2, "{lines:?}");
    for (document, words) in lines {
        if let Some(package) = after(&words, "-p") {
            let exists = is_named(&root, package) || manifests.iter().any(|text| is_named(text, package));
            assert!(exists, "{document}: {words:?}: no package {package}");
        }
        if let Some(suite) = after(&words, "--test") {
            assert!(is_named(&root, suite), "{document}: {words:?}: no suite {suite}");
        }
    }
}

#[test]
fn every_subcommand_and_option_of_the_program_exists() {
    let lines = commands("spank-vm");
    assert!(lines.len() >= 6, "{lines:?}");
    for (document, words) in lines {
        let words: Vec<&str> = words.into_iter().take_while(|word| *word != "--").collect();
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

#[test]
fn every_setting_is_in_the_sample_configuration() {
    let sample = include_str!("../../../slurm-conf/spank-vm.toml");
    let printed = Command::new(env!("CARGO_BIN_EXE_spank-vm")).arg("check").output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let keys: Vec<&str> =
        printed.lines().take_while(|line| !line.is_empty()).filter_map(|l| l.split(' ').next()).collect();
    assert!(keys.len() > 10, "{printed}");
    for key in keys {
        assert!(sample.lines().any(|line| line.starts_with(&format!("{key} ="))), "{key}");
    }
}

/// The table of options, as Markdown.
fn option_table() -> String {
    let row = |OptionRow { about, .. }: &OptionRow, variable: String| {
        // A vertical bar would end the cell.
        let argument = about.argument.map(|words| format!("={}", words.replace('|', "\\|").replace("...", "…")));
        let value = if argument.is_some() { "" } else { "=1" };
        format!("| `--{}{}` | {} | `{variable}{value}` |\n", about.name, argument.unwrap_or_default(), about.readme)
    };
    let rows: String = OPTIONS.iter().map(|option| row(option, option.default_variable())).collect();
    format!("| option of srun, sbatch, salloc | meaning | environment default |\n| --- | --- | --- |\n{rows}")
}

#[test]
fn the_table_of_options_is_made_from_their_list() {
    let table = option_table();
    let begin = README.find(table.lines().next().unwrap()).expect("the table's head");
    let end = begin + README[begin..].find("\n\n").expect("the table's end") + 1;
    if std::env::var_os("SPANK_VM_WRITE_DOCS").is_some() {
        std::fs::write(README_PATH, [&README[..begin], &table, &README[end..]].concat()).unwrap();
        return;
    }
    let advice = "the options have changed: 'SPANK_VM_WRITE_DOCS=1 cargo test -p spank-vm-cli --test docs' writes this";
    assert!(README[begin..end] == table, "{advice}:\n\n{table}");
}

#[test]
fn every_option_of_slurm_s_programs_that_is_written_of_exists() {
    let texts =
        [README, include_str!("../../../slurm-conf/spank-vm.toml"), include_str!("../../../slurm-conf/example-job.sh")];
    for word in texts.iter().flat_map(|text| text.split("--vm").skip(1)) {
        let rest: String = word.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        let name = format!("vm{rest}");
        assert!(name == "vms" || OPTIONS.iter().any(|option| option.about.name == name), "--{name}");
    }
}
