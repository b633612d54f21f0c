//! Mistakes in files and names that people write, told in one line: where, what, and what was probably meant.

use std::ops::Range;

/// How many keys are listed when none is similar.
const LISTED: usize = 12;

/// The name that was probably meant: the most similar one, if it is similar enough for a typing error.
pub fn meant<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|other| (strsim::damerau_levenshtein(wrong, other), other));
    let typing_errors = near.filter(|(distance, _)| *distance <= 1 + wrong.len() / 4);
    typing_errors.min_by_key(|(distance, _)| *distance).map(|(_, other)| other)
}

/// What is wrong with a TOML file, as one line. The parser's own text has several, with a drawing.
pub fn in_toml(error: &toml::de::Error, text: &str) -> String {
    described(error.span(), error.message(), text)
}

fn described(place: Option<Range<usize>>, message: &str, text: &str) -> String {
    let line = place.and_then(|place| text.get(..place.start)).map(|before| before.matches('\n').count() + 1);
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    let what = unknown_key(message).unwrap_or_else(|| message.lines().map(str::trim).collect::<Vec<_>>().join(", "));
    line + &what
}

/// Serde's text about a key that does not exist, in words for people.
fn unknown_key(message: &str) -> Option<String> {
    let mut words = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let wrong = words.next()?;
    let known: Vec<&str> = words.collect();
    let advice = match meant(wrong, known.iter().copied()) {
        Some(other) => format!("; did you mean '{other}'?"),
        None if known.is_empty() || known.len() > LISTED => String::new(),
        None => format!("; there are {}", known.join(", ")),
    };
    Some(format!("there is no key '{wrong}'{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[allow(dead_code)]
        boot_timeout_s: u32,
    }

    fn told(text: &str) -> String {
        in_toml(&toml::from_str::<File>(text).unwrap_err(), text)
    }

    #[test]
    fn a_mistake_is_one_line_with_its_place_and_what_was_meant() {
        assert_eq!(
            told("# x\nboot_timout_s = 5\n"),
            "line 2: there is no key 'boot_timout_s'; did you mean 'boot_timeout_s'?"
        );
        assert_eq!(told("kit = '/k'"), "line 1: there is no key 'kit'; there are boot_timeout_s");
        assert_eq!(told("boot_timeout_s = 'a'"), "line 1: invalid type: string \"a\", expected u32");
        for text in ["boot_timeout_s = ", "\n\nboot_timeout_s = [1\n", "", "a b"] {
            assert!(!told(text).contains('\n') && !told(text).is_empty(), "{}", told(text));
        }
        assert!(told("\n\na b").starts_with("line 3: "), "{}", told("\n\na b"));
    }

    #[test]
    fn only_a_typing_error_gets_a_suggestion() {
        assert_eq!(meant("debain12", ["tiny", "debian12", "debian11"]), Some("debian12"));
        assert_eq!(meant("rocky9", ["tiny", "debian12"]), None);
    }
}
