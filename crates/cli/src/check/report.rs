//! The report on paper: for people and for programs.

use std::io::{self, IsTerminal};

use serde_json::json;

use super::finding::{Checked, State};
use crate::output::{print, print_marked};
use node::layout::this_node;

/// How lines are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    /// The locale can show ✓ and ✗.
    marks: bool,
    /// A terminal that wants colours.
    colours: bool,
}

impl Style {
    /// What standard output can show.
    pub(super) fn of_stdout() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        let locale = locale.into_iter().find(|value| !value.is_empty()).unwrap_or_default();
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let plain = is_set("NO_COLOR") || std::env::var("TERM").is_ok_and(|term| term == "dumb");
        Self { marks: is_utf8(&locale), colours: io::stdout().is_terminal() && !plain }
    }

    /// The mark before a line and its colour; without marks the word that stands in their place.
    fn mark(self, state: State) -> (&'static str, Option<u8>) {
        let (mark, colour) = match state {
            State::Ok => ("✓", 32),
            State::Limited => ("!", 33),
            State::Missing => ("✗", 31),
        };
        (if self.marks { mark } else { "" }, self.colours.then_some(colour))
    }
}

fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// The word for a state where there are no marks.
fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Limited => "limited",
        State::Missing => "MISSING",
    }
}

/// Prints the line of one requirement, and below it what it is for and what to do, unless it is met.
pub(super) fn line(style: Style, Checked { name, about, finding }: &Checked) -> anyhow::Result<()> {
    let (mark, colour) = style.mark(finding.state);
    match style.marks {
        true => print_marked(mark, colour, &format!(" {name:<9} {}", finding.found))?,
        false => print_marked("", None, &format!("{name:<9} {:<8} {}", word(finding.state), finding.found))?,
    }
    if finding.state == State::Ok {
        return Ok(());
    }
    print_marked("", None, &format!("            why: {about}"))?;
    finding.remedy.as_ref().map_or(Ok(()), |remedy| print_marked("", None, &format!("            do:  {remedy}")))
}

/// Prints everything as one JSON object.
pub(super) fn json(settings: &str, checks: &[Checked], exit_code: u8) -> anyhow::Result<()> {
    let settings: toml::Table = settings.parse()?;
    let verdict = checks.iter().map(|checked| checked.finding.state).max().unwrap_or(State::Ok);
    let report = json!({
        "node": this_node(),
        "version": env!("CARGO_PKG_VERSION"),
        "verdict": verdict,
        "exit_code": exit_code,
        "settings": settings,
        "checks": checks,
    });
    print(&format!("{report:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_for_locales_that_have_them_and_colours_for_terminals() {
        assert!(is_utf8("de_DE.UTF-8") && is_utf8("C.utf8") && !is_utf8("C") && !is_utf8(""));
        let plain = Style { marks: false, colours: false };
        assert_eq!(plain.mark(State::Missing), ("", None));
        let full = Style { marks: true, colours: true };
        assert_eq!([State::Ok, State::Missing].map(|state| full.mark(state)), [("✓", Some(32)), ("✗", Some(31))]);
    }
}
