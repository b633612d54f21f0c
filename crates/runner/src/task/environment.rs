//! The environment of a command: the task's own, without variables that mean something else in a guest.
//!
//! The rule for users is in README.md under "Environment".

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::shares::View;
use request::EnvEntry;

/// Variables of the plugin and the runner, never shown to the command.
const OWN_PREFIX: &str = "SPANK_VM";

/// Variables that name sockets and directories of a login on the host.
const HOST_ONLY: [&str; 5] =
    ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "SSH_AGENT_PID", "WAYLAND_DISPLAY"];

/// Lists of libraries for the dynamic loader, with the bytes that separate their entries.
const LIBRARIES: [(&str, &[u8]); 3] = [("LD_LIBRARY_PATH", b":;"), ("LD_PRELOAD", b": "), ("LD_AUDIT", b":")];

/// Directories for temporary files: programs rely on each of them.
const TEMPORARY: [&str; 4] = ["TMPDIR", "TMP", "TEMP", "TEMPDIR"];

/// Temporary directories that every system has.
const EVERYWHERE: [&str; 2] = ["/tmp", "/var/tmp"];

/// Where every distribution keeps its programs: the PATH of a host that has them elsewhere must not hide them.
const STANDARD_PATH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

type Variable = (OsString, OsString);

/// The variables for a guest that sees `seen` of the host, of a task that has `env`.
pub fn for_guest(env: &[Variable], wanted: &[EnvEntry], seen: View<'_>) -> Vec<Variable> {
    let names: Vec<&str> = wanted.iter().map(name_of).collect();
    let is_wanted = |name: &OsStr| names.iter().any(|&wanted| name == wanted);
    let kept = env.iter().filter(|(name, _)| !is_wanted(name));
    let mut vars: Vec<Variable> =
        kept.filter_map(|(name, value)| Some((name.clone(), translated(name, value, seen)?))).collect();
    for (number, entry) in wanted.iter().enumerate() {
        // If a variable has two entries, the last counts.
        if names[number + 1..].contains(&names[number]) {
            continue;
        }
        match entry {
            EnvEntry::Set(name, value) => vars.push((name.into(), value.into())),
            EnvEntry::Pass(name) => vars.extend(env.iter().find(|(key, _)| key == name.as_str()).cloned()),
        }
    }
    vars
}

fn name_of(entry: &EnvEntry) -> &str {
    match entry {
        EnvEntry::Set(name, _) | EnvEntry::Pass(name) => name,
    }
}

/// The value that a variable of the host has in the guest, if it is a variable there at all.
fn translated(name: &OsStr, value: &OsStr, seen: View<'_>) -> Option<OsString> {
    // No variable with a rule here has a name that is not UTF-8.
    let Some(name) = name.to_str() else { return Some(value.to_owned()) };
    if name.starts_with(OWN_PREFIX) || HOST_ONLY.contains(&name) {
        return None;
    }
    if let Some((_, separators)) = LIBRARIES.iter().find(|(list, _)| *list == name) {
        return libraries_of_guest(value, separators, seen);
    }
    if TEMPORARY.contains(&name) {
        let is_there = EVERYWHERE.iter().any(|dir| value == *dir) || seen.shows(Path::new(value));
        return Some(if is_there { value.to_owned() } else { "/tmp".into() });
    }
    Some(if name == "PATH" { with_standard_path(value) } else { value.to_owned() })
}

/// Removes files and directories that only the host has: in the guest they are missing, or different.
/// Entries that do not exist on the host are meant for the image; names without a path are searched in
/// the image.
fn libraries_of_guest(value: &OsStr, separators: &[u8], seen: View<'_>) -> Option<OsString> {
    let entries = value.as_bytes().split(|byte| separators.contains(byte));
    let is_of_host_alone = |entry: &&[u8]| {
        let path = Path::new(OsStr::from_bytes(entry));
        path.is_absolute() && path.exists() && !seen.shows(path)
    };
    let (gone, kept): (Vec<&[u8]>, Vec<&[u8]>) = entries.partition(is_of_host_alone);
    if gone.is_empty() {
        return Some(value.to_owned());
    }
    // An empty entry means the working directory, but not if it is the only entry left.
    let is_empty = kept.iter().all(|entry| entry.is_empty());
    (!is_empty).then(|| OsString::from_vec(kept.join(&separators[0])))
}

