//! `--vm-mount`: host directories that a guest sees.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::RequestError;
use crate::values::{entries, entries_text, shown};
use crate::vm_option::{About, VmOption};

/// `--vm-mount`.
#[derive(Debug)]
pub struct VmMount;

impl VmOption for VmMount {
    const ABOUT: About = About {
        name: "vm-mount",
        argument: Some("SRC[:DST][:ro|rw],..."),
        is_list: true,
        help: "[vm] more host directories that the virtual machine sees",
        readme: "more host directories; the last `--vm-mount` counts, commas separate several, `\\,` is a comma in a path",
        run_name: "mount",
        run_help: "More host directories that the VMs see (repeatable)",
    };

    type Value = Vec<ShareSpec>;

    /// Reads shares separated by commas; names the first that is not valid.
    fn parse(text: &str) -> Result<Vec<ShareSpec>, RequestError> {
        let shares = entries(text).into_iter().map(|share| share.parse().map_err(in_option));
        Self::agreeing(shares.collect::<Result<_, _>>()?)
    }

    fn text(value: &Vec<ShareSpec>) -> String {
        entries_text(value.iter().map(ToString::to_string))
    }
}

impl VmMount {
    /// Refuses two directories for one place in the guest: only the first would be there.
    ///
    /// # Errors
    /// Names the second.
    pub fn agreeing(shares: Vec<ShareSpec>) -> Result<Vec<ShareSpec>, RequestError> {
        let mut places: HashMap<&Path, &ShareSpec> = HashMap::new();
        for share in &shares {
            let earlier = *places.entry(&share.target).or_insert(share);
            if earlier != share {
                let [share, earlier] = [share, earlier].map(|share| shown(&share.to_string()));
                let text = format!("share '{share}': '{earlier}' is already at this place in the guest");
                return Err(in_option(RequestError(text)));
            }
        }
        Ok(shares)
    }
}

fn in_option(error: RequestError) -> RequestError {
    RequestError(format!("--vm-mount: {error}"))
}

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
    fn a_path_with_a_comma_is_written_with_a_backslash() {
        let shares = VmMount::parse(r"/a\,b:/c,/d").unwrap();
        assert_eq!((shares[0].source.to_str(), shares.len()), (Some("/a,b"), 2));
        assert_eq!(VmMount::parse(&VmMount::text(&shares)), Ok(shares));
    }

    #[test]
    fn two_directories_for_one_place_are_refused_and_one_given_twice_is_not() {
        assert_eq!(VmMount::parse("/a,/b:/a/x,/a:/a:rw,/a/").map(|shares| shares.len()), Ok(4));
        for bad in ["/a:/x,/b:/x", "/a:/x,/b,/c:/x/", "/a:ro,/a"] {
            let error = VmMount::parse(bad).unwrap_err().to_string();
            assert!(
                error.starts_with("--vm-mount: share '/") && error.contains("' is already at this place"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_bad_mount_names_option_and_value() {
        let error = VmMount::parse("/sw,relative").unwrap_err().to_string();
        assert!(error.contains("--vm-mount") && error.contains("'relative'"), "{error}");
    }
}
