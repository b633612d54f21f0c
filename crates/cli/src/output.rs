//! What the commands print. Much of it was written by somebody else: in the entry of a group's image, in the manifest
//! of a user's template. Root reads it on a terminal, so it is cleaned here, on its way out.

use std::io::{self, Write};

use anyhow::Context;
use node::text::{printable, printable_lines, without_numbers};

/// Writes lines to stdout; it is no error when the reader has left (`| head`).
pub fn print(text: &str) -> anyhow::Result<()> {
    write_out(&printable_lines(text))
}

/// Nothing in the text may come from somebody else uncleaned.
fn write_out(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("stdout"),
    }
}

/// Writes one line to stdout; no text in it can look like another line.
pub fn print_line(text: &str) -> anyhow::Result<()> {
    print(&format!("{}\n", printable(&without_numbers(text))))
}

/// Writes an error or a note to stderr; it is no error when nobody reads it.
pub fn complain(text: &str) {
    let _ = io::stderr().write_all(format!("spank-vm: {}\n", printable_lines(&without_numbers(text))).as_bytes());
}

/// A size in a form that people read.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Writes one line to stdout after a mark of this program's own, in that colour of the terminal.
pub fn print_marked(mark: &'static str, colour: Option<u8>, text: &str) -> anyhow::Result<()> {
    let mark = colour.map_or_else(|| mark.to_owned(), |colour| format!("\u{1b}[{colour}m{mark}\u{1b}[0m"));
    write_out(&format!("{mark}{}\n", printable(&without_numbers(text))))
}
