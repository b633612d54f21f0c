//! A test of the lab's suite.

use testkit::lab::Lab;

/// A test: a sentence and a function of the lab.
pub struct Case {
    pub name: &'static str,
    pub run: fn(&Lab),
    pub runs: Runs,
}

/// In which runs of the suite it is. All cases run on all releases where the whole suite is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// In all of them.
    Always,
    /// On one release: it shows the same on every other.
    Once,
    /// Only in the whole suite: it is slow and stable, or another suite shows it too, emulated.
    Nightly,
}

impl Case {
    /// The same, where one release is enough.
    pub const fn once(self) -> Self {
        Self { runs: Runs::Once, ..self }
    }

    /// The same, where it is for every night.
    pub const fn nightly(self) -> Self {
        Self { runs: Runs::Nightly, ..self }
    }
}

pub const fn case(name: &'static str, run: fn(&Lab)) -> Case {
    Case { name, run, runs: Runs::Always }
}
