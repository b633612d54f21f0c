//! Lists of processors, in the forms of GOMP_CPU_AFFINITY (`0 2-6:2`), KMP_AFFINITY (`granularity=fine,proclist=[0,2]`)
//! and OMP_PLACES (`{0:4}:2:4`).

use std::ffi::OsStr;

/// Whether a VM with this many processors has all that the value names by number. Words like `cores` or `compact`
/// name none.
///
/// A number after a colon is a length or a distance. So a list may pass whose last places do not exist; the libraries
/// that read it ignore those.
pub(super) fn fit(value: &OsStr, processors: u32) -> bool {
    let Some(text) = value.to_str() else { return false };
    // KMP_AFFINITY has other numbers too; only these are processors.
    let list = match text.split_once("proclist=") {
        Some((_, list)) => list.split(']').next().unwrap_or_default(),
        None if text.contains(|c: char| c.is_ascii_alphabetic()) => return true,
        None => text,
    };
    let mut before = ' ';
    let mut digits = String::new();
    for c in list.chars().chain([' ']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        if !digits.is_empty() {
            let Ok(number) = digits.parse::<u32>() else { return false };
            let is_length = before == ':';
            if number > processors || number == processors && !is_length {
                return false;
            }
            digits.clear();
        }
        before = c;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_passes_if_the_vm_has_what_it_names() {
        let passes = |text: &str| fit(OsStr::new(text), 4);
        for text in ["0 3 1-2", "0-3", "0,1", "{0:4}", "{0},{1},{2}", "{0:2}:2:2", "cores", "threads(2)", "sockets"] {
            assert!(passes(text), "{text}");
        }
        for text in ["0 4", "12-15", "{4},{5}", "{0:8}", "4", "99999999999"] {
            assert!(!passes(text), "{text}");
        }
        for (text, expected) in [
            ("granularity=fine,compact,1,0", true),
            ("verbose,scatter", true),
            ("granularity=fine,proclist=[0,3],explicit", true),
            ("granularity=fine,proclist=[0,4],explicit", false),
        ] {
            assert_eq!(passes(text), expected, "{text}");
        }
    }
}
