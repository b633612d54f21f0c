//! A test of the lab's suite.

use testkit::lab::Lab;

/// A test: a sentence and a function of the lab.
pub struct Case {
    pub name: &'static str,
    pub run: fn(&Lab),
    /// Whether it shows the same on every release, so that one is enough.
    pub once: bool,
}

impl Case {
    /// The same, where one release is enough.
    pub const fn once(self) -> Self {
        Self { once: true, ..self }
    }
}

pub const fn case(name: &'static str, run: fn(&Lab)) -> Case {
    Case { name, run, once: false }
}
