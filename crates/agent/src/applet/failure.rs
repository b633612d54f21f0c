//! What an applet tells its user.

use std::io::{self, Write};

/// Why an applet failed, as one line.
pub type Failure = String;

/// Tells the user what does not stop the work.
pub fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "warning: {}", text.replace('\n', " "));
}
