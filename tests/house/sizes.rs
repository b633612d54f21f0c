//! Limits on the size of files and functions, so that each can be read at once.

use crate::source::{Source, closing, code, files, sources, tokens};

/// Lines of a file.
const FILE: usize = 500;

/// Lines of a function.
const FUNCTION: usize = 80;

/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions that may be longer, each with its reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

/// Scripts have no extension: they are recognised by their first line.
fn scripts() -> Vec<Source> {
    let all = files(&[".ci", "fuzz", "packaging", "testkit", "tests", "benches"], |name| {
        !name.contains('.') || name.ends_with(".sh")
    });
    all.into_iter().filter(|file| file.text.starts_with("#!") || file.path.ends_with(".sh")).collect()
}

/// Files and functions that are too long, and exceptions that are not needed.
fn differences(found: Vec<(String, usize)>, allowed: &[(&str, &str)], limit: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, lines) in &found {
        if !allowed.iter().any(|(allowed, _)| allowed == name) {
            wrong.push(format!("{name} has {lines} lines, {limit} are allowed"));
        }
    }
    for (name, _) in allowed {
        if !found.iter().any(|(found, _)| found == name) {
            wrong.push(format!("{name} is short enough now: take it off the list"));
        }
    }
    wrong
}

#[test]
fn no_file_is_longer_than_500_lines_without_a_reason() {
    let all = sources().into_iter().chain(scripts());
    let long = all.map(|file| (file.path, file.text.lines().count())).filter(|(_, lines)| *lines > FILE);
    let wrong = differences(long.collect(), LONG_FILES, FILE);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_function_is_longer_than_80_lines_without_a_reason() {
    let mut long = Vec::new();
    for Source { path, text } in sources() {
        let named = functions(&code(&text)).into_iter().map(|(name, lines)| (format!("{path}: {name}"), lines));
        long.extend(named.filter(|(_, lines)| *lines > FUNCTION));
    }
    let wrong = differences(long, LONG_FUNCTIONS, FUNCTION);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Functions with a body: names and lines.
fn functions(code: &str) -> Vec<(String, usize)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        let ((begin, "fn"), (_, name)) = (tokens[at], tokens[at + 1]) else { continue };
        // "fn(u8)" is a type.
        if name == "(" {
            continue;
        }
        if let Some(open) = body(&tokens, at + 2) {
            let (end, _) = tokens[closing(&tokens, open)];
            found.push((name.to_owned(), end - begin + 1));
        }
    }
    found
}

/// Where the body of a function opens, if its parameters begin at or after `at`; a declaration has no body.
fn body(tokens: &[(usize, &str)], mut at: usize) -> Option<usize> {
    loop {
        match tokens.get(at)?.1 {
            "{" => return Some(at),
            ";" | ")" | "}" => return None,
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
}

#[test]
fn the_lines_of_a_function_are_counted_from_its_name_to_its_last_brace() {
    let code = "trait T { fn declared(a: [u8; 2]) -> u8; }\nfn short() {}\nfn long<F>(\n    a: fn(),\n) where F: Fn(), u8: Copy {\n    inner();\n}\n";
    assert_eq!(functions(code), [("short".to_owned(), 1), ("long".to_owned(), 5)]);
    let old = differences(Vec::new(), &[("gone.rs", "a reason")], 1);
    assert_eq!(old, ["gone.rs is short enough now: take it off the list"]);
}
