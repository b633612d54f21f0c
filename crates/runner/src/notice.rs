//! Lines for the person who runs a step.
//!
//! Not `eprintln!`: that one panics if the reader of standard error has closed it, and that must
//! not change how a task ends.

use std::io::{self, IsTerminal, Write};

use node::text::{printable_lines, short, without_numbers};

/// Most characters of a guest's text in a line.
const GUEST_TEXT_MOST: usize = 1000;

/// Text of a guest or another program, made safe for a terminal and a log.
pub(crate) fn printable(text: &[u8]) -> String {
    short(&String::from_utf8_lossy(text), GUEST_TEXT_MOST)
}

/// Writes `vm: text` to standard error as one piece; a failure to write is ignored.
pub fn line(text: &str) {
    let _ = io::stderr().write_all(formatted(text).as_bytes());
}

/// The line that [`line`] writes.
pub fn formatted(text: &str) -> String {
    // While the command has the terminal, a line feed alone does not return to the first column.
    let end = if io::stderr().is_terminal() { "\r\n" } else { "\n" };
    format!("vm: {}{end}", printable_lines(&without_numbers(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_is_told_without_its_number() {
        let error = io::Error::from_raw_os_error(28);
        assert_eq!(
            formatted(&format!("disk: {error}; make room")).trim_end(),
            "vm: disk: No space left on device; make room"
        );
    }

    #[test]
    fn a_guest_s_text_controls_no_terminal_and_turns_no_line_round() {
        assert_eq!(printable("\x1b[31mred\u{202e}der\n\u{2028}x\u{ff}".as_bytes()), "[31mredderxÿ");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
        assert_eq!(printable(&[b'x'; 5000]).len(), GUEST_TEXT_MOST);
    }
}
