//! A row of the matrix, and its result.

use std::time::Instant;

use testkit::Cluster;

/// A row of the matrix.
#[derive(Clone, Copy)]
pub struct Fault {
    /// What breaks.
    pub area: &'static str,
    /// What happens to it, as a sentence.
    pub name: &'static str,
    /// How often it is tried.
    pub tries: u32,
    /// Causes it and checks what the user sees.
    pub run: fn(&Cluster) -> Saw,
}

/// The result of a row.
#[derive(Debug)]
pub struct Saw {
    /// The moment of the fault.
    pub since: Instant,
    /// What the user saw.
    pub text: String,
}

impl std::fmt::Debug for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
