//! The header of VMware's disks that are a single file.

use anyhow::{bail, ensure};

use super::super::layer::Part;
use super::header::number;
use archive::shown;

/// A disk with its data.
pub const MAGIC: &[u8] = b"KDMV";

/// A text that names the files with the data.
pub const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";

const SECTOR: u64 = 512;

/// Longest description within a disk.
const DESCRIPTION_MAX: u64 = 1 << 20;

/// Whether the disk is in this file alone.
pub fn check(part: &Part, start: &[u8]) -> anyhow::Result<()> {
    let field = |at| number(start, at).map(u64::from_le_bytes);
    let (offset, sectors) = (field(28)?, field(36)?);
    let bytes = sectors.saturating_mul(SECTOR).min(DESCRIPTION_MAX);
    // Without a description of its own it is one part (extent) of a disk in several files.
    ensure!(
        offset > 0 && bytes > 0,
        "it is a part of a disk that is in several files: import the ova, or 'qemu-img convert' it to one qcow2"
    );
    let Some(description) = offset.checked_mul(SECTOR).and_then(|at| part.range(at, bytes)) else {
        bail!("the disk is cut off in its header");
    };
    let text = description.start(bytes as usize)?;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.trim_ascii();
        if let Some(parent) = line.strip_prefix(b"parentFileNameHint=") {
            bail!("it holds only what differs from another disk, {}: consolidate its snapshots first", shown(parent));
        }
        if let Some(kind) = line.strip_prefix(b"createType=") {
            let kind = kind.trim_ascii_start().strip_prefix(b"\"").unwrap_or(kind);
            let one_file = [&b"monolithicSparse"[..], b"streamOptimized"].iter().any(|known| kind.starts_with(known));
            ensure!(
                one_file,
                "it is of the kind {}, whose data is in other files: import the ova instead",
                shown(kind)
            );
        }
    }
    Ok(())
}
