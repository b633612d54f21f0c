//! What the check of the node found.

/// One line of the report.
pub enum Finding {
    Good(String),
    /// Works, but not as well as it could; the text says how to improve it.
    Limited(String),
    Bad(String),
}
