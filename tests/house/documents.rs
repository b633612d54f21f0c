//! Files, directories and tests that the documents name must exist.

use testkit::place::repository;

use crate::source::sources;

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");
const CONTRIBUTING: &str = include_str!("../../CONTRIBUTING.md");
const SECURITY: &str = include_str!("../../SECURITY.md");

/// The directories where a path in a document may begin.
const PLACES: [&str; 10] =
    ["src/", "crates/", "testkit/", "tests/", "benches/", "fuzz/", "packaging/", "slurm-conf/", ".ci/", "include/"];

/// Every word in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_path_that_a_document_names_exists() {
    for (document, text) in [("CONTRIBUTING.md", CONTRIBUTING), ("SECURITY.md", SECURITY)] {
        // A command's words come after its path.
        let words = quoted(text).filter_map(|quote| quote.split(' ').next());
        let paths: Vec<&str> = words.filter(|word| PLACES.iter().any(|place| word.starts_with(place))).collect();
        assert!(paths.len() > 4, "{document}: {paths:?}");
        for path in paths {
            assert!(repository().join(path).exists(), "{document} names {path}");
        }
    }
}

/// ARCHITECTURE.md uses short names of files: `node/lock.rs` is `crates/node/src/lock.rs`.
#[test]
fn every_file_that_the_architecture_names_exists() {
    let files: Vec<String> = sources().iter().map(|source| format!("/{}", source.path.replace("/src/", "/"))).collect();
    let named: Vec<String> =
        quoted(ARCHITECTURE).filter(|word| word.ends_with(".rs")).map(|word| word.replace("/src/", "/")).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(files.iter().any(|file| file.ends_with(&format!("/{name}"))), "ARCHITECTURE.md names {name}");
    }
}

/// Test names are in italics, after what they show; `…` stands for the rest of a name.
#[test]
fn every_test_that_holds_a_promise_exists() {
    let code: String = sources().into_iter().map(|source| source.text).collect();
    let italics = SECURITY.split("— *").skip(1).filter_map(|text| text.split('*').next());
    let names: Vec<&str> = italics.flat_map(|names| names.split(',')).map(str::trim).collect();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let known = match name.split_once("::") {
            Some((module, _)) => code.contains(&format!("mod {module} {{")) || code.contains(&format!("mod {module};")),
            None => code.contains(name.trim_end_matches('…')),
        };
        assert!(known, "SECURITY.md names the test {name}");
    }
}
