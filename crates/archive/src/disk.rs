//! A disk as a stream: only the parts of it that hold something.
//!
//! ```text
//! "svmdisk1" SIZE (OFFSET LENGTH bytes)… END 0        numbers are little-endian: 8, 8 and 4 bytes
//! ```

use std::io::{self, ErrorKind, Read, Write};

const MAGIC: [u8; 8] = *b"svmdisk1";

/// Longest piece; pieces that are all zero are left out.
const PIECE: usize = 64 * 1024;

/// The offset that ends a stream.
const END: u64 = u64::MAX;

/// Writes the `size` bytes that `disk` holds.
///
/// # Errors
/// When the disk ends before that, cannot be read, or the stream cannot be written.
pub fn write_disk(disk: &mut dyn Read, size: u64, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&MAGIC)?;
    out.write_all(&size.to_le_bytes())?;
    let (mut piece, zeros) = (vec![0; PIECE], vec![0; PIECE]);
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(size - offset).unwrap_or(PIECE).min(PIECE);
        let piece = &mut piece[..length];
        disk.read_exact(piece)?;
        // The C library compares whole words: an emulated guest would take minutes for the bytes of a disk.
        if piece != &zeros[..length] {
            head(out, offset, length)?;
            out.write_all(piece)?;
        }
        offset += length as u64;
    }
    head(out, END, 0)?;
    out.flush()
}

fn head(out: &mut dyn Write, offset: u64, length: usize) -> io::Result<()> {
    out.write_all(&offset.to_le_bytes())?;
    out.write_all(&(length as u32).to_le_bytes())
}

/// Reads a stream whose disk has at most `most` bytes, and calls `put` with each piece and its offset. Returns the disk's
/// size. Whoever wrote the stream is not trusted: nothing lies outside of the disk.
///
/// # Errors
/// When the stream is damaged, ends too early, or the disk is too large; the errors of `put`.
pub fn read_disk(
    stream: &mut dyn Read,
    most: u64,
    mut put: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let damaged = || io::Error::new(ErrorKind::InvalidData, "the stream of the disk is damaged");
    if number::<8>(stream)? != MAGIC {
        return Err(damaged());
    }
    let size = u64::from_le_bytes(number(stream)?);
    if size > most {
        let text = format!("the disk has {} MiB, and {} MiB are the most", size >> 20, most >> 20);
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    let (mut piece, mut done) = (vec![0; PIECE], 0);
    loop {
        let (offset, length) = (u64::from_le_bytes(number(stream)?), u32::from_le_bytes(number(stream)?) as usize);
        if offset == END {
            return Ok(size);
        }
        let is_piece = (1..=PIECE).contains(&length) && offset >= done;
        let end = offset.checked_add(length as u64).filter(|&end| is_piece && end <= size);
        done = end.ok_or_else(damaged)?;
        let piece = &mut piece[..length];
        stream.read_exact(piece)?;
        put(offset, piece)?;
    }
}

fn number<const N: usize>(stream: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(disk: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_disk(&mut &*disk, disk.len() as u64, &mut out).unwrap();
        out
    }

    fn disk(stream: &[u8], most: u64) -> io::Result<Vec<u8>> {
        let mut disk = vec![0; 1 << 20];
        let size = read_disk(&mut &*stream, most, |offset, piece| {
            disk[offset as usize..][..piece.len()].copy_from_slice(piece);
            Ok(())
        })?;
        disk.truncate(size as usize);
        Ok(disk)
    }

    #[test]
    fn a_disk_comes_out_as_it_went_in_and_its_empty_parts_take_no_room() {
        let mut whole = vec![0; 300_001];
        whole[0] = 1;
        whole[200_000] = 2;
        whole[300_000] = 3;
        let sent = stream(&whole);
        assert!(sent.len() < 200_000, "{}", sent.len());
        assert!(disk(&sent, 1 << 20).unwrap() == whole);
        assert_eq!(disk(&stream(&[]), 0).unwrap(), []);
    }

    #[test]
    fn a_forged_stream_never_reaches_outside_of_its_disk() {
        let good = stream(&[7; 1000]);
        assert_eq!(disk(&good, 999).unwrap_err().to_string(), "the disk has 0 MiB, and 0 MiB are the most");
        for cut in 0..good.len() {
            assert!(disk(&good[..cut], 1 << 20).is_err(), "{cut}");
        }
        for (at, byte) in [(0, b'x'), (16, 1), (24, 0xff), (27, 0xff), (23, 0x7f)] {
            let mut forged = good.clone();
            forged[at] = byte;
            assert!(disk(&forged, 1 << 20).is_err(), "{at}");
        }
        // Pieces of nothing could go on for ever.
        let mut endless = good[..16].to_vec();
        endless.extend([0; 12]);
        endless.extend_from_slice(&good[16..]);
        assert!(disk(&endless, 1 << 20).is_err());
        // A piece before the last one.
        let mut back = good[..good.len() - 12].to_vec();
        let again = back[16..].to_vec();
        back.extend(again);
        assert!(disk(&back, 1 << 20).is_err());
    }
}
