//! The products link exactly what ARCHITECTURE.md shows.

use std::process::Command;

use testkit::place::repository;

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

const HEADING: &str = "## What the products link";

/// What cargo links into a product, without versions and paths.
fn tree(package: &str) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tree = Command::new(cargo);
    tree.args(["tree", "--offline", "--locked", "--edges", "normal", "--charset", "ascii", "--package", package]);
    let printed = tree.current_dir(repository()).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let printed = String::from_utf8(printed.stdout).unwrap();
    printed.lines().map(without_version).collect::<Vec<_>>().join("\n")
}

/// `|-- libc v0.2.1 (*)` as `|-- libc (*)`.
fn without_version(line: &str) -> String {
    let Some((before, after)) = line.split_once(" v") else { return line.to_owned() };
    if after.ends_with("(*)") { format!("{before} (*)") } else { before.to_owned() }
}

/// The blocks of code below the heading.
fn shown() -> Vec<String> {
    let (_, section) = ARCHITECTURE.split_once(HEADING).expect(HEADING);
    let section = section.split("\n## ").next().unwrap();
    section.split("```").skip(1).step_by(2).map(|block| block.trim_start_matches("text").trim().to_owned()).collect()
}

#[test]
fn the_plugin_and_the_agent_link_what_the_document_shows() {
    for package in ["spank-vm", "spank-vm-agent"] {
        let tree = tree(package);
        let shown = shown();
        assert!(shown.contains(&tree), "{package}: under '{HEADING}' should stand\n```text\n{tree}\n```");
    }
}

#[test]
fn neither_links_what_its_host_must_not_have() {
    for package in ["spank-vm", "spank-vm-agent"] {
        let tree = tree(package);
        for unwanted in
            ["spank-vm-runner", "spank-vm-qemu", "spank-vm-image", "serde", "toml", "tracing", "anyhow", "clap"]
        {
            let mut names = tree.lines().map(|line| line.trim_start_matches(['|', '`', '-', ' ']));
            assert!(!names.any(|name| name.split(' ').next() == Some(unwanted)), "{package} links {unwanted}:\n{tree}");
        }
    }
}
