//! The container format of Apptainer and Singularity (`.sif`): a header, a table of descriptors, and their data. The
//! root is a partition among them, nearly always a squashfs.

use anyhow::{Context, bail, ensure};

use super::header::number;
use crate::import::layer::Part;

/// Behind a line for the kernel (`#!/usr/bin/env run-singularity`).
const MAGIC: &[u8] = b"SIF_MAGIC\0";
const MAGIC_AT: usize = 32;

/// Where the header says how many descriptors there are room for, and where they begin.
const TOTAL_AT: usize = 88;
const TABLE_AT: usize = 96;

/// Size of a descriptor in bytes, and the places of its fields in it.
const DESCRIPTOR: usize = 585;
const USED_AT: usize = 4;
const OFFSET_AT: usize = 17;
const LENGTH_AT: usize = 25;
const FILE_SYSTEM_AT: usize = 201;
const PURPOSE_AT: usize = 205;

/// What the data of a descriptor is: a partition.
const PARTITION: i32 = 0x4004;
/// What a partition is for: it holds the root.
const ROOT: i32 = 2;
/// What a partition holds: an encrypted squashfs.
const ENCRYPTED: i32 = 5;

/// Most descriptors that are looked at; ordinary files have room for 48.
const DESCRIPTORS_MAX: usize = 1024;

/// Whether a file begins like one.
pub fn is_sif(start: &[u8]) -> bool {
    start.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC))
}

/// The partition with the root.
///
/// # Errors
/// There is none, it is encrypted, or the file is cut off.
pub fn root(file: &Part, start: &[u8]) -> anyhow::Result<Part> {
    let total = usize::try_from(i64::from_le_bytes(number(start, TOTAL_AT)?)).unwrap_or(usize::MAX);
    ensure!(total <= DESCRIPTORS_MAX, "it is damaged: its header counts {total} parts");
    let table = u64::from_le_bytes(number(start, TABLE_AT)?);
    let table = file.range(table, (total * DESCRIPTOR) as u64).context("it is cut off")?;
    let table = table.start(total * DESCRIPTOR)?;
    for descriptor in table.chunks_exact(DESCRIPTOR) {
        let is_root = i32::from_le_bytes(number(descriptor, 0)?) == PARTITION
            && descriptor[USED_AT] != 0
            && i32::from_le_bytes(number(descriptor, PURPOSE_AT)?) == ROOT;
        if !is_root {
            continue;
        }
        if i32::from_le_bytes(number(descriptor, FILE_SYSTEM_AT)?) == ENCRYPTED {
            bail!("its root is encrypted: decrypt it first, with 'apptainer build --sandbox DIR', and import DIR");
        }
        let (offset, length) = (number(descriptor, OFFSET_AT)?, number(descriptor, LENGTH_AT)?);
        return file.range(u64::from_le_bytes(offset), u64::from_le_bytes(length)).context("it is cut off");
    }
    bail!("it holds no root file system")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// A file with one partition of this kind for this purpose, whose content is `data`.
    fn sif(file_system: i32, purpose: i32, data: &[u8]) -> Part {
        let mut bytes = vec![0; 4096];
        bytes[MAGIC_AT..MAGIC_AT + MAGIC.len()].copy_from_slice(MAGIC);
        bytes[TOTAL_AT] = 2;
        bytes[TABLE_AT] = 128;
        let second = &mut bytes[128 + DESCRIPTOR..];
        second[..4].copy_from_slice(&PARTITION.to_le_bytes());
        second[USED_AT] = 1;
        second[OFFSET_AT..][..8].copy_from_slice(&4096_u64.to_le_bytes());
        second[LENGTH_AT..][..8].copy_from_slice(&(data.len() as u64).to_le_bytes());
        second[FILE_SYSTEM_AT..][..4].copy_from_slice(&file_system.to_le_bytes());
        second[PURPOSE_AT..][..4].copy_from_slice(&purpose.to_le_bytes());
        bytes.extend_from_slice(data);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        Part::of_file(file).unwrap()
    }

    fn root_of(file: &Part) -> anyhow::Result<Part> {
        let start = file.start(4096).unwrap();
        assert!(is_sif(&start));
        root(file, &start)
    }

    #[test]
    fn the_root_is_found_among_the_parts() {
        let found = root_of(&sif(1, ROOT, b"hsqs and so on")).unwrap();
        assert_eq!(found.start(100).unwrap(), b"hsqs and so on");
    }

    #[test]
    fn a_file_without_a_readable_root_says_why() {
        let error = |file: &Part| root_of(file).unwrap_err().to_string();
        assert!(error(&sif(ENCRYPTED, ROOT, b"x")).contains("encrypted"));
        assert!(error(&sif(1, 3, b"x")).contains("no root file system"));
        let whole = sif(1, ROOT, b"hsqs and so on");
        let cut = whole.range(0, whole.len - 1).unwrap();
        assert!(error(&cut).contains("cut off"));
    }
}
