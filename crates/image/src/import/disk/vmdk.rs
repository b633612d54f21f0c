//! The header of VMware's disks that are a single file.

use anyhow::{bail, ensure};

use super::super::layer::Part;
use super::header::number;
use archive::shown;

/// A disk with its data.
pub const MAGIC: &[u8] = b"KDMV";

/// A text that names the files with the data.
pub const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";

/// Where the description is, whatever the header says: QEMU looks nowhere else for a parent.
const DESCRIPTION_AT: u64 = 512;
const DESCRIPTION_LEN: usize = 20 * 512;

/// Whether the disk is in this file alone.
///
/// QEMU finds a word of the description anywhere, also in a comment, and believes the first one. So this looks for words too.
pub fn check(part: &Part, start: &[u8]) -> anyhow::Result<()> {
    let field = |at| number(start, at).map(u64::from_le_bytes);
    let (capacity, description_at) = (field(12)?, field(28)?);
    // Without a description of its own it is one part (extent) of a disk in several files.
    ensure!(
        description_at > 0,
        "it is a part of a disk that is in several files: import the ova, or 'qemu-img convert' it to one qcow2"
    );
    // Then QEMU takes the whole disk from the files that the description names.
    ensure!(capacity > 0, "it has no room of its own, its data is in other files: import the ova instead");
    let Some(description) = part.range(DESCRIPTION_AT, part.len.saturating_sub(DESCRIPTION_AT)) else {
        bail!("the disk is cut off in its header");
    };
    let text = description.start(DESCRIPTION_LEN)?;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    if let Some(parent) = behind(text, b"parentFileNameHint") {
        bail!("it holds only what differs from another disk, {}: consolidate its snapshots first", shown(parent));
    }
    if let Some(kind) = behind(text, b"createType") {
        let one_file = [&b"monolithicSparse"[..], b"streamOptimized"].iter().any(|known| kind.starts_with(known));
        ensure!(one_file, "it is of the kind {}, whose data is in other files: import the ova instead", shown(kind));
    }
    Ok(())
}

/// What stands behind the first such word, up to the end of its line and without the marks around it.
fn behind<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(word.len()).position(|found| found == word)?;
    let line = text[at + word.len()..].split(|&byte| byte == b'\n').next()?.trim_ascii();
    let value = line.strip_prefix(b"=").unwrap_or(line).trim_ascii();
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    Some(value.split(|&byte| byte == b'"').next().unwrap_or(value))
}
