//! Host directories in the guest, over 9p.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::syncfs;

use super::error::{AgentError, Doing};

/// `msize`: the most that virtio's 9p transport takes in one request (125 pages); fewer round
/// trips for large files. `cache=mmap`: nothing is cached but mapped pages, so that guest and host see
/// each other's changes as two processes on one host would, and programs can still be mapped.
/// `access=any`: one attachment for everybody. QEMU acts as the user on the host, whoever asks in the
/// guest. So attachments per guest user would cost round trips and add no safety; the modes that the
/// guest's kernel checks are those of the host.
const OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap,access=any";

/// For kernels before 3.14, which do not know that way of caching.
const OLD_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=512000,cache=none,access=any";

/// The shares of a session.
#[derive(Debug, Default)]
pub(super) struct Shares {
    mounted: Vec<PathBuf>,
    /// Other places of what is on them.
    bound: Vec<PathBuf>,
}

impl Shares {
    /// Mounts `tag` at `path`, a directory that is there.
    pub fn mount(&mut self, tag: &[u8], path: &Path, read_only: bool) -> Result<(), AgentError> {
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        flags.set(MsFlags::MS_RDONLY, read_only);
        let source = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(tag);
        // A share of one file cannot be attached as a directory; the kernel answers ENOTDIR.
        let attach = |options: &str| mount(Some(source), path, Some("9p"), flags, Some(options));
        let attached = match attach(OPTIONS) {
            Err(Errno::EINVAL) => attach(OLD_OPTIONS),
            // ENODEV: the kernel does not know this file system.
            Err(Errno::ENODEV) => {
                let why = format!("cannot mount the share {}: this kernel has no 9p", path.display());
                return Err(AgentError::Unfit(why));
            }
            other => other,
        };
        attached.doing(|| format!("mount the share {}", path.display()))?;
        self.mounted.push(path.to_owned());
        Ok(())
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
        let all = self.mounted.iter().chain(&self.bound).filter(|share| path.starts_with(share));
        all.max_by_key(|share| share.components().count()).cloned()
    }

    /// Writes to the host the pages that programs changed through mappings.
    ///
    /// # Errors
    /// The first share that could not be written, after all were tried.
    pub fn sync(&self) -> Result<(), AgentError> {
        let mut outcome = Ok(());
        for path in &self.mounted {
            let synced = File::open(path)
                .doing(|| format!("open {}", path.display()))
                .and_then(|root| syncfs(&root).doing(|| format!("write {} back to the host", path.display())));
            outcome = outcome.and(synced);
        }
        outcome
    }

    /// Unmounts all shares, the last mounted first.
    pub fn unmount_all(&mut self) {
        while let Some(path) = self.bound.pop().or_else(|| self.mounted.pop()) {
            // Detached: a process that still has a file open there will die soon, and must not delay the next session.
            let _ = umount2(&path, MntFlags::MNT_DETACH);
        }
    }
}
