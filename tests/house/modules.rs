//! The files of a crate as modules: the name of each, what it names, and which files those names lead to.
//!
//! Code for tests does not count. A name is followed to the file that defines it: a file that uses a name which a
//! parent re-exports from its child depends on the child and not on the parent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use testkit::place::repository;

use crate::source::{closing, code, tokens};

/// A name is re-exported at most so often.
const DEPTH: usize = 16;

/// A module path from the crate's root: `["import", "plan"]`.
pub type Name = Vec<String>;

/// A file.
#[derive(Debug, Default)]
struct Module {
    file: String,
    children: BTreeSet<String>,
    /// Child modules that only tests have.
    of_tests: BTreeSet<String>,
    uses: Vec<Use>,
    /// Paths in the code, except those of `use`.
    paths: BTreeSet<Name>,
    /// Single words of the code.
    words: BTreeSet<String>,
}

/// One name that a `use` brings in; `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Use {
    path: Name,
    alias: String,
}

/// A crate, by the names of its modules.
#[derive(Debug, Default)]
pub struct Crate {
    modules: BTreeMap<Name, Module>,
}

impl Crate {
    /// Reads a crate from its first file.
    pub fn read(root: &Path) -> Self {
        let mut found = Self::default();
        found.read_module(Vec::new(), root, root.parent().unwrap());
        found
    }

    fn read_module(&mut self, name: Name, file: &Path, dir: &Path) {
        let code = code(&fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        let mut module = Module::parse(&code);
        module.children.extend(undeclared(dir).filter(|child| !module.of_tests.contains(child)));
        module.file = file.strip_prefix(repository()).unwrap_or(file).display().to_string();
        for child in &module.children {
            let flat = dir.join(format!("{child}.rs"));
            let file = if flat.exists() { flat } else { dir.join(child).join("mod.rs") };
            self.read_module([&name[..], std::slice::from_ref(child)].concat(), &file, &dir.join(child));
        }
        self.modules.insert(name, module);
    }

    /// For each file, the files that define something it names.
    pub fn edges(&self) -> BTreeMap<String, BTreeSet<String>> {
        let edges_of = |(name, module): (&Name, &Module)| {
            let used = module.uses.iter().filter(|used| used.alias == "*" || module.words.contains(&used.alias));
            let paths = used.map(|used| &used.path).chain(&module.paths);
            let mut files: BTreeSet<String> = paths.filter_map(|path| self.file_of(name, path, DEPTH)).collect();
            files.remove(&module.file);
            (module.file.clone(), files)
        };
        self.modules.iter().map(edges_of).collect()
    }

    /// The file that defines what `path` means in the module `from`; none for other crates and for modules as such.
    fn file_of(&self, from: &Name, path: &[String], depth: usize) -> Option<String> {
        let (first, rest) = path.split_first()?;
        let depth = depth.checked_sub(1)?;
        let start: Name = match first.as_str() {
            "crate" => Vec::new(),
            "self" => from.clone(),
            "super" => from[..from.len().checked_sub(1)?].to_vec(),
            _ => return self.lookup(from, path, depth).unwrap_or_default(),
        };
        match rest.first()?.as_str() {
            "super" => self.file_of(&start, rest, depth),
            // A name that is neither a child of the module nor re-exported by it is defined there.
            _ => self.lookup(&start, rest, depth).unwrap_or_else(|| Some(self.modules.get(&start)?.file.clone())),
        }
    }

    /// Like [`Self::file_of`], for a path that begins with a child of the module `within` or with a name from a
    /// `use` there; nothing for other paths.
    fn lookup(&self, within: &Name, path: &[String], depth: usize) -> Option<Option<String>> {
        let (name, rest) = path.split_first()?;
        let depth = depth.checked_sub(1)?;
        let module = self.modules.get(within)?;
        if module.children.contains(name) {
            let child = [&within[..], std::slice::from_ref(name)].concat();
            if rest.is_empty() {
                return Some(None);
            }
            return Some(
                self.lookup(&child, rest, depth).unwrap_or_else(|| Some(self.modules.get(&child)?.file.clone())),
            );
        }
        let used = module.uses.iter().find(|used| used.alias == *name && used.path != path)?;
        Some(self.file_of(within, &[&used.path[..], rest].concat(), depth))
    }
}

impl Module {
    fn parse(code: &str) -> Self {
        let tokens = tokens(code);
        let words: Vec<&str> = tokens.iter().map(|(_, token)| *token).collect();
        let mut module = Self::default();
        let mut at = 0;
        while at < tokens.len() {
            at = match &words[at..] {
                ["#", "[", "cfg", "(", "test", ")", "]", rest @ ..] => {
                    if let ["mod", name, ";", ..] = rest {
                        module.of_tests.insert((*name).to_owned());
                    }
                    end_of_item(&tokens, at + 7)
                }
                ["mod", name, ";", ..] => {
                    module.children.insert((*name).to_owned());
                    at + 3
                }
                ["use", ..] if words.get(at + 1) != Some(&"<") => {
                    let end = at + words[at..].iter().position(|word| *word == ";").unwrap();
                    tree(&words[at + 1..end], &[], &mut module.uses);
                    end + 1
                }
                _ => module.path(&words, at),
            };
        }
        module
    }

