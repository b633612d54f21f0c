//! The header of VirtualBox's disks.

use anyhow::ensure;

use super::number;

const SIGNATURE: u32 = 0xbeda_107f;
const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;

pub fn is_vdi(start: &[u8]) -> bool {
    number(start, 0x40).is_ok_and(|bytes| u32::from_le_bytes(bytes) == SIGNATURE)
}

/// Whether the disk is in this file alone.
pub fn check(start: &[u8]) -> anyhow::Result<()> {
    let kind = u32::from_le_bytes(number(start, 0x4c)?);
    ensure!(
        matches!(kind, DYNAMIC | FIXED),
        "it holds only what differs from another disk (a snapshot): clone the machine in VirtualBox, with its current state alone"
    );
    Ok(())
}
