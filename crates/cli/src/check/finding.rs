//! What the check of the node found.

use serde::{Deserialize, Serialize};

/// How well a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Works, but not as well as it could.
    Limited,
    /// Without it no VM starts.
    Missing,
}

/// What was found of one requirement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub state: State,
    /// One line.
    pub found: String,
    /// What to do, if the line does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// It is not known: what was asked or looked at did not answer. That is no failure of this node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stalled: bool,
}

impl Finding {
    pub fn good(found: impl Into<String>) -> Self {
        Self::of(State::Ok, found)
    }

    pub fn limited(found: impl Into<String>) -> Self {
        Self::of(State::Limited, found)
    }

    pub fn bad(found: impl Into<String>) -> Self {
        Self::of(State::Missing, found)
    }

    pub fn stalled(found: impl Into<String>) -> Self {
        Self { stalled: true, ..Self::limited(found) }
    }

    fn of(state: State, found: impl Into<String>) -> Self {
        Self { state, found: found.into(), remedy: None, stalled: false }
    }

    /// The same with what to do about it.
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// A requirement, what depends on it, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub name: String,
    pub about: String,
    #[serde(flatten)]
    pub finding: Finding,
}

/// The exit code that these findings mean.
pub(super) fn exit_code(checks: &[Checked], strict: bool) -> u8 {
    match checks.iter().map(|checked| checked.finding.state).max() {
        Some(State::Missing) => 1,
        Some(State::Limited) if strict => 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_worst_that_was_found() {
        let of = |states: &[State], strict| {
            let checked = |state: &State| Checked {
                name: String::new(),
                about: String::new(),
                finding: Finding { state: *state, found: String::new(), remedy: None, stalled: false },
            };
            exit_code(&states.iter().map(checked).collect::<Vec<_>>(), strict)
        };
        assert_eq!((of(&[State::Ok], true), of(&[State::Ok, State::Limited], false)), (0, 0));
        assert_eq!((of(&[State::Limited], true), of(&[State::Missing, State::Limited], true)), (3, 1));
    }
}
