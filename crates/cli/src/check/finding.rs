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

    fn of(state: State, found: impl Into<String>) -> Self {
        Self { state, found: found.into(), remedy: None }
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
