//! What README.md tells people to type exists, and its table of options is the one that the list of options makes.

use std::process::Command;

use request::{OPTIONS, OptionRow};

const README: &str = include_str!("../../../README.md");
const README_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
const MAKEFILE: &str = include_str!("../../../Makefile");

/// Every word sequence in README.md that starts with `program`, from code blocks and inline code.
fn commands(program: &str) -> Vec<Vec<&'static str>> {
    let inline = README.split('`').skip(1).step_by(2);
    let blocks = README.lines().filter(|line| line.starts_with("    ")).flat_map(|line| line.split('|'));
    let words = inline.chain(blocks).map(|text| text.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words.first() == Some(&program)).collect()
}

#[test]
fn every_make_target_exists() {
    let targets = commands("make");
    assert!(targets.len() >= 5, "{targets:?}");
    for words in targets {
        let target = words[1];
        assert!(MAKEFILE.lines().any(|line| line.starts_with(&format!("{target}:"))), "make {target}");
    }
}

#[test]
fn every_subcommand_and_option_of_the_program_exists() {
    let lines = commands("spank-vm");
    assert!(lines.len() >= 6, "{lines:?}");
    for words in lines {
        let words: Vec<&str> = words.into_iter().take_while(|word| *word != "--").collect();
        let is_name = |word: &&&str| !word.starts_with('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        let subcommand: Vec<&str> = words[1..].iter().take_while(is_name).copied().collect();
        let help = Command::new(env!("CARGO_BIN_EXE_spank-vm")).args(&subcommand).arg("--help").output().unwrap();
        assert!(help.status.success(), "{words:?}");
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains(&format!("spank-vm {}", subcommand.join(" "))), "{words:?}");
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{option} of {words:?}");
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
        // A bar would end the cell.
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
