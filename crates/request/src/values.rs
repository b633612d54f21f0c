//! Parts of values that several options use.

use crate::error::RequestError;

/// A value as it is shown in a message: short, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

/// Reads the value of an option that takes no value on the command line, but has one as an
/// environment default.
///
/// # Errors
/// Names the option and the value.
pub(crate) fn switch(option: &str, text: &str) -> Result<bool, RequestError> {
    match text {
        "" | "1" | "yes" => Ok(true),
        "0" | "no" => Ok(false),
        _ => Err(RequestError(format!("--{option}='{}': '1' or '0' is needed", shown(text)))),
    }
}

/// The text that [`switch`] reads back.
pub(crate) fn switch_text(on: bool) -> String {
    u8::from(on).to_string()
}

/// Reads a whole number from 1 to `most`.
///
/// # Errors
/// Names the option and the value.
pub(crate) fn number(option: &str, text: &str, most: u32) -> Result<u32, RequestError> {
    // Digits only: "+4" and " 4" are typing errors.
    let number = if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None };
    number
        .filter(|n| (1..=most).contains(n))
        .ok_or_else(|| RequestError(format!("--{option}='{}': a whole number from 1 to {most} is needed", shown(text))))
}

/// Splits a list at its commas. A comma inside an entry is written `\,` and a backslash `\\`.
pub(crate) fn entries(text: &str) -> Vec<String> {
    split_at(text, ',').into_iter().map(|entry| unprotected(entry, &IN_LISTS)).collect()
}

/// The text that [`entries`] splits into these.
pub(crate) fn entries_text(entries: impl Iterator<Item = String>) -> String {
    entries.map(|entry| protected(&entry, &IN_LISTS)).collect::<Vec<_>>().join(",")
}

/// What a backslash protects in the entries of a list.
const IN_LISTS: [char; 2] = [',', '\\'];

/// The parts of the text between the separators that have no backslash before them. The parts keep their backslashes.
pub(crate) fn split_at(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == separator {
            parts.push(&text[begin..at]);
            begin = at + separator.len_utf8();
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// The text without the backslashes that stand before one of these characters. Any other backslash means itself.
pub(crate) fn unprotected(text: &str, special: &[char]) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let next = (c == '\\').then(|| chars.next_if(|next| special.contains(next))).flatten();
        plain.push(next.unwrap_or(c));
    }
    plain
}

/// The text from which [`unprotected`] makes this one.
pub(crate) fn protected(text: &str, special: &[char]) -> String {
    text.chars().flat_map(|c| special.contains(&c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_without_a_value_and_an_error_names_option_and_value() {
        for (text, on) in [("", true), ("1", true), ("yes", true), ("0", false), ("no", false)] {
            assert_eq!(switch("vm-root", text), Ok(on));
        }
        assert_eq!(switch("vm-root", &switch_text(false)), Ok(false));
        let error = switch("vm-root", "maybe").unwrap_err().to_string();
        assert!(error.starts_with("--vm-root='maybe'"), "{error}");
    }

    #[test]
    fn a_list_is_read_back_as_it_was() {
        let list = ["a", "", r"b,c\", r"\,"].map(str::to_owned);
        assert_eq!(entries(&entries_text(list.iter().cloned())), list);
    }
}
