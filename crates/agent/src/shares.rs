//! Host directories in the guest: FUSE mounts, whose requests the courier carries to the host.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Pid;

use proto::files;

use super::courier::Courier;
use super::detached::{self, Detached};
use super::devices::Devices;
use super::error::{AgentError, Doing};
use super::kmsg;

/// Where the kernel's FUSE requests are.
const FUSE: &str = "/dev/fuse";

/// `allow_other`: the file server is the user, whoever asks in the guest. There is no `default_permissions`: the host's
/// kernel decides who may do what. The root of a share is a directory.
const FUSE_OPTIONS: &str = "rootmode=40000,user_id=0,group_id=0,allow_other";

/// What the kernel reads ahead of a program that reads a file from begin to end, in KiB: two requests, which the courier takes
/// and the host answers in one go.
const READ_AHEAD_KIB: usize = 2 * (files::MAX_DATA >> 10);

/// A host directory that the task sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share<'a> {
    /// Its number for the host.
    pub number: u16,
    /// Where the task expects it.
    pub path: &'a Path,
    /// The name of the one file that is shared; empty if all of the directory is.
    pub file: &'a Path,
    /// Whether nothing may be written there.
    pub read_only: bool,
}

/// The shares of a session.
#[derive(Debug)]
pub(super) struct Shares {
    mounted: Vec<PathBuf>,
    /// Other places of what is on them.
    bound: Vec<PathBuf>,
    /// Or why this VM can have none.
    courier: Result<Courier, AgentError>,
    /// Mounts without a place, by their share's number: a share then costs a clone no more than putting it there.
    spare: Vec<Option<Detached>>,
}

/// Shares that are mounted before anybody has asked for them: a home, a work directory, one or two of the site.
const SPARE: u16 = 4;

impl Default for Shares {
    fn default() -> Self {
        let courier = Err(AgentError::Unfit("this VM has no port for files".to_owned()));
        Self { mounted: Vec::new(), bound: Vec::new(), courier, spare: Vec::new() }
    }
}

impl Shares {
    /// For this VM: starts the courier, where there is work for it.
    pub fn find(devices: &Devices) -> Self {
        match devices.second_port(files::PORT_NAME) {
            Ok(None) => Self::default(),
            Ok(Some(port)) => Self::over(port, Path::new(FUSE)),
            Err(error) => Self { courier: Err(error), ..Self::default() },
        }
    }

    fn over(port: OwnedFd, fuse: &Path) -> Self {
        // A kit without it is never made.
        let missing = "its kernel has no FUSE: with shares = false in [full] of its entry it runs without directories of the host, \
                       boot = \"kit\" gives it a kernel that has FUSE";
        let courier = match fuse.exists() {
            true => Courier::start(port),
            false => Err(AgentError::Unfit(missing.to_owned())),
        };
        Self { courier, ..Self::default() }
    }

    /// The courier's process, which is no part of a task.
    pub fn courier(&self) -> Option<Pid> {
        self.courier.as_ref().ok().map(|courier| courier.pid)
    }

    /// Lets the courier kill every process but itself and PID 1; `false` if it cannot.
    pub fn kill_all_but_courier(&mut self) -> bool {
        self.courier.as_mut().is_ok_and(|courier| courier.kill_all().is_ok())
    }

    /// Mounts a share at `path`, a directory that is there.
    pub fn mount(&mut self, share: Share<'_>, path: &Path) -> Result<(), AgentError> {
        self.try_mount(share, path)?;
        self.mounted.push(path.to_owned());
        Ok(())
    }

