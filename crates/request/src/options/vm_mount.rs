//! `--vm-mount`: host directories that a guest sees.

use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::error::RequestError;
use crate::values::{protected, shown, split_at, unprotected};
use crate::vm_option::{About, VmOption};

/// Most entries of `--vm-mount`.
pub(crate) const MAX_MOUNTS: usize = 64;

/// What may be written with a backslash before it, to be a part of a name.
const SPECIAL: [char; 3] = [',', ':', '\\'];

/// Places of the guest's own system with all that is below them.
const SYSTEM_TREES: [&str; 4] = ["/proc", "/sys", "/dev", "/run/spank-vm"];

/// Directories that no system runs without. What is below them may be covered.
const SYSTEM_DIRS: [&str; 21] = [
    "/",
    "/bin",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/run",
    "/sbin",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/libx32",
    "/usr/sbin",
    "/var",
    "/var/lib",
    "/var/run",
    "/var/spool",
];

/// Whether a guest cannot run when something else is in this place: its kernel's file systems, its programs and
/// libraries, its configuration.
pub fn breaks_guest(place: &Path) -> bool {
    // Debian and its relatives keep libraries one level deeper.
    let has_libraries =
        place.parent().is_some_and(|parent| parent.ends_with("lib")) && place.to_string_lossy().ends_with("-linux-gnu");
    // Memory that programs share has room for directories of users.
    let in_tree = SYSTEM_TREES.iter().any(|tree| place.starts_with(tree)) && !below(place, "/dev/shm");
    in_tree || has_libraries || SYSTEM_DIRS.iter().any(|dir| place == Path::new(dir))
}

fn below(place: &Path, dir: &str) -> bool {
    place.starts_with(dir) && place != Path::new(dir)
}

/// `--vm-mount`.
#[derive(Debug)]
pub struct VmMount;

impl VmOption for VmMount {
    const ABOUT: About = About {
        name: "vm-mount",
        argument: Some("SRC[:DST][:ro|rw],..."),
        is_list: true,
        help: "[vm] more host directories and files that the virtual machine sees; in a name \\, \\: and \\\\ mean , : and \\",
        readme: "more host directories or single files; the last `--vm-mount` counts, commas separate several; in a name, `\\,` `\\:` `\\\\` mean `,` `:` `\\` ([docs/files.md](docs/files.md))",
        run_name: "mount",
        run_help: "More host directories and files that the VMs see (repeatable)",
    };

    type Value = Vec<ShareSpec>;

    /// Reads shares separated by commas; names the first that is not valid.
    fn parse(text: &str) -> Result<Vec<ShareSpec>, RequestError> {
        let shares = split_at(text, ',').into_iter().map(|share| share.parse().map_err(in_option));
        let shares = Self::agreeing(shares.collect::<Result<Vec<_>, _>>()?)?;
        match shares.len() {
            ..=MAX_MOUNTS => Ok(shares),
            many => Err(in_option(RequestError(format!("{many} places, at most {MAX_MOUNTS} can be")))),
        }
    }

    fn text(value: &Vec<ShareSpec>) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
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

/// A directory or a file of the host that a guest sees, as users and sites write it: `SRC[:DST][:ro|rw]`, with a
/// backslash before a comma, a colon or a backslash that is part of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSpec {
    /// Directory or file on the host.
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
        let mut parts = split_at(text, ':');
        let read_only = match parts.last() {
            Some(&"ro") => parts.pop().is_some(),
            Some(&"rw") => parts.pop().is_none(),
            _ => false,
        };
        let (source, target) = match parts[..] {
            [source] => (source, source),
            [source, target] => (source, target),
            [_, _, mode] => {
                let why = format!("'{}' is neither ro nor rw; a colon in a name is written \\:", shown(mode));
                return Err(wrong(&why));
            }
            _ => return Err(wrong("too many parts; a colon in a name is written \\:")),
        };
        let [source, target] = [source, target].map(|path| PathBuf::from(unprotected(path, &SPECIAL)));
        if !source.is_absolute() || !target.is_absolute() {
            return Err(wrong("a path is not absolute"));
        }
        if target.components().any(|part| part == Component::ParentDir) {
            return Err(wrong("the place in the guest is written without '..'"));
        }
        // Without doubled slashes and dots.
        let target: PathBuf = target.components().collect();
        if target == Path::new("/") {
            return Err(wrong("the guest's root cannot be replaced"));
        }
        if breaks_guest(&target) {
            let place = shown(&target.to_string_lossy());
            return Err(wrong(&format!("{place} is the guest's own, no guest runs without it; choose another place")));
        }
        Ok(Self { source, target, read_only })
    }
}

