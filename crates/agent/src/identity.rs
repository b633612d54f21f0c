//! Makes a guest unique, and makes the user known in it. The same for every kind of guest.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::unistd::sethostname;

use super::accounts::{Account, group_lines, missing_hosts_entry, passwd_line};
use super::error::{AgentError, Doing};
use super::sys;
use super::task::Credentials;
use super::traces::Traces;

/// Sets the guest's host name, and makes the name resolve.
pub(super) fn set_hostname(name: &[u8], traces: &mut Traces) -> Result<(), AgentError> {
    sethostname(OsStr::from_bytes(name)).doing(|| "set the host name".to_owned())?;
    let mut line = name.to_vec();
    line.push(b'\n');
    // Only some programs read the file; most ask the kernel.
    let _ = traces.write(Path::new("/etc/hostname"), &line);
    append_missing(traces, "/etc/hosts", |text| missing_hosts_entry(text, name))
}

/// Reseeds the kernel's random generator and takes an id from it: a UUID (version 4, variant 1) as 32
/// hexadecimal digits.
pub(super) fn seed_and_draw(seed: &[u8]) -> Result<String, AgentError> {
    let random = File::open("/dev/urandom").doing(|| "open /dev/urandom".to_owned())?;
    sys::seed_random(&random, seed).doing(|| "seed the random generator".to_owned())?;
    let mut id = [0; 16];
    (&random).read_exact(&mut id).doing(|| "draw an id".to_owned())?;
    (id[6], id[8]) = (id[6] & 0x0f | 0x40, id[8] & 0x3f | 0x80);
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Keeps this process, and so everything a session starts, on the first `count` processors. Taking the others offline
/// would be easier to see, but costs a quarter of a second for each under emulation.
pub(super) fn use_cpus(count: u16) -> Result<(), AgentError> {
    sys::keep_to_first(count).doing(|| format!("keep to {count} processors"))
}

/// Makes the user and the user's groups known as on the host.
pub(super) fn add_user(account: &Account, credentials: &Credentials, traces: &mut Traces) -> Result<(), AgentError> {
    let account = with_a_shell_that_exists(account);
    let (uid, gid) = (credentials.uid, credentials.gid);
    put_first(traces, "/etc/passwd", |text| passwd_line(text, &account, uid).unwrap_or_default())?;
    put_first(traces, "/etc/group", |text| group_lines(text, &account, gid, &credentials.groups))?;
    Ok(())
}

/// Appends lines to `/etc/hosts`.
pub(super) fn add_hosts(lines: &[u8], traces: &mut Traces) -> Result<(), AgentError> {
    append_missing(traces, "/etc/hosts", |text| {
        let begin: &[u8] = match text.last() {
            None => b"127.0.0.1\tlocalhost\n::1\tlocalhost\n",
            Some(b'\n') => b"",
            Some(_) => b"\n",
        };
        Some([begin, lines].concat())
    })
}

/// Gives `/etc/resolv.conf` this content. In many images it is a link to a file of a service that does not run here: then the
/// link is replaced.
pub(super) fn set_resolver(text: &[u8], traces: &mut Traces) -> Result<(), AgentError> {
    let path = Path::new("/etc/resolv.conf");
    if path.is_symlink() {
        let ours = Path::new("/run/spank-vm/resolv.conf");
        let _ = fs::create_dir_all("/run/spank-vm");
        fs::write(ours, text).doing(|| format!("write {}", ours.display()))?;
        return traces.link(path, ours);
    }
    traces.write(path, text).doing(|| format!("write {}", path.display()))
}

/// The shell of the account; if the image lacks it, the shell that every image has.
fn with_a_shell_that_exists(account: &Account) -> Account {
    let shell = OsStr::from_bytes(&account.shell);
    let shell = if Path::new(shell).exists() { account.shell.clone() } else { b"/bin/sh".to_vec() };
    Account { shell, ..account.clone() }
}

/// Puts before all lines of `path` those that `lines` returns.
fn put_first(traces: &mut Traces, path: &str, lines: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<(), AgentError> {
    let text = content(path)?;
    let lines = lines(&text);
    if lines.is_empty() {
        return Ok(());
    }
    traces.prepend(Path::new(path), lines, &text).doing(|| format!("add a line to {path}"))
}

/// Appends to `path` the line that `missing` finds missing.
fn append_missing(
    traces: &mut Traces,
    path: &str,
    missing: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), AgentError> {
    let text = content(path)?;
    let Some(line) = missing(&text) else { return Ok(()) };
    traces.append(Path::new(path), line).doing(|| format!("add a line to {path}"))
}

/// What a file holds; one that does not exist is empty.
fn content(path: &str) -> Result<Vec<u8>, AgentError> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.doing(|| format!("read {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_empty_and_one_that_cannot_be_read_is_no_reason_to_write_over_it() {
        assert_eq!(content("/nonexistent").unwrap(), b"");
        // Its first page is never there.
        assert!(content("/proc/self/mem").is_err());
    }
}
