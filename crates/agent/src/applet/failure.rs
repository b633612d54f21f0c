//! What an applet reports to its user.

use std::io::{self, Write};

/// Why an applet failed, as one line.
pub type Failure = String;

/// Prints a warning about something that does not stop the work.
pub fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "warning: {}", text.replace('\n', " "));
}
