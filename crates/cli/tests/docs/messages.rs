//! The messages that docs/troubleshooting.md explains are messages of the program.

use std::fs;
use std::path::Path;

use crate::documents::{document, repository};

/// Where messages are written.
const CODE: [&str; 8] = [
    "src",
    "crates/request/src",
    "crates/node/src",
    "crates/network/src",
    "crates/image/src",
    "crates/qemu/src",
    "crates/runner/src",
    "crates/cli/src",
];

/// Messages of Slurm, the shell and the kernel.
const OF_OTHERS: [&str; 5] = [
    "unrecognized option",
    "Invalid feature specification",
    "command not found",
    "no space left` in the VM",
    "Network is unreachable",
];

/// A shorter piece between two words that differ could be anywhere.
const SHORTEST: usize = 8;

/// All code as one text, with texts that go on in the next line joined.
fn code() -> String {
    let mut text = fs::read_to_string(repository().join("slurm-conf/job_submit.lua")).unwrap();
    CODE.iter().for_each(|dir| read(&repository().join(dir), &mut text));
    let mut joined = String::new();
    for part in text.split("\\\n") {
        joined.push_str(if joined.is_empty() { part } else { part.trim_start() });
    }
    joined
}

fn read(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, text);
        } else {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_message_that_is_explained_exists() {
    let (code, text) = (code(), document("docs/troubleshooting.md").text);
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")).map(|line| line.split(" | ").next().unwrap());
    let mut seen = 0;
    for cell in cells.filter(|cell| !OF_OTHERS.iter().any(|other| cell.contains(other))) {
        for message in format!("`{cell}").split('`').skip(1).step_by(2) {
            for piece in message.split('…').map(str::trim).filter(|piece| piece.len() >= SHORTEST) {
                seen += 1;
                let piece = piece.trim_matches(['\'', ':', ';', '?']);
                assert!(
                    code.contains(piece),
                    "docs/troubleshooting.md explains '{message}', and no program says '{piece}'"
                );
            }
        }
    }
    assert!(seen > 40, "{seen}");
}
