//! Reads numbers from headers.

use anyhow::Context;

/// The bytes at that offset.
pub fn number<const N: usize>(start: &[u8], at: usize) -> anyhow::Result<[u8; N]> {
    let bytes = start.get(at..at + N).context("the disk is cut off in its header")?;
    Ok(bytes.try_into()?)
}
