//! The environment of a command: the task's own, without variables that mean something else in a guest.
//!
//! The rule for users is in docs/environment.md. What each variable is subject to is in `rules.rs`.

mod places;
mod rules;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddrV4;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::pmix_server::PmixServer;
use crate::shares::View;
use request::EnvEntry;
use rules::{APART, LAUNCHERS, Rule, rule_for};

/// Temporary directories that every system has.
const EVERYWHERE: [&str; 2] = ["/tmp", "/var/tmp"];

/// Where every distribution keeps its programs: the PATH of a host that has them elsewhere must not hide them.
const STANDARD_PATH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

type Variable = (OsString, OsString);

/// What a guest has, as far as variables speak of it.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// What it sees of the host.
    pub seen: View<'a>,
    /// Processors that its command may use; they have the numbers from 0.
    pub processors: u32,
    /// Whether its command has a socket to Slurm's PMI server.
    pub has_pmi: bool,
    /// Its way to Slurm's PMIx server.
    pub pmix: Option<Server>,
}

/// Where a command finds Slurm's PMIx server.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    pub address: SocketAddrV4,
    /// Whether all tasks of the node are in one VM, as the server believes they are on one machine.
    pub is_shared: bool,
}

/// The variables for a guest with these surroundings, of a task that has `env` and whose user asked for `wanted`.
pub fn for_guest(env: &[Variable], wanted: &[EnvEntry], there: Surroundings<'_>) -> Vec<Variable> {
    let names: Vec<&str> = wanted.iter().map(name_of).collect();
    let is_wanted = |name: &OsStr| names.iter().any(|&wanted| name == wanted);
    let kept = env.iter().filter(|(name, _)| !is_wanted(name));
    let mut vars: Vec<Variable> =
        kept.filter_map(|(name, value)| Some((name.clone(), translated(name, value, there)?))).collect();
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
    for (name, value) in LAUNCHERS {
        // What the user decided stays, also that there is no such variable.
        if !is_wanted(OsStr::new(name)) && vars.iter().all(|(key, _)| key != name) {
            vars.push((name.into(), value.into()));
        }
    }
    if there.pmix.is_some_and(|server| !server.is_shared) {
        let (name, value) = APART;
        if !is_wanted(OsStr::new(name)) && vars.iter().all(|(key, _)| key != name) {
            vars.push((name.into(), value.into()));
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
fn translated(name: &OsStr, value: &OsStr, there: Surroundings<'_>) -> Option<OsString> {
    // No variable with a rule has a name that is not UTF-8.
    let rule = name.to_str().and_then(rule_for);
    let same = || value.to_owned();
    match rule {
        None => Some(same()),
        Some(Rule::Drop) => None,
        Some(Rule::Pmi) => there.has_pmi.then(same),
        Some(Rule::Pmix) => there.pmix.map(|_| same()),
        Some(Rule::PmixOnly(value)) => there.pmix.map(|_| value.into()),
        Some(Rule::PmixServer) => PmixServer::in_guest(value, there.pmix?.address).map(OsString::from),
        Some(Rule::File) => file_of(value).filter(|file| there.seen.shows(file)).map(|_| same()),
        Some(Rule::Places) => places::fit(value, there.processors).then(same),
        Some(Rule::Libraries(separators)) => libraries_of_guest(value, separators, there.seen),
        Some(Rule::Temporary) => {
            let is_there = EVERYWHERE.iter().any(|dir| value == *dir) || there.seen.shows(Path::new(value));
            Some(if is_there { same() } else { "/tmp".into() })
        }
        Some(Rule::Search) => Some(with_standard_path(value)),
    }
}

/// The file that holds a credential, by the forms that Kerberos knows; other kinds are kept by a kernel or a daemon.
fn file_of(value: &OsStr) -> Option<&Path> {
    let bytes = value.as_bytes();
    let path = [b"FILE:".as_slice(), b"DIR:", b"WRFILE:"].iter().find_map(|kind| bytes.strip_prefix(*kind));
    let path = path.unwrap_or(bytes);
    // DIR::/path names a file inside the collection.
    let path = Path::new(OsStr::from_bytes(path.strip_prefix(b":").unwrap_or(path)));
    path.is_absolute().then_some(path)
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
