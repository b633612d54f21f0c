//! No two files need each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};

use crate::modules::{Crate, roots};

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Known circles, each with its reason. This list only gets shorter: a circle may have fewer files than listed here;
/// a circle that is gone must be removed from the list.
const KNOWN: &[(&str, &[&str])] = &[];

#[test]
fn no_files_depend_on_each_other_in_a_circle() {
    let found: BTreeSet<Vec<String>> = roots().iter().flat_map(|root| circles(&Crate::read(root).edges())).collect();
    let is_part = |circle: &[String], known: &[&str]| circle.iter().all(|file| known.contains(&file.as_str()));
    let new: Vec<_> = found.iter().filter(|circle| !KNOWN.iter().any(|(_, known)| is_part(circle, known))).collect();
    assert!(new.is_empty(), "circles of files: {new:#?}");
    let gone: Vec<_> = KNOWN.iter().filter(|(_, known)| !found.iter().any(|circle| is_part(circle, known))).collect();
    assert!(gone.is_empty(), "these circles are gone: take them off the list: {gone:#?}");
}

/// Groups of files each of which leads to all others, sorted.
fn circles(edges: &Edges) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = edges.keys().map(|file| (file, reachable(edges, file))).collect();
    let mut found = BTreeSet::new();
    for (file, reached) in &reach {
        let circle: Vec<String> =
            reached.iter().filter(|other| reach[*other].contains(file)).map(|other| (*other).clone()).collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

/// All files that `file` leads to, over any number of others.
fn reachable<'a>(edges: &'a Edges, file: &str) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = edges[file].iter().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(edges.get(file).into_iter().flatten());
        }
    }
    reached
}

#[test]
fn a_circle_is_found_however_long_it_is() {
    let edge = |(from, to): &(&str, &[&str])| ((*from).to_owned(), to.iter().map(|to| (*to).to_owned()).collect());
    let edges: Edges =
        [("a", &["b"][..]), ("b", &["c", "d"]), ("c", &["a"]), ("d", &["e"]), ("e", &[])].iter().map(edge).collect();
    assert_eq!(circles(&edges), [["a", "b", "c"]]);
}
