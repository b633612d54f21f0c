//! SSH host keys of the image: the same in each of its VMs, unless they are made anew.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kmsg;

const DIRECTORY: &str = "/etc/ssh";
const GENERATOR: &str = "/usr/bin/ssh-keygen";

/// The key files that an image brought.
#[derive(Debug, Default)]
pub(super) struct HostKeys(Vec<PathBuf>);

impl HostKeys {
    /// Looks once, when the guest comes up: sessions of images without keys pay nothing.
    pub fn find() -> Self {
        Self::find_in(Path::new(DIRECTORY))
    }

    fn find_in(directory: &Path) -> Self {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let is_key = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                name.starts_with("ssh_host_") && (name.ends_with("_key") || name.ends_with("_key.pub"))
            })
        };
        Self(entries.map(|entry| entry.path()).filter(is_key).collect())
    }

    /// Removes the image's keys and has others made. Nobody waits for that: it takes seconds under emulation, and
    /// a server that starts before finds no key instead of one that others know.
    pub fn renew(&mut self) {
        if self.0.is_empty() {
            return;
        }
        for key in self.0.drain(..) {
            if let Err(error) = fs::remove_file(&key) {
                kmsg::note(&format!("{}: {error}", key.display()));
            }
        }
        let mut generator = Command::new(GENERATOR);
        generator.arg("-A").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its end is noticed as any orphan's.
        if let Err(error) = generator.spawn() {
            kmsg::note(&format!("{GENERATOR}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_keys_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "sshd_config", "ssh_host_notes", "moduli"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(HostKeys::find_in(dir.path()).0.len(), 2);
        assert_eq!(HostKeys::find_in(Path::new("/nonexistent")).0.len(), 0);
    }
}