/// All entries in their order, then the missing standard directories.
fn with_standard_path(value: &OsStr) -> OsString {
    let entries: Vec<&[u8]> = value.as_bytes().split(|&byte| byte == b':').collect();
    let missing = STANDARD_PATH.iter().map(|dir| dir.as_bytes()).filter(|dir| !entries.contains(dir));
    let all: Vec<&[u8]> = entries.iter().copied().chain(missing).collect();
    OsString::from_vec(all.join(&b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use qemu::Share;
    use std::path::PathBuf;

    use request::{VmEnv, VmOption};

    fn guest(env: &[(&str, &str)], wanted: &str, shared: &[&str]) -> Vec<String> {
        let env: Vec<Variable> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let wanted = if wanted.is_empty() { Vec::new() } else { VmEnv::parse(wanted).unwrap() };
        let share = |path: &&str| {
            let path = PathBuf::from(path);
            Share { tag: "s".into(), source: path.clone(), target: path, read_only: false, is_file: false }
        };
        let shares: Vec<Share> = shared.iter().map(share).collect();
        let pairs = for_guest(&env, &wanted, View { shares: &shares, aliases: &[] });
        pairs.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect()
    }

    #[test]
    fn only_what_belongs_to_the_host_is_lost() {
        let env = [
            ("SLURM_JOB_ID", "7"),
            ("SPANK_VM_REQUEST", "secret"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("PYTHONPATH", "/usr/lib"),
        ];
        assert_eq!(guest(&env, "", &[]), ["SLURM_JOB_ID=7", "PYTHONPATH=/usr/lib"]);
    }

    #[test]
    fn a_temporary_directory_is_one_that_the_guest_has() {
        assert_eq!(guest(&[("TMPDIR", "/scratch/7")], "", &[]), ["TMPDIR=/tmp"]);
        assert_eq!(guest(&[("TMPDIR", "/scratch/7")], "", &["/scratch"]), ["TMPDIR=/scratch/7"]);
        assert_eq!(guest(&[("TMP", "/var/tmp")], "", &[]), ["TMP=/var/tmp"]);
    }

    #[test]
    fn the_image_s_programs_are_found_after_those_of_the_user() {
        assert_eq!(guest(&[("PATH", "/opt/x/bin:/bin")], "", &[]), ["PATH=/opt/x/bin:/bin:/usr/local/bin:/usr/bin"]);
        let usual = "/usr/local/bin:/usr/bin:/bin:/usr/games";
        assert_eq!(guest(&[("PATH", usual)], "", &[]), [format!("PATH={usual}")]);
    }

    #[test]
    fn libraries_of_the_host_alone_are_not_loaded() {
        assert_eq!(
            guest(&[("LD_LIBRARY_PATH", "/usr/lib:/none/x:/tmp")], "", &["/tmp"]),
            ["LD_LIBRARY_PATH=/none/x:/tmp"]
        );
        assert_eq!(guest(&[("LD_LIBRARY_PATH", "/usr/lib:")], "", &[]), [""; 0]);
        assert_eq!(guest(&[("LD_PRELOAD", "libm.so.6 /usr/lib")], "", &[]), ["LD_PRELOAD=libm.so.6"]);
        assert_eq!(guest(&[("LD_PRELOAD", "/none/lib.so")], "", &[]), ["LD_PRELOAD=/none/lib.so"]);
    }

    #[test]
    fn what_the_user_asks_for_is_passed_whatever_the_rules_say() {
        let env = [("XDG_RUNTIME_DIR", "/run/user/1"), ("TMPDIR", "/scratch"), ("A", "1")];
        let wanted = "A=0,XDG_RUNTIME_DIR,TMPDIR,A=2,MISSING,EMPTY=";
        assert_eq!(guest(&env, wanted, &[]), ["XDG_RUNTIME_DIR=/run/user/1", "TMPDIR=/scratch", "A=2", "EMPTY="]);
    }
}
