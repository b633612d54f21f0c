//! Host directories in the guest: over FUSE and the courier, or over 9p.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{Pid, syncfs};

use proto::{Transport, files};

use super::courier::Courier;
use super::detached::{self, Detached};
use super::devices::Devices;
use super::error::{AgentError, Doing};
use super::kmsg;

/// `msize`: the most that virtio's 9p transport takes in one request (125 pages); fewer round
/// trips for large files. `cache=mmap`: nothing is cached but mapped pages, so that guest and host see
/// each other's changes as two processes on one host would, and programs can still be mapped.
/// `access=any`: one attachment for everybody. QEMU acts as the user on the host, whoever asks in the
/// guest. So attachments per guest user would cost round trips and add no safety; the modes that the
/// guest's kernel checks are those of the host.
const NINE_P: &str = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap,access=any";

/// For kernels before 3.14, which do not know that way of caching.
const OLD_NINE_P: &str = "trans=virtio,version=9p2000.L,msize=512000,cache=none,access=any";

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
    /// Way of its files.
    pub transport: Transport,
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
#[derive(Debug, Default)]
pub(super) struct Shares {
    mounted: Vec<Mounted>,
    /// Other places of what is on them.
    bound: Vec<PathBuf>,
    /// Where this VM has a port for files, and its kernel has FUSE.
    courier: Option<Courier>,
    /// Mounts without a place, by their share's number: a share then costs a clone no more than putting it there.
    spare: Vec<Option<Detached>>,
}

/// Shares that are mounted before anybody has asked for them: a home, a work directory, one or two of the site.
const SPARE: u16 = 4;

#[derive(Debug)]
struct Mounted {
    path: PathBuf,
    transport: Transport,
}

impl Shares {
    /// For this VM: starts the courier, where there is work for it.
    pub fn find(devices: &Devices) -> Self {
        let start = || {
            let Some(port) = devices.second_port(files::PORT_NAME)? else { return Ok(None) };
            if !Path::new(FUSE).exists() {
                kmsg::note("this kernel has no FUSE");
                return Ok(None);
            }
            Courier::start(port).map(Some)
        };
        let courier = start().unwrap_or_else(|error: AgentError| {
            kmsg::note(&error.to_string());
            None
        });
        Self { courier, ..Self::default() }
    }

    /// The courier's process, which is no part of a task.
    pub fn courier(&self) -> Option<Pid> {
        self.courier.as_ref().map(|courier| courier.pid)
    }

    /// Lets the courier kill every process but itself and PID 1; `false` if it cannot.
    pub fn kill_all_but_courier(&mut self) -> bool {
        self.courier.as_mut().is_some_and(|courier| courier.kill_all().is_ok())
    }

    /// Mounts a share at `path`, a directory that is there.
    pub fn mount(&mut self, share: Share<'_>, path: &Path) -> Result<(), AgentError> {
        match share.transport {
            Transport::Fuse => self.mount_fuse(share, path)?,
            Transport::NineP => mount_nine_p(share, path)?,
        }
        self.mounted.push(Mounted { path: path.to_owned(), transport: share.transport });
        Ok(())
    }

    fn mount_fuse(&mut self, share: Share<'_>, path: &Path) -> Result<(), AgentError> {
        let what = || format!("mount the share {}", path.display());
        let spare = self.spare.get_mut(usize::from(share.number)).and_then(Option::take);
        let Some(courier) = &mut self.courier else {
            return Err(AgentError::Unfit(format!(
                "cannot {}: this kernel has no FUSE (the site may set file_transport = \"9p\")",
                what()
            )));
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
        let source = source(share);
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
        let Some(courier) = &mut self.courier else { return };
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
        let all = self.mounted.iter().map(|mounted| &mounted.path).chain(&self.bound);
        let all = all.filter(|share| path.starts_with(share));
        all.max_by_key(|share| share.components().count()).cloned()
    }

    /// Writes to the host what programs changed through mappings, and waits for what it still has to do.
    ///
    /// # Errors
    /// The first share that could not be written, after all were tried.
    pub fn sync(&mut self) -> Result<(), AgentError> {
        let mut outcome = Ok(());
        // A program's last use of a mapping of FUSE waits until it was written, so there is nothing to look for; and the
        // agent must not look at a share that hangs.
        for Mounted { path, .. } in self.mounted.iter().filter(|mounted| mounted.transport == Transport::NineP) {
            let synced = File::open(path)
                .doing(|| format!("open {}", path.display()))
                .and_then(|root| syncfs(&root).doing(|| format!("write {} back to the host", path.display())));
            outcome = outcome.and(synced);
        }
        outcome.and(self.courier.as_mut().map_or(Ok(()), Courier::drain))
    }

    /// Unmounts all shares, the last mounted first.
    pub fn unmount_all(&mut self) {
        while let Some(path) = self.bound.pop() {
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
        while let Some(Mounted { path, transport }) = self.mounted.pop() {
            // Detached: a process that still has a file open there will die soon, and must not delay the next session.
            let mut flags = MntFlags::MNT_DETACH;
            // What waits for an answer there gets an error, and the courier the end of the mount.
            flags.set(MntFlags::MNT_FORCE, transport == Transport::Fuse);
            let _ = umount2(&path, flags);
        }
        if let Some(courier) = &mut self.courier {
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

fn source(share: Share<'_>) -> String {
    source_of(share.number)
}

fn source_of(number: u16) -> String {
    format!("s{number}")
}

fn flags(share: Share<'_>) -> MsFlags {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, share.read_only);
    flags
}

fn mount_nine_p(share: Share<'_>, path: &Path) -> Result<(), AgentError> {
    let source = source(share);
    // A share of one file cannot be attached as a directory; the kernel answers ENOTDIR.
    let attach = |options: &str| mount(Some(source.as_str()), path, Some("9p"), flags(share), Some(options));
    let attached = match attach(NINE_P) {
        Err(Errno::EINVAL) => attach(OLD_NINE_P),
        // ENODEV: the kernel does not know this file system.
        Err(Errno::ENODEV) => {
            let why = format!("cannot mount the share {}: this kernel has no 9p", path.display());
            return Err(AgentError::Unfit(why));
        }
        other => other,
    };
    attached.doing(|| format!("mount the share {}", path.display()))
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

    #[test]
    fn a_mount_s_device_is_the_last_of_its_name() {
        let mounts = "21 1 0:20 / /home rw,nosuid - fuse s1 rw,user_id=0\n\
                      22 1 0:21 / /sw ro - fuse s10 ro\n\
                      23 1 0:22 / /a\\040s1 rw,nosuid shared:4 - fuse s1 rw\n\
                      24 1 0:23 / /b rw - 9p s1 rw\n";
        assert_eq!(device_of(mounts, "s1"), Some("0:22"));
        assert_eq!(device_of(mounts, "s10"), Some("0:21"));
        assert_eq!(device_of(mounts, "s2"), None);
    }
}
