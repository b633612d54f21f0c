//! What the commands print. Much of it was written by somebody else: in the entry of a group's image, in the manifest
//! of a user's template. Root reads it on a terminal, so it is cleaned here, on its way out.

use std::io::{self, Write};

use anyhow::Context;
use node::text::{printable, printable_lines};

/// Writes lines to stdout; a reader that left (`| head`) is not an error.
pub fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(printable_lines(text).as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("stdout"),
    }
}

/// Writes one line to stdout, of which no part can feign another.
pub fn print_line(text: &str) -> anyhow::Result<()> {
    print(&format!("{}\n", printable(text)))
}

/// Writes what went wrong, or what is noteworthy, to stderr; that nobody reads it is nobody's business.
pub fn complain(text: &str) {
    let _ = io::stderr().write_all(format!("spank-vm: {}\n", printable_lines(text)).as_bytes());
}

/// A size for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
