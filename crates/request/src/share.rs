//! Host directories that a guest sees, as users and sites write them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{RequestError, shown};

/// A host directory that a guest sees, as users and sites write it: `SRC[:DST][:ro|rw]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSpec {
    /// Directory on the host.
    pub source: PathBuf,
    /// Absolute path in the guest.
    pub target: PathBuf,
    /// Writes are refused.
    pub read_only: bool,
}

impl FromStr for ShareSpec {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let wrong =
            |why: &str| RequestError(format!("share '{}': {why} (SRC[:DST][:ro|rw], absolute paths)", shown(text)));
        let mut parts: Vec<&str> = text.split(':').collect();
        let read_only = match parts.last() {
            Some(&"ro") => parts.pop().is_some(),
            Some(&"rw") => parts.pop().is_none(),
            _ => false,
        };
        let (source, target) = match parts[..] {
            [source] => (source, source),
            [source, target] => (source, target),
            _ => return Err(wrong("too many parts")),
        };
        if !source.starts_with('/') || !target.starts_with('/') {
            return Err(wrong("a path is not absolute"));
        }
        if target == "/" {
            return Err(wrong("the guest's root cannot be replaced"));
        }
        Ok(Self { source: source.into(), target: target.into(), read_only })
    }
}

impl fmt::Display for ShareSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.read_only { "ro" } else { "rw" };
        write!(f, "{}:{}:{mode}", self.source.display(), self.target.display())
    }
}

/// Reads the value of `--vm-mount`: shares separated by commas.
///
/// # Errors
/// The first share that is not valid.
pub fn parse_mounts(text: &str) -> Result<Vec<ShareSpec>, RequestError> {
    let in_option = |error: RequestError| RequestError(format!("--vm-mount: {error}"));
    text.split(',').map(|share| share.parse().map_err(in_option)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_with_and_without_target_and_mode() {
        let share = |text: &str| text.parse::<ShareSpec>();
        assert_eq!(share("/sw:ro").unwrap().to_string(), "/sw:/sw:ro");
        assert_eq!(share("/data/x:/mnt/x").unwrap().to_string(), "/data/x:/mnt/x:rw");
        assert_eq!(share("/a:/b:rw").unwrap().to_string(), "/a:/b:rw");
        for bad in ["sw", "/a:b", "/a:/b:/c", "/a:/", "", "ro"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_mount_names_option_and_value() {
        let error = parse_mounts("/sw,relative").unwrap_err().to_string();
        assert!(error.contains("--vm-mount") && error.contains("'relative'"), "{error}");
    }
}
