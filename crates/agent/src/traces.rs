//! What sessions put into the guest's root for their own use, and how it is removed again.
//!
//! When a VM's root is saved, two parties have changed it: the user's command, whose changes must be kept, and the
//! sessions that described the task (an account's line, the host's name, mount points, links). The changes of sessions
//! are noted here as they are made. What the command has changed since then belongs to the command and stays.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::error::{AgentError, Doing};
use super::walk::{self, Found};

/// Mode bits that let everybody pass a directory.
const PASSABLE: u32 = 0o111;

/// Notes of all changes.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// The oldest first.
    made: Vec<Trace>,
    /// Files that are the host's, and are read but not changed.
    of_host: Vec<PathBuf>,
}

#[derive(Debug)]
enum Trace {
    /// These lines were added to a file, which did not exist before if `created`.
    Lines { path: PathBuf, text: Vec<u8>, created: bool },
    /// A file got new content; this is the old content, `None` if there was no file.
    Content { path: PathBuf, before: Option<Vec<u8>>, ours: Vec<u8> },
    /// A directory was made.
    Directory(PathBuf),
    /// A file was made.
    File(PathBuf),
    /// A link was made; what was in its place got another name. If `must_lead`, the command needs what it leads to.
    Link { path: PathBuf, target: PathBuf, aside: Option<PathBuf>, must_lead: bool },
    /// A directory got another mode.
    Mode { path: PathBuf, before: u32, ours: u32 },
}

impl Traces {
    /// Appends lines to a file, which is made with its directories where it is missing.
    pub fn append(&mut self, path: &Path, text: Vec<u8>) -> io::Result<()> {
        if self.of_host.iter().any(|file| file == path) {
            return Ok(());
        }
        self.make_directories(path.parent())?;
        let created = !path.exists();
        OpenOptions::new().append(true).create(true).open(path)?.write_all(&text)?;
        self.made.push(Trace::Lines { path: path.to_owned(), text, created });
        Ok(())
    }

    /// Puts lines before `rest`, which is the file's content; it is made with its directories where it is missing.
    pub fn prepend(&mut self, path: &Path, text: Vec<u8>, rest: &[u8]) -> io::Result<()> {
        if self.of_host.iter().any(|file| file == path) {
            return Ok(());
        }
        self.make_directories(path.parent())?;
        let created = !path.exists();
        // The file only grows, and in one piece: a service that reads it meanwhile finds it whole.
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all_at(&[text.as_slice(), rest].concat(), 0)?;
        self.made.push(Trace::Lines { path: path.to_owned(), text, created });
        Ok(())
    }

    /// From now on, this file is one of the host's: a user may put their own `/etc/passwd` there.
    pub fn leave_alone(&mut self, path: PathBuf) {
        self.of_host.push(path);
    }

    /// Gives a file another content.
    pub fn write(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        let before = fs::read(path).ok();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all_at(content, 0)?;
        // Cutting a file off is much more work for a kernel than writing over it.
        if before.as_ref().is_none_or(|before| before.len() > content.len()) {
            file.set_len(content.len() as u64)?;
        }
        self.made.push(Trace::Content { path: path.to_owned(), before, ours: content.to_vec() });
        Ok(())
    }

    /// Makes a directory with those above it, as far as they are missing.
    pub fn make_directories(&mut self, directory: Option<&Path>) -> io::Result<()> {
        let missing: Vec<&Path> = directory.into_iter().flat_map(Path::ancestors).take_while(|d| !d.exists()).collect();
        for directory in missing.into_iter().rev() {
            fs::create_dir(directory)?;
            self.made.push(Trace::Directory(directory.to_owned()));
        }
        Ok(())
    }

