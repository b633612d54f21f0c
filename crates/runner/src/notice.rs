//! Lines for the person who runs a step.
//!
//! Not `eprintln!`: that one panics when nobody reads standard error any more, and a task must not
//! end differently because its reader left.

use std::io::{self, IsTerminal, Write};

use node::text::printable_lines;

/// Writes `vm: text` to standard error as one piece; a failure to write is nobody's business.
pub fn line(text: &str) {
    let _ = io::stderr().write_all(formatted(text).as_bytes());
}

/// The line that [`line`] writes.
pub fn formatted(text: &str) -> String {
    // While the command has the terminal, a line feed alone does not return to the first column.
    let end = if io::stderr().is_terminal() { "\r\n" } else { "\n" };
    format!("vm: {}{end}", printable_lines(text))
}
