//! What a look at the node found.

/// One line of the report.
pub enum Finding {
    Good(String),
    /// Works, but not as well as it could; the text says what would lift it.
    Limited(String),
    Bad(String),
}