    /// Provides a directory at `path` and returns where it really is: links are followed, also where they lead to
    /// nothing yet, what is missing is made, and everybody may pass what is above it. Nothing is made or changed where
    /// `share_of` knows a share: that would be on the host.
    ///
    /// # Errors
    /// It cannot be made, or it is missing in a share.
    pub fn provide(&mut self, path: &Path, share_of: &dyn Fn(&Path) -> Option<PathBuf>) -> Result<PathBuf, AgentError> {
        walk::walk(path, &mut |directory, found| match found {
            Found::End => Ok(()),
            Found::Missing => {
                refuse_in_share(directory, share_of)?;
                fs::create_dir(directory).doing(|| format!("create the directory {}", directory.display()))?;
                self.made.push(Trace::Directory(directory.to_owned()));
                Ok(())
            }
            Found::Directory(meta) => {
                let before = meta.permissions().mode() & 0o7777;
                let ours = before | PASSABLE;
                if before & 1 == 0 && share_of(directory).is_none() {
                    // If it fails, whoever may not pass will hear it from the kernel.
                    if fs::set_permissions(directory, fs::Permissions::from_mode(ours)).is_ok() {
                        self.made.push(Trace::Mode { path: directory.to_owned(), before, ours });
                    }
                }
                Ok(())
            }
        })
    }

    /// Provides a file at `path`, an empty one if there is none, in the same way.
    ///
    /// # Errors
    /// It cannot be made, is missing in a share, or is a directory.
    pub fn provide_file(
        &mut self,
        path: &Path,
        share_of: &dyn Fn(&Path) -> Option<PathBuf>,
    ) -> Result<PathBuf, AgentError> {
        let mut path = path.to_owned();
        for _ in 0..walk::MOST_LINKS {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(AgentError::Unfit(format!("{} is no place for a file", path.display())));
            };
            let file = self.provide(parent, share_of)?.join(name);
            match file.symlink_metadata() {
                Ok(meta) if meta.is_symlink() => {
                    let target = fs::read_link(&file).doing(|| format!("read the link {}", file.display()))?;
                    path = file.with_file_name(target);
                }
                Ok(meta) if meta.is_dir() => {
                    let path = file.display();
                    return Err(AgentError::Unfit(format!("there is a directory at {path}, and a file should be")));
                }
                Ok(_) => return Ok(file),
                Err(_) => {
                    refuse_in_share(&file, share_of)?;
                    fs::write(&file, "").doing(|| format!("create the file {}", file.display()))?;
                    self.made.push(Trace::File(file.clone()));
                    return Ok(file);
                }
            }
        }
        Err(Errno::ELOOP).doing(|| format!("find the way to {}", path.display()))
    }

    /// Whether a session has made this directory.
    pub fn has_made(&self, path: &Path) -> bool {
        self.made.iter().any(|trace| matches!(trace, Trace::Directory(made) if made == path))
    }

    /// Notes that a file is about to be made, and provides the directory that it needs.
    pub fn expect_file(&mut self, path: &Path, share_of: &dyn Fn(&Path) -> Option<PathBuf>) -> Result<(), AgentError> {
        if let Some(parent) = path.parent() {
            self.provide(parent, share_of)?;
        }
        if path.symlink_metadata().is_err() {
            self.made.push(Trace::File(path.to_owned()));
        }
        Ok(())
    }

    /// Makes a symbolic link that the command needs. A file in its place is renamed; a directory is an error.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        if fs::read_link(path).is_ok_and(|there| there == target) {
            return Ok(());
        }
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let why = "the image has a directory there";
            return Err(AgentError::Unfit(format!("cannot make the link {}: {why}", path.display())));
        }
        self.make_directories(path.parent()).doing(|| format!("make the link {}", path.display()))?;
        self.put_link(path, target, true)
    }

    /// Makes a symbolic link; what is in its place is renamed.
    pub fn put_link(&mut self, path: &Path, target: &Path, must_lead: bool) -> Result<(), AgentError> {
        let what = || format!("make the link {}", path.display());
        let mut aside = None;
        if path.symlink_metadata().is_ok() {
            // ldconfig and file managers ignore a name that starts with a dot.
            let mut name = OsString::from(".");
            name.push(path.file_name().unwrap_or_default());
            name.push(".spank-vm");
            let other = path.with_file_name(name);
            fs::rename(path, &other).doing(what)?;
            aside = Some(other);
        }
        symlink(target, path).doing(what)?;
        self.made.push(Trace::Link { path: path.to_owned(), target: target.to_owned(), aside, must_lead });
        Ok(())
    }

    /// Checks that the targets of the links exist, now that the shares are mounted.
    ///
    /// # Errors
    /// The first link whose target does not exist.
    pub fn check_links(&self) -> Result<(), AgentError> {
        for trace in &self.made {
            // If the target exists but is closed to this process, that is a matter for the command.
            let Trace::Link { path, target, must_lead: true, .. } = trace else { continue };
            if fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                let (path, target) = (path.display(), target.display());
                return Err(AgentError::Unfit(format!(
                    "its link {path} leads to {target}, which is not there; is it on a share that this VM has?"
                )));
            }
        }
        Ok(())
    }

    /// Undoes every change that is still as it was made, the latest first.
    ///
    /// # Errors
    /// The first change that could not be undone, after all were tried.
    pub fn take_back(&mut self) -> Result<(), AgentError> {
        let mut outcome = Ok(());
        while let Some(trace) = self.made.pop() {
            let undone = trace.undo().or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            });
            outcome = outcome.and(undone.doing(|| format!("restore {}", trace.path().display())));
        }
        outcome
    }
}

