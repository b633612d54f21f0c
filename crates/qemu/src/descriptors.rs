//! Open files by number: QEMU inherits them and gets their numbers in its command line.

use std::os::fd::RawFd;

/// Number of the descriptor set that holds the private disk.
pub const SCRATCH_SET: u32 = 1;
/// Number of the descriptor set that holds a template's device state.
pub const STATE_SET: u32 = 2;
/// Number of the descriptor set that holds the image's disk.
pub const DISK_SET: u32 = 3;

/// First of the descriptor sets of a helper's disks.
pub const FIRST_DISK_SET: u32 = 10;

/// The open disks of a VM with an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageFds {
    /// The image's, which is only read.
    pub image: RawFd,
    /// The VM's private one.
    pub scratch: RawFd,
}
