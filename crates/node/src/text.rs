//! Text that somebody else wrote, made fit for a terminal and a log.

use std::io;

/// `text` without characters that could control a terminal, fake another line, or reverse the direction of writing.
pub fn printable(text: &str) -> String {
    short(text, usize::MAX)
}

/// The same, cut to this many characters.
pub fn short(text: &str, most: usize) -> String {
    text.chars().filter(|&c| is_printable(c)).take(most).collect()
}

/// Several lines of text, each made [`printable`].
pub fn printable_lines(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || is_printable(c)).collect()
}

/// The system's words for an error, without Rust's "(os error 2)".
pub fn reason(error: &io::Error) -> String {
    without_numbers(&error.to_string())
}

/// `text` without the numbers that Rust adds to the system's words for errors: "(os error 2)" tells a user nothing.
pub fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let begin = parts.next().unwrap_or_default().to_owned();
    parts.fold(begin, |kept, part| match part.split_once(')') {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => kept + rest,
        _ => kept + " (os error " + part,
    })
}

fn is_printable(c: char) -> bool {
    // The marks and overrides of Unicode's bidirectional algorithm, and its line separators.
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !(c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        assert_eq!(printable("a\x1b[2Jb\rc\nd\u{9b}31m\u{202e}e"), "a[2Jbcd31me");
        assert_eq!(printable("x\u{61c}\u{200e}\u{2067}y"), "xy", "every mark that turns the direction");
        assert_eq!(printable("größe 5 €"), "größe 5 €");
        assert_eq!(short("\x07xyz", 2), "xy");
        assert_eq!(printable_lines("one\n\x1btwo\n"), "one\ntwo\n");
    }

    #[test]
    fn an_error_of_the_system_has_words_and_no_number() {
        assert_eq!(reason(&io::Error::from_raw_os_error(2)), "No such file or directory");
        assert_eq!(reason(&io::Error::other("no QEMU")), "no QEMU");
        assert_eq!(without_numbers("a: b (os error 2); c: d (os error 28)"), "a: b; c: d");
        for text in ["", "(os error 2)", "a (os error", "a (os error b) c", "a (os error 2"] {
            assert_eq!(without_numbers(text), text);
        }
    }
}
