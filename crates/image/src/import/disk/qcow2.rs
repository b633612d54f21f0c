//! The header of qcow2, versions 2 and 3.

use anyhow::{bail, ensure};

use super::header::number;
use archive::shown;

pub const MAGIC: &[u8] = b"QFI\xfb";

const DIRTY_CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;

/// Whether the disk is in this file alone and can be read without a key.
pub fn check(start: &[u8]) -> anyhow::Result<()> {
    let version = u32::from_be_bytes(number(start, 4)?);
    ensure!(matches!(version, 2 | 3), "qcow of version {version}: convert it with 'qemu-img convert -O qcow2'");
    let backing = u64::from_be_bytes(number(start, 8)?);
    if backing != 0 {
        let len = u32::from_be_bytes(number(start, 16)?) as usize;
        let at = usize::try_from(backing).unwrap_or(usize::MAX);
        let name = start.get(at..at.saturating_add(len.min(1023))).map(shown).unwrap_or_default();
        bail!(
            "it holds only what differs from another disk, '{name}': make one of both with 'qemu-img convert -O qcow2'"
        );
    }
    ensure!(
        u32::from_be_bytes(number(start, 32)?) == 0,
        "it is encrypted: make a copy without with 'qemu-img convert', or import a tar of the running system"
    );
    if version == 3 {
        let features = u64::from_be_bytes(number(start, 72)?);
        ensure!(
            features & EXTERNAL_DATA == 0,
            "its data is in another file: make one of both with 'qemu-img convert -O qcow2'"
        );
        ensure!(features & DIRTY_CORRUPT == 0, "it is marked as damaged: 'qemu-img check -r all' may repair a copy");
    }
    Ok(())
}
