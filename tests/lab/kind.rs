//! Kinds of labs.

/// A kind of lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// The release of Debian on its nodes.
    pub release: String,
    /// How many nodes it has.
    pub nodes: u8,
}

impl Kind {
    /// What it is called in reports.
    pub fn title(&self) -> String {
        if self.nodes == 1 { self.release.clone() } else { format!("{}, {} nodes", self.release, self.nodes) }
    }
}
