//! The private disk of a guest that boots its own system: an empty qcow2 file over the image's disk, without a name.
//!
//! Only the necessary part of the format is written here: a file of four or five clusters, in which nothing is
//! allocated. QEMU gets the disk below on its command line, so the file names no other file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::{QemuError, WantedFor};
use image::unnamed_file;

const MAGIC: [u8; 4] = *b"QFI\xfb";
const VERSION: u32 = 3;
/// Length of a version 3 header without extensions.
const HEADER_LEN: u32 = 104;
/// Offset of the disk's size in a header.
const SIZE_OFFSET: u64 = 24;
/// Clusters of 64 KiB, as qemu-img makes them.
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of the disk that one entry of the first table covers: a second table of eight-byte entries, one per cluster.
const PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// The largest disk of a file with such clusters that QEMU opens: its first table has at most 32 MiB.
const SIZE_MOST: u64 = (32 << 20) / 8 * PER_L1_ENTRY;
/// Reference counts have 2^4 bits.
const REFCOUNT_ORDER: u32 = 4;

/// Makes an overlay for a disk of `disk_bytes`, without a name in `dir`.
///
/// # Errors
/// When `dir` cannot be written or is full.
pub fn create(disk_bytes: u64, dir: &Path) -> Result<File, QemuError> {
    unnamed_file(dir)
        .and_then(|file| write_empty(&file, disk_bytes).map(|()| file))
        .wanted_for(|| format!("no private disk can be made in {} ('scratch_dir')", dir.display()))
}

/// Header, table of reference counts, one block of them, first table: in this order, each of one cluster except the
/// last.
fn write_empty(file: &File, disk_bytes: u64) -> io::Result<()> {
    let size = disk_bytes.next_multiple_of(512);
    let l1_entries = size.div_ceil(PER_L1_ENTRY).max(1);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let clusters = 3 + l1_clusters;

    let mut header = Vec::with_capacity(HEADER_LEN as usize);
    header.extend(MAGIC);
    header.extend(VERSION.to_be_bytes());
    // No name of a file below: offset and length.
    header.extend([0; 8 + 4]);
    header.extend(CLUSTER_BITS.to_be_bytes());
    header.extend(size.to_be_bytes());
    // Not encrypted.
    header.extend([0; 4]);
    header.extend((l1_entries as u32).to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes());
    header.extend(CLUSTER.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    // No snapshots; no incompatible, compatible or autoclear features.
    header.extend([0; 4 + 8 + 3 * 8]);
    header.extend(REFCOUNT_ORDER.to_be_bytes());
    header.extend(HEADER_LEN.to_be_bytes());
    debug_assert_eq!(header.len(), HEADER_LEN as usize);

    file.set_len(clusters * CLUSTER)?;
    file.write_all_at(&header, 0)?;
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    let in_use: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    file.write_all_at(&in_use, 2 * CLUSTER)
}

/// Size of the disk that a qcow2 file holds, in bytes.
///
/// # Errors
/// When the file cannot be read, is no qcow2 file, or says something impossible.
pub fn virtual_size(file: &File) -> Result<u64, QemuError> {
    let mut head = [0; SIZE_OFFSET as usize + 8];
    file.read_exact_at(&mut head, 0).wanted_for(|| "it is too short for a qcow2 file".to_owned())?;
    if !head.starts_with(&MAGIC) {
        return Err(QemuError::new("it is no qcow2 file"));
    }
    let mut size = [0; 8];
    size.copy_from_slice(&head[SIZE_OFFSET as usize..]);
    match u64::from_be_bytes(size) {
        size if size > SIZE_MOST => Err(QemuError::new(format!("it says that it holds a disk of {size} bytes"))),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    #[test]
    fn qemu_finds_nothing_wrong_with_an_overlay_of_any_size() {
        for bytes in [512, (1 << 30) + 1, 20 << 40] {
            let dir = tempfile::tempdir().unwrap();
            let file = create(bytes, dir.path()).unwrap();
            assert_eq!(virtual_size(&file).unwrap(), bytes.next_multiple_of(512));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            let checked = Command::new("qemu-img").args(["check", "-f", "qcow2", &path]).output().unwrap();
            assert!(checked.status.success(), "{checked:?}");
            let told = Command::new("qemu-img").args(["info", "-f", "qcow2", "--output=json", &path]).output().unwrap();
            let told = String::from_utf8(told.stdout).unwrap();
            assert!(told.contains(&format!("\"virtual-size\": {}", bytes.next_multiple_of(512))), "{told}");
        }
    }

    #[test]
    fn a_size_that_no_disk_has_is_not_believed() {
        let file = tempfile::tempfile().unwrap();
        write_empty(&file, 1 << 30).unwrap();
        for size in [u64::MAX, 1 << 60] {
            file.write_all_at(&size.to_be_bytes(), SIZE_OFFSET).unwrap();
            let error = virtual_size(&file).unwrap_err().to_string();
            assert!(error.contains(&format!("a disk of {size} bytes")), "{error}");
        }
    }

    #[test]
    fn what_is_no_qcow2_file_has_no_size() {
        let file = tempfile::tempfile().unwrap();
        assert!(virtual_size(&file).is_err());
        file.set_len(4096).unwrap();
        assert_eq!(virtual_size(&file).unwrap_err().to_string(), "it is no qcow2 file");
    }
}
