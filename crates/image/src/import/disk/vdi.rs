//! The header of VirtualBox's disks.

use anyhow::ensure;

use super::header::number;

const SIGNATURE: u32 = 0xbeda_107f;
const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;

pub fn is_vdi(start: &[u8]) -> bool {
    number(start, 0x40).is_ok_and(|bytes| u32::from_le_bytes(bytes) == SIGNATURE)
}

/// Checks that the disk is in this file of `len` bytes alone, and that it is whole: `qemu-img check` does not check the
/// latter.
pub fn check(start: &[u8], len: u64) -> anyhow::Result<()> {
    let field = |at| number(start, at).map(|bytes| u64::from(u32::from_le_bytes(bytes)));
    let kind = u32::from_le_bytes(number(start, 0x4c)?);
    ensure!(
        matches!(kind, DYNAMIC | FIXED),
        "it holds only what differs from another disk (a snapshot): clone the machine in VirtualBox, with its current state alone"
    );
    let (data, block, allocated) = (field(0x158)?, field(0x178)?, field(0x184)?);
    let least = data.saturating_add(allocated.saturating_sub(1).saturating_mul(block));
    ensure!(allocated == 0 || len > least, "the disk is cut off: it has {len} bytes of more than {least}");
    Ok(())
}
