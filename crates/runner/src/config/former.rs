//! Keys that former releases had. A line that is left in a site's file, and says what holds anyway, must not stop the site's
//! nodes; one that says otherwise must not be passed over.

use serde::Deserialize;
use toml::Spanned;

use crate::error::{Fault, RunError, ensure};

/// Those keys.
#[derive(Deserialize)]
struct Former {
    file_transport: Option<Spanned<String>>,
}

/// The text without such keys, where each other line keeps its number; and what to tell the administrator of them.
///
/// # Errors
/// When one asks for what there is no more; one line, with its number.
pub(super) fn set_aside(text: &str) -> Result<(String, Vec<String>), RunError> {
    // A text that is no TOML, or has a value of another type there, is told by who reads all of it.
    let found = toml::from_str::<Former>(text).ok().and_then(|former| former.file_transport);
    let Some(value) = found else { return Ok((text.to_owned(), Vec::new())) };
    let place = value.span();
    // Key and value begin on one line.
    let begin = text[..place.start].rfind('\n').map_or(0, |end| end + 1);
    let line = text[..begin].matches('\n').count() + 1;
    ensure!(
        value.get_ref() == "fuse",
        Fault::System,
        "line {line}: file_transport = {:?}: files come over FUSE only; remove the line, and give an image whose own kernel has \
         no FUSE boot = \"kit\", or shares = false in [full] of its entry",
        value.get_ref()
    );
    let mut rest = text.to_owned();
    rest.replace_range(begin..place.end, "");
    Ok((rest, vec![format!("line {line}: there is no choice of file_transport any more; the line can be removed")]))
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn a_line_of_a_former_release_that_says_what_holds_anyway_stops_nothing_and_is_told() {
        for line in ["file_transport = \"fuse\"  # so it was", "  'file_transport'='fuse'"] {
            let text = format!("kit = '/k'\n{line}\nallow_root = true\n");
            let config = Config::parse(&text).unwrap();
            assert!(config.allow_root && config.leftovers[0].starts_with("line 2: "), "{config:?}");
            let error = Config::parse(&format!("{text}kitt = 1\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 4: there is no key 'kitt'"), "{error}");
        }
        assert!(Config::parse("kit = '/k'\n").unwrap().leftovers.is_empty());
    }

    #[test]
    fn a_line_that_asks_for_what_there_is_no_more_is_an_error_that_says_what_to_do() {
        let error = Config::parse("\nfile_transport = '9p'\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2: file_transport = \"9p\": ") && error.contains("remove the line"), "{error}");
        assert!(!error.contains('\n') && error.contains("shares = false"), "{error}");
        let error = Config::parse("file_transport = 9\n").unwrap_err().to_string();
        assert!(error.starts_with("line 1: there is no key 'file_transport'"), "{error}");
    }
}
