//! The documents, as they lie in the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// A document for people.
#[derive(Debug)]
pub struct Document {
    /// Its path in the repository.
    pub name: String,
    pub text: String,
}

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All documents: those beside README.md, and those in `docs`.
pub fn documents() -> Vec<Document> {
    let mut found: Vec<Document> = ["", "docs/"].into_iter().flat_map(in_directory).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(found.len() > 15, "{found:?}");
    found
}

fn in_directory(dir: &str) -> Vec<Document> {
    let entries = fs::read_dir(repository().join(dir)).unwrap().map(|entry| entry.unwrap().file_name());
    let names = entries.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".md"));
    names.map(|name| document(&format!("{dir}{name}"))).collect()
}

/// The document at this path of the repository.
pub fn document(name: &str) -> Document {
    let text = fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    Document { name: name.to_owned(), text }
}
