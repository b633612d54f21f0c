//! Tables that are made from a list, and places where every member of a list must be named.
//!
//! `SPANK_VM_WRITE_DOCS=1 cargo test -p spank-vm-cli --test docs` writes the tables.

use std::fs;
use std::process::Command;

use request::{OPTIONS, OptionRow};

use crate::documents::{document, repository};

const SAMPLE: &str = include_str!("../../../../slurm-conf/spank-vm.toml");

/// Keys of an image's entry that `[full]` and `[allow]` have; those of the entry itself are read from the code.
const ENTRY: &str = include_str!("../../../image/src/entry.rs");
const ALLOW: &str = include_str!("../../../image/src/allow.rs");

/// Compares a table of a document with the one that its list makes, or writes it there.
fn compare(name: &str, table: &str) {
    let text = document(name).text;
    let head = table.lines().next().unwrap();
    let begin = text.find(head).unwrap_or_else(|| panic!("{name} has no table with the head {head}"));
    let end = text[begin..].find("\n\n").map_or(text.len(), |at| begin + at + 1);
    if std::env::var_os("SPANK_VM_WRITE_DOCS").is_some() {
        fs::write(repository().join(name), [&text[..begin], table, &text[end..]].concat()).unwrap();
        return;
    }
    let advice = "'SPANK_VM_WRITE_DOCS=1 cargo test -p spank-vm-cli --test docs' writes this";
    assert!(text[begin..end] == *table, "{name}: the list has changed: {advice}:\n\n{table}");
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
    compare("README.md", &option_table());
}

#[test]
fn the_user_guide_names_every_option() {
    let guide = document("docs/user.md").text;
    for option in &OPTIONS {
        assert!(guide.contains(&format!("--{}", option.about.name)), "--{}", option.about.name);
    }
}

/// The table of settings: each with its default and the first sentence about it.
fn settings_table() -> String {
    let mut table = "| setting | default | meaning |\n| --- | --- | --- |\n".to_owned();
    let mut about = String::new();
    for line in SAMPLE.lines() {
        match (line.strip_prefix('#'), line.split_once(" = ")) {
            (Some(text), _) => about = format!("{about} {}", text.trim()),
            (None, Some((key, value))) => {
                let about = about.trim();
                let sentence = about.split_inclusive(['.', ':']).scan(true, |goes_on, part| {
                    std::mem::replace(goes_on, !ends_a_sentence(part, about)).then_some(part)
                });
                let sentence: String = sentence.collect();
                let meaning = sentence.trim_end_matches(['.', ':']).replace('|', "\\|");
                table.push_str(&format!("| `{key}` | `{value}` | {meaning} |\n"));
            }
            (None, None) => about.clear(),
        }
        if line.is_empty() {
            about.clear();
        }
    }
    table
}

/// Whether this part of a text ends with its sentence, and not with a dot in a name.
fn ends_a_sentence(part: &str, text: &str) -> bool {
    let end = part.as_ptr() as usize - text.as_ptr() as usize + part.len();
    text[end..].is_empty() || text[end..].starts_with(' ')
}

#[test]
fn the_table_of_settings_is_made_from_the_sample_configuration() {
    compare("docs/settings.md", &settings_table());
}

#[test]
fn every_setting_is_in_the_sample_configuration() {
    let printed = Command::new(env!("CARGO_BIN_EXE_spank-vm")).arg("check").output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let keys: Vec<&str> =
        printed.lines().take_while(|line| !line.is_empty()).filter_map(|l| l.split(' ').next()).collect();
    assert!(keys.len() > 10, "{printed}");
    for key in keys {
        assert!(SAMPLE.lines().any(|line| line.starts_with(&format!("{key} ="))), "{key}");
    }
}

/// `pub name: Type,` of a structure.
fn fields<'a>(code: &'a str, structure: &str) -> Vec<&'a str> {
    let begin = code.find(&format!("pub struct {structure} {{")).unwrap_or_else(|| panic!("{structure}"));
    let body = code[begin..].split("\n}").next().unwrap_or_default();
    let public = body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'));
    public.map(|(name, _)| name).filter(|name| !name.contains(' ')).collect()
}

#[test]
fn every_key_of_an_image_s_entry_is_explained() {
    let keys = [(ENTRY, "ImageEntry", 10), (ENTRY, "FullBootEntry", 5), (ALLOW, "Allow", 4)];
    let text = document("docs/images.md").text + &document("docs/full-boot.md").text;
    for (code, structure, number) in keys {
        let fields = fields(code, structure);
        assert!(fields.len() >= number, "{structure}: {fields:?}");
        for key in fields {
            let written = [format!("`{key}`"), format!("`[{key}]`"), format!("`{key} =")];
            assert!(written.iter().any(|form| text.contains(form.as_str())), "{structure}: {key} is not explained");
        }
    }
}
