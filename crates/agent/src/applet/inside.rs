//! Work within an installed system that is mounted from a disk.

use std::fs::File;

use nix::unistd::{chdir, chroot, fchdir};

use super::disk::Root;
use super::failure::Failure;

/// Does `work` with the system's root as the root of this process, so that no link of the image leads outside.
pub(super) fn inside<T>(root: &Root, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // The descriptor keeps the initramfs reachable, for unmounting.
    let outside = File::open("/").map_err(|error| format!("cannot open the initramfs: {error}"))?;
    chroot(root.path()).and_then(|()| chdir("/")).map_err(|errno| format!("cannot enter the system: {errno}"))?;
    let done = work();
    fchdir(&outside).and_then(|()| chroot(".")).map_err(|errno| format!("cannot leave the system: {errno}"))?;
    done
}
