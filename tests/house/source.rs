//! Rust sources as text, and as code without comments and literals.

use std::fs;
use std::path::Path;

use testkit::place::repository;

/// A file of the repository.
#[derive(Debug)]
pub struct Source {
    /// Its path from the repository's root.
    pub path: String,
    pub text: String,
}

/// All Rust files that are ours, sorted.
pub fn sources() -> Vec<Source> {
    files(&["build.rs", "src", "crates", "testkit", "tests", "benches", "fuzz/fuzz_targets"], |name| {
        name.ends_with(".rs")
    })
}

/// All files below `places` whose name is wanted, sorted.
pub fn files(places: &[&str], is_wanted: fn(&str) -> bool) -> Vec<Source> {
    let mut found = Vec::new();
    for place in places {
        collect(&repository().join(place), is_wanted, &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(path: &Path, is_wanted: fn(&str) -> bool, found: &mut Vec<Source>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path.is_dir() && name != "target" {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), is_wanted, found);
        }
    } else if path.is_file() && is_wanted(&name) {
        // Seeds of fuzz targets are not text.
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let path_from_root = path.strip_prefix(repository()).unwrap().display().to_string();
        found.push(Source { path: path_from_root, text });
    }
}

/// The text with blanks in the place of comments and quoted text; every line keeps its number.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_literal(bytes, at);
        match end {
            Some(end) => {
                blank(&mut code[at..end]);
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(code).unwrap()
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

/// Where the comment or literal that begins at `at` ends, if one does.
fn end_of_literal(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let after =
        |needle: &[u8], from: usize| find(rest, needle, from).map_or(bytes.len(), |found| at + found + needle.len());
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => Some(find(rest, b"\n", 0).map_or(bytes.len(), |end| at + end)),
        [b'/', b'*', ..] => Some(after(b"*/", 2)),
        [b'"', ..] => Some(end_of_string(bytes, at + 1, b'"')),
        [b'r', b'"' | b'#', ..] if !in_word || bytes[at - 1] == b'b' => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            (rest.get(1 + hashes) == Some(&b'"')).then(|| {
                let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
                after(&close, 2 + hashes)
            })
        }
        // A lifetime has no second quote right after its first letter.
        [b'\'', b'\\', ..] => Some(end_of_string(bytes, at + 1, b'\'')),
        [b'\'', ..] => {
            let character = std::str::from_utf8(&rest[1..rest.len().min(5)]);
            let valid = character.map_or_else(|error| error.valid_up_to(), str::len);
            let width = std::str::from_utf8(&rest[1..1 + valid]).unwrap().chars().next()?.len_utf8();
            (rest.get(1 + width) == Some(&b'\'')).then_some(at + width + 2)
        }
        _ => None,
    }
}

fn end_of_string(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn find(bytes: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    bytes.get(from..)?.windows(needle.len()).position(|window| window == needle).map(|found| from + found)
}

/// The words, and everything else as single characters (`::` counts as one), each with its line number.
pub fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let length = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            tokens.push((number + 1, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Where the bracket that opens at `tokens[open]` closes.
pub fn closing(tokens: &[(usize, &str)], open: usize) -> usize {
    let mut depth = 0;
    for (at, (_, token)) in tokens.iter().enumerate().skip(open) {
        match *token {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "let a = \"} // \\\" \"; // }\nlet b = r#\"{\"\"#; /* { */ let c = '{'; fn f<'a>(x: &'a str) {}\nlet q = '\\'';";
    let code = code(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.matches(['{', '}']).count(), 2, "{code}");
    assert_eq!(code.lines().count(), 3);
    let words: Vec<&str> = tokens("use a::{b_1};").into_iter().map(|(_, token)| token).collect();
    assert_eq!(words, ["use", "a", "::", "{", "b_1", "}", ";"]);
}