impl fmt::Display for ShareSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.read_only { "ro" } else { "rw" };
        let [source, target] = [&self.source, &self.target].map(|path| protected(&path.to_string_lossy(), &SPECIAL));
        write!(f, "{source}:{target}:{mode}")
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
        assert_eq!(share("/a/../b:/x//y/./z/").unwrap().to_string(), "/a/../b:/x/y/z:rw");
        for bad in ["sw", "/a:b", "/a:/b:/c", "/a:/", "", "ro", "/a:/b/../etc", "/a/../b"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_without_which_no_guest_runs_is_refused_by_name() {
        for place in [
            "/proc",
            "/proc/sys",
            "/dev",
            "/dev/shm",
            "/sys/",
            "/bin",
            "/lib",
            "/lib64",
            "/usr",
            "/usr/lib",
            "/etc",
            "/run",
            "/var",
            "/sbin",
            "/usr//bin",
            "/usr/lib/x86_64-linux-gnu",
            "/lib/i386-linux-gnu",
            "/run/spank-vm/x",
        ] {
            let error = VmMount::parse(&format!("/home/ada:{place}")).unwrap_err().to_string();
            assert!(error.starts_with("--vm-mount: share '/home/ada:"), "{error}");
            assert!(error.contains("guest's own") && !error.contains('\n'), "{error}");
        }
        for place in
            ["/usr/local", "/usr/share/x", "/etc/x.conf", "/opt", "/mnt", "/dev/shm/x", "/run/user/1", "/var/lib/ci"]
        {
            assert!(VmMount::parse(&format!("/home/ada:{place}")).is_ok(), "{place}");
        }
    }

    #[test]
    fn more_places_than_can_be_are_refused_with_their_number() {
        let list = |count: usize| (0..count).map(|number| format!("/d{number}")).collect::<Vec<_>>().join(",");
        assert_eq!(VmMount::parse(&list(MAX_MOUNTS)).unwrap().len(), MAX_MOUNTS);
        let error = VmMount::parse(&list(MAX_MOUNTS + 1)).unwrap_err().to_string();
        assert!(error.contains("65") && error.contains("64"), "{error}");
    }

    #[test]
    fn commas_colons_and_backslashes_in_names_are_written_with_a_backslash() {
        for (text, source, target) in [
            (r"/a\,b:/c", "/a,b", "/c"),
            (r"/a\:b:/c\:d:ro", "/a:b", "/c:d"),
            (r"/a\\:/c", r"/a\", "/c"),
            (r"/a\\\:b", r"/a\:b", r"/a\:b"),
            (r"/a\b:/c d", r"/a\b", "/c d"),
            (r"/ro\:ro", "/ro:ro", "/ro:ro"),
            ("/a'\"$x\u{e9}\t", "/a'\"$x\u{e9}\t", "/a'\"$x\u{e9}\t"),
        ] {
            let shares = VmMount::parse(&format!("{text},/d")).unwrap();
            let first = (shares[0].source.to_str().unwrap(), shares[0].target.to_str().unwrap());
            assert_eq!((first, shares.len()), ((source, target), 2), "{text}");
            assert_eq!(VmMount::parse(&VmMount::text(&shares)), Ok(shares), "{text}");
        }
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
