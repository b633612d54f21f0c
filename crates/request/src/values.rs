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
    let mut entries = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let protected = (c == '\\').then(|| chars.next_if(|next| [',', '\\'].contains(next))).flatten();
        match protected {
            None if c == ',' => entries.push(String::new()),
            other => entries.last_mut().expect("there is one from the start").push(other.unwrap_or(c)),
        }
    }
    entries
}

/// The text that [`entries`] splits into these.
pub(crate) fn entries_text(entries: impl Iterator<Item = String>) -> String {
    let protected = entries.map(|entry| entry.replace('\\', "\\\\").replace(',', "\\,"));
    protected.collect::<Vec<_>>().join(",")
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