impl Trace {
    fn path(&self) -> &Path {
        match self {
            Self::Lines { path, .. } | Self::Content { path, .. } => path,
            Self::Link { path, .. } | Self::Mode { path, .. } => path,
            Self::Directory(path) | Self::File(path) => path,
        }
    }

    fn undo(&self) -> io::Result<()> {
        match self {
            Self::Lines { path, text, created } => {
                // Programs like useradd leave a copy of the file that has the lines too.
                let mut copy = path.clone().into_os_string();
                copy.push("-");
                remove_lines(Path::new(&copy), text, false)?;
                remove_lines(path, text, *created)
            }
            Self::Content { path, before, ours } => {
                if fs::read(path)? != *ours {
                    return Ok(());
                }
                match before {
                    Some(before) => fs::write(path, before),
                    None => fs::remove_file(path),
                }
            }
            Self::Directory(path) => match fs::remove_dir(path) {
                // The command put something there.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                other => other,
            },
            Self::File(path) => fs::remove_file(path),
            Self::Mode { path, before, ours } => {
                if fs::symlink_metadata(path)?.permissions().mode() & 0o7777 != *ours {
                    return Ok(());
                }
                fs::set_permissions(path, fs::Permissions::from_mode(*before))
            }
            Self::Link { path, target, aside, .. } => {
                if fs::read_link(path).is_ok_and(|there| there == *target) {
                    fs::remove_file(path)?;
                    if let Some(aside) = aside {
                        return fs::rename(aside, path);
                    }
                } else if let Some(aside) = aside {
                    // The command has put something of its own there.
                    return fs::remove_file(aside).or_else(|_| fs::remove_dir(aside));
                }
                Ok(())
            }
        }
    }
}

/// # Errors
/// The place is in a share.
fn refuse_in_share(place: &Path, share_of: &dyn Fn(&Path) -> Option<PathBuf>) -> Result<(), AgentError> {
    let Some(share) = share_of(place) else { return Ok(()) };
    let (place, share) = (place.display(), share.display());
    Err(AgentError::Unfit(format!(
        "{place} does not exist in the share {share}, and nothing is made there: make it on the host, or choose another place"
    )))
}

