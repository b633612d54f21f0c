//! State for sessions that every kind of guest has and uses in the same way.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{Gid, Uid, chown};

use super::clock::Follower;
use super::error::{AgentError, Doing};
use super::memory::Arrival;
use super::oom::OomKills;
use super::shares::{Share, Shares};
use super::sys;
use super::traces::Traces;

/// Where the directories of single files are mounted. Only root may enter.
const HIDDEN: &str = "/run/spank-vm/shares";

/// How long a guest does nothing before it is saved: its kernel's threads, callbacks and timers come to rest. Some ticks of its
/// clock are enough: after a rest of 100 ms clones translate as many blocks.
const CALM: Duration = Duration::from_millis(20);

/// Shares, traces in the root, and the state of memory.
#[derive(Debug, Default)]
pub(super) struct Fixtures {
    pub shares: Shares,
    /// What sessions changed in the root for their own use.
    pub traces: Traces,
    pub oom_kills: OomKills,
    pub clock: Follower,
    /// Set from the template on, until all memory of the clone has arrived.
    arrival: Option<Arrival>,
}

impl Fixtures {
    /// For a guest that gets its shares in this way.
    pub fn with(shares: Shares) -> Self {
        Self { shares, ..Self::default() }
    }

    /// Mounts a share where the task expects it.
    pub fn mount_share(&mut self, share: Share<'_>) -> Result<(), AgentError> {
        let Share { path, file, .. } = share;
        if !path.is_absolute() {
            return Err(AgentError::Unfit(format!("the share {} has no absolute path", path.display())));
        }
        let Self { shares, traces, .. } = self;
        if file.as_os_str().is_empty() {
            let place = traces.provide(path, &|place| shares.holding(place))?;
            return shares.mount(share, &place);
        }
        let hidden = Path::new(HIDDEN).join(share.number.to_string());
        let place = traces.provide(&hidden, &|_| None)?;
        fs::set_permissions(HIDDEN, fs::Permissions::from_mode(0o700)).doing(|| format!("close {HIDDEN}"))?;
        shares.mount(share, &place)?;
        let there = traces.provide_file(path, &|place| shares.holding(place))?;
        shares.bind(&place.join(file), &there)?;
        traces.leave_alone(there);
        Ok(())
    }

    /// Makes `path` another name of the directory `target`, which may be relative to where `path` is. Best as a link;
    /// where the image has something that must stay, and the target is shared, by a second mount.
    pub fn alias(&mut self, path: &Path, target: &Path) -> Result<(), AgentError> {
        let Self { shares, traces, .. } = self;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        // An alias that is hidden by a share is not missed: the share was asked for.
        let Ok(parent) = traces.provide(parent, &|place| shares.holding(place)) else { return Ok(()) };
        let (path, leads_to) = (parent.join(name), parent.join(target));
        if !leads_to.is_dir() || is_same(&path, &leads_to) || shares.holding(&path).is_some() {
            return Ok(());
        }
        if may_be_replaced(&path) {
            return traces.put_link(&path, target, false);
        }
        let leads_to = fs::canonicalize(&leads_to).doing(|| format!("find {}", leads_to.display()))?;
        match shares.holding(&leads_to) {
            Some(_) if path.is_dir() => shares.bind(&leads_to, &path),
            _ => Ok(()),
        }
    }

    /// Makes a home for a user who has none in this image. It ends with the VM.
    pub fn make_home(&mut self, home: &Path, owner: (u32, u32)) -> Result<(), AgentError> {
        let Self { shares, traces, .. } = self;
        let home = match traces.provide(home, &|place| shares.holding(place)) {
            // On the host it is missing too, and nothing is made there.
            Err(_) if shares.holding(home).is_some() => return Ok(()),
            provided => provided?,
        };
        if traces.has_made(&home) {
            let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
            chown(&home, Some(uid), Some(gid)).doing(|| format!("give {} to the user", home.display()))?;
        }
        Ok(())
    }

    /// Prepares the place of a file that the runner sends.
    pub fn expect_file(&mut self, path: &Path) -> Result<(), AgentError> {
        let Self { shares, traces, .. } = self;
        traces.expect_file(path, &|place| shares.holding(place))
    }

    /// This many bytes of memory more than the template had are being plugged.
    pub fn expect_memory(&mut self, bytes: u64) {
        if let Some(arrival) = &mut self.arrival {
            arrival.expect(bytes);
        }
    }