    fn try_mount(&mut self, share: Share<'_>, path: &Path) -> Result<(), AgentError> {
        let what = || format!("mount the share {}", path.display());
        let spare = self.spare.get_mut(usize::from(share.number)).and_then(Option::take);
        let courier = match &mut self.courier {
            Ok(courier) => courier,
            Err(why) => return Err(AgentError::Unfit(format!("cannot {}: {why}", what()))),
        };
        courier.begin();
        if let Some(spare) = spare {
            spare.put(path).doing(what)?;
            if share.read_only {
                let flags = flags(share) | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
                mount(None::<&str>, path, None::<&str>, flags, None::<&str>).doing(what)?;
            }
            return Ok(());
        }
        let fuse = open_fuse().doing(what)?;
        let options = format!("fd={},{FUSE_OPTIONS}", fuse.as_raw_fd());
        let source = source_of(share.number);
        mount(Some(source.as_str()), path, Some("fuse"), flags(share), Some(options.as_str())).doing(what)?;
        if let Err(error) = courier.serve(share.number, &fuse) {
            let _ = umount2(path, MntFlags::MNT_DETACH);
            return Err(error);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if let Some(device) = device_of(&mounts, &source) {
            read_ahead(device);
        }
        Ok(())
    }

    /// Mounts some shares in advance, before this guest is saved. Where that does not work, each is mounted when it is asked
    /// for.
    pub fn prepare(&mut self) {
        let Ok(courier) = &mut self.courier else { return };
        while self.spare.len() < usize::from(SPARE) {
            match prepare_one(courier, self.spare.len() as u16) {
                Ok(spare) => self.spare.push(Some(spare)),
                Err(error) => return kmsg::note(&error.to_string()),
            }
        }
    }

    /// Shows `source`, which is on a share, at `path` too; with what is mounted below it.
    pub fn bind(&mut self, source: &Path, path: &Path) -> Result<(), AgentError> {
        mount(Some(source), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
            .doing(|| format!("show {} at {}", source.display(), path.display()))?;
        self.bound.push(path.to_owned());
        Ok(())
    }

    /// The innermost share in which this place is, if any. The path has no links.
    pub fn holding(&self, path: &Path) -> Option<PathBuf> {
        let all = self.mounted.iter().chain(&self.bound);
        let all = all.filter(|share| path.starts_with(share));
        all.max_by_key(|share| share.components().count()).cloned()
    }

    /// Waits for what the host still has to do: a program's last use of a mapping waits until it was written, so nothing else
    /// is to be done, and the agent must not look at a share that hangs.
    pub fn sync(&mut self) -> Result<(), AgentError> {
        self.courier.as_mut().map_or(Ok(()), Courier::drain)
    }

    /// Unmounts all shares, the last mounted first.
    pub fn unmount_all(&mut self) {
        while let Some(path) = self.bound.pop() {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
        while let Some(path) = self.mounted.pop() {
            // Detached: a process that still has a file open there will die soon, and must not delay the next session. By
            // force: what waits for an answer there gets an error, and the courier the end of the mount.
            let _ = umount2(&path, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE);
        }
        if let Ok(courier) = &mut self.courier {
            courier.end();
        }
    }
}

fn open_fuse() -> std::io::Result<OwnedFd> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(FUSE).map(OwnedFd::from)
}

/// Mounts the share of this number nowhere, with all that does not depend on the session.
fn prepare_one(courier: &mut Courier, number: u16) -> Result<Detached, AgentError> {
    let what = || "mount a share in advance".to_owned();
    let fuse = open_fuse().doing(what)?;
    let source = CString::new(source_of(number)).unwrap_or_default();
    let fd = detached::number(fuse.as_fd());
    let mut options = vec![(c"source", Some(source.as_c_str())), (c"fd", Some(fd.as_c_str()))];
    options.extend([(c"rootmode", Some(c"40000")), (c"user_id", Some(c"0")), (c"group_id", Some(c"0"))]);
    options.push((c"allow_other", None));
    let spare = Detached::make(c"fuse", &options).doing(what)?;
    courier.serve(number, &fuse)?;
    if let Ok(device) = spare.device() {
        read_ahead(&device);
    }
    Ok(spare)
}

fn source_of(number: u16) -> String {
    format!("s{number}")
}

fn flags(share: Share<'_>) -> MsFlags {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, share.read_only);
    flags
}

/// Lets the kernel read ahead further than it does by itself. Without it everything works, slower.
fn read_ahead(device: &str) {
    let _ = fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB.to_string());
}

/// The number of the last FUSE mount of this source.
fn device_of<'a>(mounts: &'a str, source: &str) -> Option<&'a str> {
    let end = format!(" - fuse {source} ");
    mounts.lines().rev().find(|line| line.contains(&end))?.split(' ').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_kernel_without_fuse_is_named_with_what_helps() {
        let (port, _host) = UnixStream::pair().unwrap();
        let mut shares = Shares::over(port.into(), Path::new("/nonexistent"));
        let share = Share { number: 0, path: Path::new("/home/ada"), file: Path::new(""), read_only: false };
        let error = shares.mount(share, share.path).unwrap_err().to_string();
        assert!(error.starts_with("cannot mount the share /home/ada: its kernel has no FUSE"), "{error}");
        assert!(error.contains("shares = false") && !error.contains('\n'), "{error}");
        assert_eq!((shares.courier(), shares.holding(share.path)), (None, None));
    }

    #[test]
    fn a_mount_s_device_is_the_last_of_its_name() {
        let mounts = "21 1 0:20 / /home rw,nosuid - fuse s1 rw,user_id=0\n\
                      22 1 0:21 / /sw ro - fuse s10 ro\n\
                      23 1 0:22 / /a\\040s1 rw,nosuid shared:4 - fuse s1 rw\n\
                      24 1 0:23 / /b rw - tmpfs s1 rw\n";
        assert_eq!(device_of(mounts, "s1"), Some("0:22"));
        assert_eq!(device_of(mounts, "s10"), Some("0:21"));
        assert_eq!(device_of(mounts, "s2"), None);
    }
}
