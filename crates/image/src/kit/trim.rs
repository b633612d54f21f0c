//! Makes a kernel's file hold only what a guest's memory does not have anyway.
//!
//! The last part of a kernel's memory is full of zeros. Linux writes them into its file if anything comes behind them, and then
//! QEMU copies 20 MB of nothing into each guest that boots, and a template keeps them.

use std::ops::Range;

/// Where things are in an ELF file of 64 bits, little-endian.
const PROGRAM_HEADERS: usize = 0x20;
const SECTION_HEADERS: Range<usize> = 0x28..0x30;
const COUNTS: Range<usize> = 0x36..0x40;
const OFFSET: usize = 0x08;
const FILE_BYTES: usize = 0x20;
const LOADED: u32 = 1;

/// The same kernel without the zeros at the ends of its parts, and without what belongs to no part. A loader fills up with
/// zeros what a part's file does not have. A file that is built in another way is returned as it is.
pub(super) fn trim(kernel: Vec<u8>) -> Vec<u8> {
    match trimmed(&kernel) {
        Some(smaller) => smaller,
        None => kernel,
    }
}

fn trimmed(kernel: &[u8]) -> Option<Vec<u8>> {
    // 64 bits, little-endian.
    (kernel.get(..6)? == b"\x7fELF\x02\x01").then_some(())?;
    let headers = number(kernel, PROGRAM_HEADERS)?;
    let [size, count] = [0x36, 0x38].map(|at| kernel.get(at..at + 2).map(|two| u16::from_le_bytes([two[0], two[1]])));
    let mut new = kernel.to_vec();
    let mut end = 0;
    for index in 0..usize::from(count?) {
        let at = headers.checked_add(index * usize::from(size?))?;
        let kind = u32::from_le_bytes(kernel.get(at..at + 4)?.try_into().ok()?);
        let (offset, bytes) = (number(kernel, at + OFFSET)?, number(kernel, at + FILE_BYTES)?);
        let part = kernel.get(offset..offset.checked_add(bytes)?)?;
        let mut kept = part.len();
        if kind == LOADED {
            kept = part.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            new.get_mut(at + FILE_BYTES..at + FILE_BYTES + 8)?.copy_from_slice(&(kept as u64).to_le_bytes());
        }
        end = end.max(offset + kept).max(at + usize::from(size?));
    }
    // No table of sections is left: number and place are 0.
    new.get_mut(SECTION_HEADERS)?.fill(0);
    new.get_mut(COUNTS)?.get_mut(6..)?.fill(0);
    new.truncate(end);
    Some(new)
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let eight = bytes.get(at..at.checked_add(8)?)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(eight)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a loaded part (`text` at 0x100, so many bytes in the file, 0x1000 in memory), a note within it, and a table
    /// of sections at its end.
    fn kernel(text: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 0x100];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[0x20..0x28].copy_from_slice(&0x40_u64.to_le_bytes());
        file[0x28..0x30].copy_from_slice(&(0x100 + text.len() as u64).to_le_bytes());
        for (at, value) in [(0x36, 0x38_u16), (0x38, 2), (0x3a, 0x40), (0x3c, 1), (0x3e, 1)] {
            file[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        for (at, kind, bytes) in [(0x40, 1_u32, text.len()), (0x78, 4, 2)] {
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            file[at + 0x08..at + 0x10].copy_from_slice(&0x100_u64.to_le_bytes());
            file[at + 0x20..at + 0x28].copy_from_slice(&(bytes as u64).to_le_bytes());
            file[at + 0x28..at + 0x30].copy_from_slice(&0x1000_u64.to_le_bytes());
        }
        file.extend(text);
        file.extend([7; 64]);
        file
    }

    #[test]
    fn zeros_at_the_end_of_a_part_and_sections_go_and_its_memory_stays() {
        let whole = kernel(b"text\0\0more\0\0\0\0\0");
        let small = trim(whole.clone());
        assert_eq!(small[0x100..], *b"text\0\0more");
        assert_eq!(number(&small, 0x40 + FILE_BYTES), Some(10));
        assert_eq!(number(&small, 0x40 + 0x28), Some(0x1000));
        assert_eq!(number(&small, 0x28), Some(0));
        assert_eq!(small[0x3c..0x40], [0; 4]);
        assert_eq!(small[0x36..0x3a], whole[0x36..0x3a]);
        assert_eq!(number(&small, 0x78 + FILE_BYTES), Some(2), "a note is as it was");
        assert_eq!(trim(small.clone()), small);
    }

    #[test]
    fn what_is_built_otherwise_is_left_as_it_is() {
        let mut short = kernel(b"text");
        short[0x60..0x68].copy_from_slice(&u64::MAX.to_le_bytes());
        for other in [b"\x7fELF\x01\x01".to_vec(), b"MZ".to_vec(), kernel(b"text")[..0x50].to_vec(), short] {
            assert_eq!(trim(other.clone()), other);
        }
    }
}
