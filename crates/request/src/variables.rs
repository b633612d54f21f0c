//! Variables that the command in a VM gets whatever the rules for the environment say.

use super::{RequestError, shown};

/// One entry of `--vm-env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvEntry {
    /// `NAME=VALUE`: this value.
    Set(String, String),
    /// `NAME`: the task's own value as it is on the host, or no such variable if the task has none.
    Pass(String),
}

/// Variables by which commands tell VMs apart, and all of the plugin's own.
const TAKEN: [&str; 3] = ["SLURM_VM_INDEX", "SLURM_VMS_PER_SLOT", "SPANK_VM"];

/// Reads the value of `--vm-env`: entries separated by commas. A comma that belongs to a value is
/// written `\,` and a backslash `\\`.
///
/// # Errors
/// Names the first entry that is not valid.
pub fn parse_variables(text: &str) -> Result<Vec<EnvEntry>, RequestError> {
    entries(text).iter().map(|entry| parse_entry(entry)).collect()
}

/// Splits at the commas that no backslash protects.
fn entries(text: &str) -> Vec<String> {
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

fn parse_entry(entry: &str) -> Result<EnvEntry, RequestError> {
    let wrong = |why: &str| Err(RequestError(format!("--vm-env='{}': {why}", shown(entry))));
    let name = entry.split('=').next().unwrap_or_default();
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(legal) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return wrong(
            "NAME or NAME=VALUE is needed, and a name is letters, digits and '_' (a comma in a value is '\\,')",
        );
    }
    if TAKEN.iter().any(|taken| name.starts_with(taken)) {
        return wrong("this variable is set by spank-vm itself");
    }
    Ok(match entry.split_once('=') {
        Some((name, value)) => EnvEntry::Set(name.to_owned(), value.to_owned()),
        None => EnvEntry::Pass(name.to_owned()),
    })
}

/// The text that [`parse_variables`] reads back.
pub(super) fn variables_text(entries: &[EnvEntry]) -> String {
    let protected = |value: &str| value.replace('\\', "\\\\").replace(',', "\\,");
    let texts = entries.iter().map(|entry| match entry {
        EnvEntry::Set(name, value) => format!("{name}={}", protected(value)),
        EnvEntry::Pass(name) => name.clone(),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> EnvEntry {
        EnvEntry::Set(name.into(), value.into())
    }

    #[test]
    fn entries_are_separated_by_commas_that_a_backslash_protects() {
        let read = parse_variables(r"A=1,B,C=,D=x\,y\\,E=\n=é").unwrap();
        let expected =
            vec![set("A", "1"), EnvEntry::Pass("B".into()), set("C", ""), set("D", r"x,y\"), set("E", r"\n=é")];
        assert_eq!(read, expected);
        assert_eq!(parse_variables(&variables_text(&read)).unwrap(), read);
    }

    #[test]
    fn what_is_no_variable_or_not_the_users_is_refused_with_its_text() {
        for bad in ["", "=1", "1A=2", "A-B=2", "A,,B", "A B", "SPANK_VM_REQUEST=x", "SLURM_VM_INDEX=3", "A=1,"] {
            let error = parse_variables(bad).unwrap_err().to_string();
            assert!(error.starts_with("--vm-env='"), "{error}");
        }
    }
}