/// Removes each line of `text` from the file once; removes the file if it is then empty and was `created`.
fn remove_lines(path: &Path, text: &[u8], created: bool) -> io::Result<()> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut ours: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').filter(|line| *line != b"\n").collect();
    let mut left = Vec::with_capacity(content.len());
    // The last lines first: they were added at the end.
    for line in content.split_inclusive(|&byte| byte == b'\n').rev() {
        match ours.iter().position(|our| *our == line) {
            Some(at) => drop(ours.remove(at)),
            None => left.push(line),
        }
    }
    left.reverse();
    let left = left.concat();
    if left.len() == content.len() {
        return Ok(());
    }
    if left.is_empty() && created { fs::remove_file(path) } else { fs::write(path, left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with a passwd file and a library.
    fn root() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_owned();
        let at = move |path: &str| base.join(path);
        fs::create_dir(at("etc")).unwrap();
        fs::create_dir(at("lib")).unwrap();
        fs::write(at("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(at("lib/libx.so.1"), "the image's own").unwrap();
        (dir, at)
    }

    /// Every path below `dir` with its content.
    fn listing(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            found.push(format!("{} {:?} {text}", path.display(), fs::read_link(&path).ok()));
            if entry.file_type().unwrap().is_dir() {
                found.extend(listing(&path));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_root_is_as_it_was_before_the_session() {
        let (dir, at) = root();
        let before = listing(dir.path());
        let mut traces = Traces::default();
        let passwd = fs::read(at("etc/passwd")).unwrap();
        traces.prepend(&at("etc/passwd"), b"ada:*:1000:1000::/home/ada:/bin/sh\n".to_vec(), &passwd).unwrap();
        traces.prepend(&at("etc/group"), b"ada:x:1000:\n".to_vec(), b"").unwrap();
        traces.append(&at("etc/hosts"), b"127.0.0.1\tlocalhost\n127.0.1.1\tvm1\n".to_vec()).unwrap();
        traces.write(&at("etc/hostname"), b"vm\n").unwrap();
        traces.write(&at("etc/hostname"), b"vm1-0\n").unwrap();
        traces.make_directories(Some(&at("home/ada/deep"))).unwrap();
        traces.expect_file(&at("var/spool/job1/script"), &|_| None).unwrap();
        fs::write(at("var/spool/job1/script"), "true").unwrap();
        traces.link(&at("lib/libx.so.1"), &at("sw/libx.so.1")).unwrap();
        traces.link(&at("opt/lib/liby.so"), &at("sw/liby.so")).unwrap();
        assert_ne!(listing(dir.path()), before);
        traces.take_back().unwrap();
        assert_eq!(listing(dir.path()), before);
        traces.leave_alone(at("etc/passwd"));
        traces.append(&at("etc/passwd"), b"ada:x:1000:1000::/home/ada:/bin/sh\n".to_vec()).unwrap();
        assert_eq!(listing(dir.path()), before, "a file of the host gets no line");
    }

    #[test]
    fn a_place_that_was_provided_is_taken_back_with_its_way() {
        let (dir, at) = root();
        symlink("data/homes", at("home")).unwrap();
        symlink("../run/resolv.conf", at("etc/resolv.conf")).unwrap();
        fs::create_dir(at("root")).unwrap();
        fs::set_permissions(at("root"), fs::Permissions::from_mode(0o700)).unwrap();
        let mode = || fs::metadata(at("root")).unwrap().permissions().mode() & 0o777;
        let before = listing(dir.path());
        let mut traces = Traces::default();
        let none = |_: &Path| None;
        let real = |path: &str| at(path).canonicalize().unwrap();
        assert_eq!(traces.provide(&at("home/ada"), &none).unwrap(), real("data/homes/ada"));
        assert_eq!(traces.provide_file(&at("etc/resolv.conf"), &none).unwrap(), real("run/resolv.conf"));
        assert_eq!(traces.provide_file(&at("lib/libx.so.1"), &none).unwrap(), real("lib/libx.so.1"));
        traces.provide(&at("root/data"), &none).unwrap();
        assert_eq!(mode(), 0o711, "the user can pass");
        assert!(traces.has_made(&real("root/data")) && !traces.has_made(&real("root")));
        let error = traces.provide_file(&at("lib"), &none).unwrap_err().to_string();
        assert!(error.contains("directory at"), "{error}");
        traces.take_back().unwrap();
        assert_eq!((listing(dir.path()), mode()), (before, 0o700));
    }

    #[test]
    fn nothing_is_made_in_a_share() {
        let (dir, at) = root();
        symlink("../home/ada/else", at("etc/link")).unwrap();
        fs::create_dir_all(at("home/ada/there")).unwrap();
        fs::set_permissions(at("home/ada"), fs::Permissions::from_mode(0o700)).unwrap();
        let before = listing(dir.path());
        let share = at("home/ada").canonicalize().unwrap();
        let share_of = |path: &Path| path.starts_with(&share).then(|| share.clone());
        let mut traces = Traces::default();
        for missing in ["home/ada/new", "home/ada/there/new/er", "etc/link"] {
            let error = traces.provide(&at(missing), &share_of).unwrap_err().to_string();
            assert!(error.contains("does not exist in the share") && error.contains("make it on the host"), "{error}");
        }
        assert!(traces.provide_file(&at("home/ada/file"), &share_of).is_err());
        symlink("loop", at("etc/loop")).unwrap();
        let error = traces.provide_file(&at("etc/loop"), &share_of).unwrap_err().to_string();
        assert!(error.contains("symbolic links"), "{error}");
        fs::remove_file(at("etc/loop")).unwrap();
        assert!(traces.expect_file(&at("home/ada/spool/script"), &share_of).is_err());
        traces.provide(&at("home/ada/there"), &share_of).unwrap();
        assert_eq!(listing(dir.path()), before);
        assert_eq!(fs::metadata(&share).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_the_command_did_stays() {
        let (_dir, at) = root();
        let mut traces = Traces::default();
        traces.append(&at("etc/passwd"), b"ada:x:1000:1000::/home/ada:/bin/sh\n".to_vec()).unwrap();
        traces.write(&at("etc/hostname"), b"vm\n").unwrap();
        traces.make_directories(Some(&at("home/ada"))).unwrap();
        traces.link(&at("lib/libx.so.1"), &at("sw/libx.so.1")).unwrap();
        // As useradd does: with a copy of the old file.
        fs::copy(at("etc/passwd"), at("etc/passwd-")).unwrap();
        let mut passwd = OpenOptions::new().append(true).open(at("etc/passwd")).unwrap();
        passwd.write_all(b"db:x:99:99::/:/bin/sh\n").unwrap();
        fs::write(at("etc/hostname"), "chosen\n").unwrap();
        fs::write(at("home/ada/file"), "").unwrap();
        fs::remove_file(at("lib/libx.so.1")).unwrap();
        fs::write(at("lib/libx.so.1"), "new").unwrap();
        traces.take_back().unwrap();
        let text = |path| fs::read_to_string(at(path)).unwrap();
        assert_eq!(text("etc/passwd"), "root:x:0:0::/root:/bin/sh\ndb:x:99:99::/:/bin/sh\n");
        assert_eq!(text("etc/passwd-"), "root:x:0:0::/root:/bin/sh\n");
        assert_eq!((text("etc/hostname"), text("lib/libx.so.1")), ("chosen\n".to_owned(), "new".to_owned()));
        assert!(at("home/ada/file").exists());
        assert_eq!(fs::read_dir(at("lib")).unwrap().count(), 1, "what was put aside is gone");
    }

    #[test]
    fn a_link_is_made_once_and_must_lead_somewhere() {
        let (_dir, at) = root();
        let mut traces = Traces::default();
        for _ in 0..2 {
            traces.link(&at("lib/libx.so.1"), &at("sw/libx.so.1")).unwrap();
        }
        let error = traces.check_links().unwrap_err().to_string();
        assert!(error.contains("libx.so.1 leads to") && error.contains("share"), "{error}");
        fs::create_dir(at("sw")).unwrap();
        fs::write(at("sw/libx.so.1"), "the site's").unwrap();
        traces.check_links().unwrap();
        assert_eq!(fs::read_to_string(at("lib/libx.so.1")).unwrap(), "the site's");
        let error = traces.link(&at("lib"), &at("sw")).unwrap_err().to_string();
        assert!(error.contains("directory"), "{error}");
    }
}
