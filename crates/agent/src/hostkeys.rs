//! SSH host keys of the image: the same in all its VMs unless new ones are made.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kmsg;

const DIRECTORY: &str = "/etc/ssh";
const GENERATOR: &str = "/usr/bin/ssh-keygen";

/// The key files that an image brought.
#[derive(Debug, Default)]
pub(super) struct HostKeys {
    /// Still the keys of the image.
    found: Vec<PathBuf>,
    /// The image's keys after they were replaced: path, content, permission bits.
    replaced: Vec<(PathBuf, Vec<u8>, u32)>,
}

impl HostKeys {
    /// Looks once, when the guest comes up, so that images without keys cost sessions no time.
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
        Self { found: entries.map(|entry| entry.path()).filter(is_key).collect(), replaced: Vec::new() }
    }

    /// Puts the image's own keys back, so that VMs of an image that is saved from this guest make new keys again.
    pub fn take_back(&mut self) -> io::Result<()> {
        let Some(directory) = self.replaced.first().and_then(|(path, ..)| path.parent()) else { return Ok(()) };
        Self::find_in(directory).found.into_iter().try_for_each(fs::remove_file)?;
        for (path, content, mode) in self.replaced.drain(..) {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            (&file).write_all(&content)?;
            self.found.push(path);
        }
        Ok(())
    }

    /// Removes the image's keys and starts making new ones. Nobody waits for that: it takes seconds under
    /// emulation. A server that starts earlier finds no key, instead of a key that others know.
    pub fn renew(&mut self) {
        if self.found.is_empty() {
            return;
        }
        for key in self.found.drain(..) {
            if let (Ok(content), Ok(meta)) = (fs::read(&key), fs::metadata(&key)) {
                self.replaced.push((key.clone(), content, meta.permissions().mode() & 0o7777));
            }
            if let Err(error) = fs::remove_file(&key) {
                kmsg::note(&format!("{}: {error}", key.display()));
            }
        }
        let mut generator = Command::new(GENERATOR);
        generator.arg("-A").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It is reaped like any orphan.
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
        assert_eq!(HostKeys::find_in(dir.path()).found.len(), 2);
        assert_eq!(HostKeys::find_in(Path::new("/nonexistent")).found.len(), 0);
    }

    #[test]
    fn the_keys_of_the_image_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("ssh_host_ed25519_key");
        fs::write(&key, "of the image").unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        let mut keys = HostKeys::find_in(dir.path());
        keys.take_back().unwrap();
        keys.renew();
        fs::write(&key, "of the VM").unwrap();
        fs::write(dir.path().join("ssh_host_rsa_key"), "of the VM").unwrap();
        keys.take_back().unwrap();
        assert_eq!(fs::read_to_string(&key).unwrap(), "of the image");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