    /// Records the path that begins at `at`, and returns where it ends.
    fn path(&mut self, words: &[&str], at: usize) -> usize {
        let is_word =
            |at: usize| words.get(at).is_some_and(|word| word.starts_with(|c: char| c.is_alphabetic() || c == '_'));
        if !is_word(at) {
            return at + 1;
        }
        let mut end = at + 1;
        while words.get(end) == Some(&"::") && is_word(end + 1) {
            end += 2;
        }
        let path: Name = words[at..end].iter().step_by(2).map(|word| (*word).to_owned()).collect();
        self.words.insert(path[0].clone());
        if path.len() > 1 && words[at.saturating_sub(1)] != "::" {
            self.paths.insert(path);
        }
        end
    }
}

/// Files in the directory of a module: a macro may have declared them.
fn undeclared(dir: &Path) -> impl Iterator<Item = String> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = files.filter(|file| file.extension().is_some_and(|end| end == "rs") && !is_program(file));
    let names = files.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()));
    names.filter(|name| !["lib", "mod"].contains(&name.as_str()))
}

/// Whether it is the first file of a program: there may be several in a directory.
fn is_program(file: &Path) -> bool {
    file.ends_with("main.rs") || fs::read_to_string(file).is_ok_and(|text| text.contains("\nfn main("))
}

/// Where the item ends that begins at `at`, with further attributes before it.
fn end_of_item(tokens: &[(usize, &str)], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].1 {
            "{" => return closing(tokens, at) + 1,
            ";" | "," => return at + 1,
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    at
}

/// Records the names that a `use` brings in.
fn tree(words: &[&str], prefix: &[String], uses: &mut Vec<Use>) {
    let owned =
        |words: &[&str]| words.iter().filter(|word| **word != "::").map(|word| (*word).to_owned()).collect::<Name>();
    if let Some(open) = words.iter().position(|word| *word == "{") {
        let prefix = [prefix, &owned(&words[..open])].concat();
        let mut depth = 0;
        let parts = words[open + 1..words.len() - 1].split(|word| {
            depth += i32::from(*word == "{") - i32::from(*word == "}");
            depth == 0 && *word == ","
        });
        parts.filter(|part| !part.is_empty()).for_each(|part| tree(part, &prefix, uses));
        return;
    }
    let (path, alias) = match words {
        [path @ .., "as", alias] => (path, *alias),
        path => (path, *path.last().unwrap()),
    };
    let mut path = [prefix, &owned(path)].concat();
    let mut alias = alias.to_owned();
    // "use a::b::{self}" means "use a::b".
    if alias == "self" {
        path.pop();
        alias = path.last().cloned().unwrap_or_default();
    }
    uses.push(Use { path, alias });
}

/// The first files of all crates of the workspace, and of tests and measurements that have several files.
pub fn roots() -> Vec<PathBuf> {
    let crates = fs::read_dir(repository().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    let places = crates.chain([repository().to_owned(), repository().join("testkit")]);
    let files = places.flat_map(|place| ["src/lib.rs", "src/main.rs"].map(|file| place.join(file)));
    let groups = ["tests", "benches", "crates/cli/tests"].map(|group| repository().join(group));
    let dirs = groups.iter().flat_map(|group| fs::read_dir(group).unwrap()).map(|entry| entry.unwrap().path());
    let more = dirs.flat_map(|dir| fs::read_dir(dir).into_iter().flatten()).map(|entry| entry.unwrap().path());
    files.filter(|file| file.exists()).chain(more.filter(|file| is_program(file))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Name {
        path.split("::").filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn crate_of(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all = Crate::default();
        for (module, text) in files {
            let file = if module.is_empty() { "lib" } else { module };
            all.modules.insert(name(module), Module { file: file.to_owned(), ..Module::parse(&code(text)) });
        }
        let line = |(file, edges): (String, BTreeSet<String>)| (file, Vec::from_iter(edges).join(" "));
        all.edges().into_iter().map(line).collect()
    }

    #[test]
    fn a_name_leads_to_the_file_that_defines_it() {
        let edges = crate_of(&[
            ("", "mod a; mod b; pub use a::inner::Thing; pub struct Own;"),
            ("a", "mod inner; pub use inner::Thing; pub fn make() {} fn f(_: Thing) {}"),
            ("a::inner", "pub struct Thing; use super::make; fn f() { make() }"),
            ("b", "use crate::Thing; use crate::a::{self, inner as deep}; fn f(_: Thing) { a::make(); deep::g() }"),
        ]);
        assert_eq!(edges["lib"], "", "what is only handed on is not used");
        assert_eq!(edges["a"], "a::inner");
        assert_eq!(edges["a::inner"], "a");
        assert_eq!(edges["b"], "a a::inner");
    }

    #[test]
    fn code_for_tests_does_not_count() {
        let edges = crate_of(&[
            ("", "mod a; mod b;"),
            ("a", "#[cfg(test)] mod tests { use crate::b::B; fn f(_: B) {} } #[cfg(test)] use crate::b::C;"),
            ("b", "pub struct B; fn f() { std::mem::drop(crate::a::f()) }"),
        ]);
        assert_eq!((edges["a"].as_str(), edges["b"].as_str()), ("", "a"));
    }
}
