//! Reads from a disk's partition table what an fstab may call its partitions: the kernel does not tell all of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Sector sizes that disks have.
const SECTORS: [u64; 2] = [512, 4096];

/// Most entries of a GPT that are read, and the largest.
const ENTRIES_MAX: u32 = 256;
const ENTRY_MAX: u32 = 4096;

/// Names of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Names {
    /// `PARTUUID`, in lower case.
    pub uuid: Option<String>,
    /// `PARTLABEL`.
    pub label: Option<String>,
}

/// The table of a disk.
#[derive(Debug)]
pub(super) enum Table {
    /// Entries by their numbers, from 1 on.
    Gpt(Vec<Names>),
    /// The disk's signature.
    Mbr(u32),
    None,
}

impl Table {
    /// The table of the disk `device`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(device: &Path) -> io::Result<Self> {
        Self::of(&File::open(device)?)
    }

    fn of(disk: &File) -> io::Result<Self> {
        for sector in SECTORS {
            let mut header = [0; 92];
            if read_at(disk, &mut header, sector)? && header.starts_with(b"EFI PART") {
                return Ok(Self::Gpt(entries(disk, &header, sector)?));
            }
        }
        let mut start = [0; 512];
        if !read_at(disk, &mut start, 0)? || start[510..] != [0x55, 0xaa] {
            return Ok(Self::None);
        }
        Ok(Self::Mbr(u32_at(&start, 440)))
    }

    /// The names of partition `number`.
    pub fn names(&self, number: u32) -> Names {
        match self {
            Self::Gpt(entries) => {
                let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
                index.and_then(|index| entries.get(index)).cloned().unwrap_or_default()
            }
            Self::Mbr(signature) if *signature != 0 => {
                Names { uuid: Some(format!("{signature:08x}-{number:02x}")), label: None }
            }
            Self::Mbr(_) | Self::None => Names::default(),
        }
    }
}

fn entries(disk: &File, header: &[u8], sector: u64) -> io::Result<Vec<Names>> {
    let begin = u64_at(header, 72).saturating_mul(sector);
    let (count, size) = (u32_at(header, 80).min(ENTRIES_MAX), u32_at(header, 84));
    if !(128..=ENTRY_MAX).contains(&size) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut entry = vec![0; size as usize];
    for index in 0..count {
        let at = begin.saturating_add(u64::from(index) * u64::from(size));
        if !read_at(disk, &mut entry, at)? {
            break;
        }
        found.push(names(&entry));
    }
    Ok(found)
}

fn names(entry: &[u8]) -> Names {
    let units = entry[56..128].chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let label = String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>());
    Names { uuid: Some(guid(&entry[16..32])), label: Some(label).filter(|label| !label.is_empty()) }
}

/// The first three fields of a GUID are little-endian numbers, the others are plain bytes.
fn guid(bytes: &[u8]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (place, index) in ORDER.into_iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes[index]));
    }
    text
}

/// `false`: the disk ends before.
fn read_at(disk: &File, buffer: &mut [u8], at: u64) -> io::Result<bool> {
    match disk.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        // A disk whose last sector is cut off, or an offset beyond all disks.
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput) => Ok(false),
        Err(error) => Err(error),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(parts: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 10).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    fn gpt_header(size: u32) -> Vec<u8> {
        let mut header = vec![0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[72] = 2;
        header[80] = 128;
        header[84..88].copy_from_slice(&size.to_le_bytes());
        header
    }

    #[test]
    fn a_gpt_names_its_partitions_by_guid_and_label() {
        let guid: Vec<u8> = (0x10..0x20).collect();
        let label: Vec<u8> = "Röot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for sector in SECTORS {
            let second = 2 * sector + 128;
            let table = Table::of(&disk(&[(sector, &gpt_header(128)), (second + 16, &guid), (second + 56, &label)]));
            let names = table.unwrap().names(2);
            assert_eq!(names.uuid.as_deref(), Some("13121110-1514-1716-1819-1a1b1c1d1e1f"));
            assert_eq!(names.label.as_deref(), Some("Röot"));
        }
    }

    #[test]
    fn an_mbr_names_them_by_its_signature_and_no_table_by_nothing() {
        let mbr = Table::of(&disk(&[(440, &[0x78, 0x56, 0x34, 0x12]), (510, &[0x55, 0xaa])])).unwrap();
        assert_eq!(mbr.names(10).uuid.as_deref(), Some("12345678-0a"));
        assert_eq!(Table::of(&disk(&[])).unwrap().names(1), Names::default());
    }

    #[test]
    fn a_table_that_lies_costs_nothing() {
        for size in [0, 1, u32::MAX] {
            assert_eq!(Table::of(&disk(&[(512, &gpt_header(size))])).unwrap().names(1), Names::default());
        }
        let mut far = gpt_header(128);
        far[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Table::of(&disk(&[(512, &far)])).unwrap().names(0), Names::default());
    }
}
