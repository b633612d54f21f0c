//! SSH host keys of the image: the same in all its VMs unless new ones are made.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc::O_NOFOLLOW;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::kmsg;

const DIRECTORY: &str = "/etc/ssh";
const GENERATOR: &str = "/usr/bin/ssh-keygen";

/// The key files that an image brought.
#[derive(Debug, Default)]
pub(super) struct HostKeys {
    /// Still the keys of the image.
    found: Vec<PathBuf>,
    /// The image's keys after they were replaced.
    replaced: Vec<Key>,
    /// The process that makes new ones.
    generator: Option<Pid>,
}

/// A key of the image.
#[derive(Debug)]
struct Key {
    path: PathBuf,
    content: Vec<u8>,
    access: Access,
}

/// Whose a file is and who may read it. Systems of RHEL's kind keep private keys as `root:ssh_keys`, mode 0640, and a
/// program of that group reads them; a generator knows nothing of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Access {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() & 0o7777 })
    }

    fn give(self, file: &File) -> io::Result<()> {
        fchown(file, Some(self.uid), Some(self.gid))?;
        file.set_permissions(Permissions::from_mode(self.mode))
    }
}

impl Key {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok(Self { path: path.to_owned(), content, access: Access::of(&file)? })
    }

    fn write(&self) -> io::Result<()> {
        // Closed to others until it has its owner.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        self.access.give(&file)?;
        file.write_all(&self.content)
    }
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
        Self { found: entries.map(|entry| entry.path()).filter(is_key).collect(), ..Self::default() }
    }

    /// Puts the image's own keys back, so that VMs of an image that is saved from this guest make new keys again.
    pub fn take_back(&mut self) -> io::Result<()> {
        self.generator = None;
        let Some(directory) = self.directory() else { return Ok(()) };
        Self::find_in(directory).found.into_iter().try_for_each(fs::remove_file)?;
        for key in self.replaced.drain(..) {
            key.write()?;
            self.found.push(key.path);
        }
        Ok(())
    }

    /// Removes the image's keys and starts making new ones. Nobody waits for that: it takes seconds under
    /// emulation. A server that starts earlier finds no key, instead of a key that others know.
    pub fn renew(&mut self) {
        if self.found.is_empty() {
            return;
        }
        for path in self.found.drain(..) {
            self.replaced.extend(Key::read(&path));
            if let Err(error) = fs::remove_file(&path) {
                kmsg::note(&format!("{}: {error}", path.display()));
            }
        }
        let mut generator = Command::new(GENERATOR);
        generator.arg("-A").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It is reaped like any orphan.
        match generator.spawn() {
            Ok(child) => self.generator = i32::try_from(child.id()).ok().map(Pid::from_raw),
            Err(error) => kmsg::note(&format!("{GENERATOR}: {error}")),
        }
    }

    /// Children were reaped. If all new keys are made, they get owner, group and mode of the image's own.
    pub fn children_reaped(&mut self) {
        let is_gone = |pid: &mut Pid| kill(*pid, None) == Err(Errno::ESRCH);
        if self.generator.take_if(is_gone).is_none() {
            return;
        }
        let made = self.directory().map(|directory| Self::find_in(directory).found).unwrap_or_default();
        for path in made {
            let Some(access) = self.access_of_image(&path) else { continue };
            let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(&path);
            if let Err(error) = file.and_then(|file| access.give(&file)) {
                kmsg::note(&format!("{}: {error}", path.display()));
            }
        }
    }

    /// Access to this key of the image; the image may have had only others of its kind, private or public.
    fn access_of_image(&self, path: &Path) -> Option<Access> {
        let of_its_kind = |key: &&Key| key.path.extension() == path.extension();
        let same = self.replaced.iter().find(|key| key.path == path);
        same.or_else(|| self.replaced.iter().find(of_its_kind)).map(|key| key.access)
    }

    fn directory(&self) -> Option<&Path> {
        self.replaced.first()?.path.parent()
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
    fn new_keys_get_owner_group_and_mode_of_those_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let is_root = nix::unistd::geteuid().is_root();
        let ours = fs::metadata(dir.path()).unwrap();
        let group = if is_root { 998 } else { ours.gid() };
        let write = |name: &str, mode: u32, gid: u32| {
            let access = Access { uid: ours.uid(), gid, mode };
            Key { path: dir.path().join(name), content: name.into(), access }.write().unwrap();
        };
        write("ssh_host_rsa_key", 0o640, group);
        write("ssh_host_rsa_key.pub", 0o644, ours.gid());
        let mut keys = HostKeys::find_in(dir.path());
        keys.renew();
        assert!(keys.generator.is_some() || !Path::new(GENERATOR).exists());
        // As the generator makes them.
        for name in ["ssh_host_rsa_key", "ssh_host_rsa_key.pub", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"] {
            write(name, 0o600, ours.gid());
        }
        let access = |name: &str| Access::of(&File::open(dir.path().join(name)).unwrap()).unwrap();
        // This process is there.
        keys.generator = Some(Pid::this());
        keys.children_reaped();
        assert_eq!(access("ssh_host_rsa_key").mode, 0o600);
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        keys.generator = Some(Pid::from_raw(i32::try_from(child.id()).unwrap()));
        keys.children_reaped();
        for name in ["ssh_host_rsa_key", "ssh_host_ed25519_key"] {
            assert_eq!(access(name), Access { uid: ours.uid(), gid: group, mode: 0o640 }, "{name}");
            assert_eq!(access(&format!("{name}.pub")), Access { uid: ours.uid(), gid: ours.gid(), mode: 0o644 });
        }
        keys.take_back().unwrap();
        assert_eq!(access("ssh_host_rsa_key"), Access { uid: ours.uid(), gid: group, mode: 0o640 });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
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
