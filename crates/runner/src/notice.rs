//! Lines for the person who runs a step.
//!
//! Not `eprintln!`: that one panics if the reader of standard error has closed it, and that must
//! not change how a task ends.

use std::io::{self, IsTerminal, Write};

use node::text::printable_lines;

/// Writes `vm: text` to standard error as one piece; a failure to write is ignored.
pub fn line(text: &str) {
    let _ = io::stderr().write_all(formatted(text).as_bytes());
}

/// The line that [`line`] writes.
pub fn formatted(text: &str) -> String {
    // While the command has the terminal, a line feed alone does not return to the first column.
    let end = if io::stderr().is_terminal() { "\r\n" } else { "\n" };
    format!("vm: {}{end}", printable_lines(text))
}