    /// Waits for that memory, but not long.
    pub fn wait_for_memory(&self) {
        if let Some(arrival) = &self.arrival {
            arrival.wait();
        }
    }

    /// Whether more memory may still arrive.
    pub fn awaits_memory(&mut self) -> bool {
        if self.arrival.as_mut().is_some_and(Arrival::is_over) {
            self.arrival = None;
        }
        self.arrival.is_some()
    }

    /// The last steps before the guest is saved as a template.
    pub fn settle(&mut self) {
        sys::keep_heap();
        self.arrival = Arrival::prepare();
        // Loader, C library and shell: almost every command reads these first.
        let _ = Command::new("/bin/sh").args(["-c", ":"]).stdin(Stdio::null()).status();
        know_names();
        self.shares.prepare();
        nix::unistd::sync();
        // The kernel has work left from all this, which each clone would begin with.
        std::thread::sleep(CALM);
    }
}

/// Where programs are.
const PROGRAMS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Most programs of a directory that are looked up before they are asked for.
const NAMES_MOST: usize = 1024;

/// Looks up what most tasks ask for by name, so that a clone need not read an image's directories and unpack them: the
/// places of mount points, the zone, programs. The shell that runs most scripts is read too.
fn know_names() {
    let mut seen = Vec::new();
    for directory in ["/", "/home"].iter().chain(&PROGRAMS) {
        // In most images a directory of programs has two names.
        let identity = fs::metadata(directory).map(|meta| (meta.dev(), meta.ino())).ok();
        if seen.contains(&identity) {
            continue;
        }
        seen.push(identity);
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries.take(NAMES_MOST) {
            // Links are followed: programs often are.
            let _ = fs::metadata(entry.path());
        }
    }
    for name in ["/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo"] {
        let _ = fs::symlink_metadata(name);
    }
    for program in ["/bin/bash", "/usr/bin/env"] {
        let _ = fs::File::open(program).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
    }
    // Last, so that the kernel still has the directories' own blocks: a command is looked for in one after the other.
    for directory in PROGRAMS {
        let _ = fs::symlink_metadata(Path::new(directory).join(".spank-vm"));
    }
}

/// Whether both names lead to the same thing.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Whether a link may take this place: nothing is there, or a link that leads nowhere, or an empty directory that nobody
/// but its owner writes to.
fn may_be_replaced(path: &Path) -> bool {
    match path.symlink_metadata() {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(meta) if meta.is_symlink() => !path.exists(),
        Ok(meta) => {
            let is_mounted =
                path.parent().and_then(|parent| parent.metadata().ok()).is_none_or(|p| p.dev() != meta.dev());
            let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            meta.is_dir() && meta.mode() & 0o022 == 0 && !is_mounted && is_empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_second_name_is_a_link_where_the_image_has_nothing_to_lose() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
        for made in ["lustre/ada", "home", "tmp", "opt/x"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        fs::set_permissions(at("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        let mut fixtures = Fixtures::default();
        for (path, target) in [
            ("scratch", "lustre"),
            ("home", "lustre"),
            ("dangling", "lustre/ada"),
            ("new/deep/name", "../../lustre/ada"),
            ("tmp", "lustre"),
            ("opt", "lustre"),
            ("gone", "no/such"),
        ] {
            fixtures.alias(&at(path), Path::new(target)).unwrap();
            // Again, nothing is left to do.
            fixtures.alias(&at(path), Path::new(target)).unwrap();
        }
        for same in ["scratch/ada", "home/ada", "dangling", "new/deep/name"] {
            assert!(is_same(&at(same), &at("lustre/ada")), "{same}");
        }
        assert_eq!(fs::read_link(at("scratch")).unwrap(), Path::new("lustre"), "as it is written on the host");
        assert!(fs::read_link(at("tmp")).is_err() && at("opt/x").is_dir() && !at("gone").exists());
        fixtures.traces.take_back().unwrap();
        assert_eq!(fs::read_dir(at("home")).unwrap().count(), 0);
        assert_eq!(fs::read_link(at("dangling")).unwrap(), Path::new("nowhere"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5, "lustre home tmp opt dangling");
    }

    #[test]
    fn a_home_of_the_vm_alone_belongs_to_the_user_if_the_image_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut fixtures = Fixtures::default();
        let me = (Uid::current().as_raw(), Gid::current().as_raw());
        fixtures.make_home(&dir.path().join("home/ada"), me).unwrap();
        assert_eq!(dir.path().join("home/ada").metadata().unwrap().uid(), me.0);
    }
}
