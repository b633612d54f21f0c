//! `unsafe` is where SECURITY.md says it is, and nowhere else.

use crate::source::{code, sources, tokens};

const SECURITY: &str = include_str!("../../SECURITY.md");

/// The list in SECURITY.md begins below this line.
const LIST: &str = "`unsafe` is allowed in these files";

fn listed() -> Vec<String> {
    let (_, rest) = SECURITY.split_once(LIST).expect(LIST);
    let lines = rest.lines().skip(1).skip_while(|line| line.trim().is_empty());
    let rows = lines.take_while(|line| line.starts_with('|')).filter_map(|line| line.split('`').nth(1));
    rows.map(str::to_owned).collect()
}

/// Files with the word itself or an attribute that allows it.
fn with_unsafe() -> Vec<String> {
    let is_unsafe = |text: &str| {
        let code = code(text);
        let mut words = tokens(&code).into_iter().map(|(_, word)| word);
        words.any(|word| word == "unsafe") || code.contains("allow(unsafe_code)")
    };
    sources().into_iter().filter(|source| is_unsafe(&source.text)).map(|source| source.path).collect()
}

#[test]
fn the_files_with_unsafe_code_are_those_that_the_document_lists() {
    let mut listed = listed();
    listed.sort();
    assert_eq!(listed, with_unsafe(), "the table of SECURITY.md is on the left");
}
