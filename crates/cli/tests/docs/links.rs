//! Links between documents lead somewhere, and every document can be found.

use std::path::Path;

use crate::documents::{Document, document, documents, repository};

/// The targets of links and pictures.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The name by which a heading is linked to: as the viewers of such documents make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

fn headings(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_exist() {
    let mut seen = 0;
    for Document { name, text } in documents() {
        let here = Path::new(&name).parent().unwrap();
        for link in links(&text).filter(|link| !link.contains("://")) {
            seen += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { Path::new(&name).to_owned() } else { here.join(path) };
            assert!(repository().join(&target).exists(), "{name}: no file {link}");
            if !heading.is_empty() {
                let text = document(target.to_str().unwrap()).text;
                assert!(headings(&text).any(|line| anchor(line) == heading), "{name}: no heading {link}");
            }
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn every_document_is_in_the_index() {
    let index = document("docs/README.md").text;
    let indexed: Vec<&str> = links(&index).map(|link| link.split('#').next().unwrap()).collect();
    for Document { name, .. } in documents() {
        if let Some(page) = name.strip_prefix("docs/").filter(|page| *page != "README.md") {
            assert!(indexed.contains(&page), "docs/README.md does not name {page}");
        }
    }
}

/// What does not fit on it belongs into `docs`.
#[test]
fn the_first_page_stays_a_page() {
    let lines = document("README.md").text.lines().count();
    assert!(lines <= 135, "README.md has {lines} lines");
}
