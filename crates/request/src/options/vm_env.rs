//! `--vm-env`: variables that the command gets in spite of the rules for the environment.

use crate::error::RequestError;
use crate::values::{entries, entries_text, shown};
use crate::vm_option::{About, VmOption};

/// `--vm-env`.
#[derive(Debug)]
pub struct VmEnv;

impl VmOption for VmEnv {
    const ABOUT: About = About {
        name: "vm-env",
        argument: Some("NAME[=VALUE],..."),
        is_list: true,
        help: "[vm] variables for the command: with this value, or NAME alone as it is on the host",
        readme: "variables for the command: with this value, or NAME alone as it is on the host; `\\,` is a comma in a \
                 value",
        run_name: "env",
        run_help: "Variables for the command: with this value, or NAME alone as it is here (repeatable)",
    };

    type Value = Vec<EnvEntry>;

    /// Reads entries separated by commas; names the first that is not valid.
    fn parse(text: &str) -> Result<Vec<EnvEntry>, RequestError> {
        entries(text).iter().map(|entry| parse_entry(entry)).collect()
    }

    fn text(value: &Vec<EnvEntry>) -> String {
        entries_text(value.iter().map(|entry| match entry {
            EnvEntry::Set(name, value) => format!("{name}={value}"),
            EnvEntry::Pass(name) => name.clone(),
        }))
    }
}

/// One entry of `--vm-env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvEntry {
    /// `NAME=VALUE`: this value.
    Set(String, String),
    /// `NAME`: the task's own value as it is on the host, or no such variable if the task has none.
    Pass(String),
}

/// Variables that tell a command which VM it is in, and all variables of the plugin.
const TAKEN: [&str; 4] = ["SLURM_VM_INDEX", "SLURM_VMS_PER_SLOT", "SLURM_VM_HOSTS", "SPANK_VM"];

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

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> EnvEntry {
        EnvEntry::Set(name.into(), value.into())
    }

    #[test]
    fn entries_are_separated_by_commas_that_a_backslash_protects() {
        let read = VmEnv::parse(r"A=1,B,C=,D=x\,y\\,E=\n=é").unwrap();
        let expected =
            vec![set("A", "1"), EnvEntry::Pass("B".into()), set("C", ""), set("D", r"x,y\"), set("E", r"\n=é")];
        assert_eq!(read, expected);
        assert_eq!(VmEnv::parse(&VmEnv::text(&read)).unwrap(), read);
    }

    #[test]
    fn what_is_no_variable_or_not_the_users_is_refused_with_its_text() {
        for bad in ["", "=1", "1A=2", "A-B=2", "A,,B", "A B", "SPANK_VM_REQUEST=x", "SLURM_VM_INDEX=3", "A=1,"] {
            let error = VmEnv::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("--vm-env='"), "{error}");
        }
    }
}
