//! Checksums of sparse files, by which damage is found. Nobody but root or its user can write to a template, so they need not
//! resist a forger. So they are fast: a digest that does took longer than loading a clone, while every VM waits for the
//! template.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use qemu::scratch::data_extents;

/// Bytes that are summed at once.
pub(super) const BLOCK: u64 = 64 * 1024;

/// Numbers that are summed side by side, so that the processor need not wait for one.
const LANES: usize = 4;

/// An odd number with as many ones as zeros, well mixed.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A checksum of the file's length and of its blocks that are not all zeros, each with its number: holes cost nothing, and
/// whether zeros are stored or not makes no difference. As 32 hexadecimal digits.
///
/// # Errors
/// When the file cannot be read.
pub fn of_file(file: &File) -> io::Result<String> {
    let mut sum = Sum::of_length(file.metadata()?.len());
    let mut buf = vec![0; BLOCK as usize];
    for number in blocks(&data_extents(file)?) {
        let n = read_at(file, &mut buf, number * BLOCK)?;
        sum.add_block(number, &buf[..n]);
    }
    Ok(sum.text())
}

/// The numbers of the blocks that these extents touch, each once. They are in the order of their beginnings.
pub(super) fn blocks(extents: &[Range<u64>]) -> impl Iterator<Item = u64> {
    let mut done = 0;
    extents.iter().flat_map(move |extent| {
        let first = (extent.start / BLOCK).max(done);
        done = extent.end.div_ceil(BLOCK).max(done);
        first..done
    })
}

/// A checksum that grows.
#[derive(Debug, Default)]
pub(super) struct Sum([u64; LANES]);

impl Sum {
    /// That of a file of so many bytes, before its first block.
    pub(super) fn of_length(bytes: u64) -> Self {
        let mut sum = Self([1, 2, 3, 4]);
        sum.add(&bytes.to_le_bytes());
        sum
    }

    /// The next block that may hold data.
    pub(super) fn add_block(&mut self, number: u64, bytes: &[u8]) {
        if bytes.iter().any(|&byte| byte != 0) {
            self.add(&number.to_le_bytes());
            self.add(bytes);
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8 * LANES);
        for chunk in &mut chunks {
            self.mix(chunk);
        }
        let rest = chunks.remainder();
        let mut last = [0; 8 * LANES];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(&last);
        // The length, without which zeros at the end would not count.
        self.0[0] = step(self.0[0], bytes.len() as u64);
    }

    fn mix(&mut self, chunk: &[u8]) {
        for (lane, word) in self.0.iter_mut().zip(chunk.chunks_exact(8)) {
            *lane = step(*lane, word.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)));
        }
    }

    /// As 32 hexadecimal digits.
    pub(super) fn text(&self) -> String {
        let [a, b, c, d] = self.0;
        format!("{:016x}{:016x}", step(step(a, b), c), step(step(d, c), b))
    }
}

/// Each step can be undone, so two files that differ in one word never have the same sum.
fn step(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(FACTOR).rotate_left(29)
}

/// Reads until the buffer is full, or the file ends.
pub(super) fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(write: impl Fn(&File)) -> String {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        write(&file);
        of_file(&file).unwrap()
    }

    #[test]
    fn holes_and_zeros_are_the_same_and_a_moved_byte_is_not() {
        let sparse = of(|file| file.write_all_at(b"x", 5 << 20).unwrap());
        let full = of(|file| {
            file.write_all_at(&vec![0; 10 << 20], 0).unwrap();
            file.write_all_at(b"x", 5 << 20).unwrap();
        });
        let moved = of(|file| file.write_all_at(b"x", 6 << 20).unwrap());
        assert_eq!(sparse, full);
        assert_ne!(sparse, moved);
    }

    #[test]
    fn any_bit_of_a_block_counts_and_so_does_the_length() {
        let block: Vec<u8> = (0..BLOCK as u32).map(|number| (number * 7 % 251) as u8).collect();
        let whole = of(|file| file.write_all_at(&block, 1 << 20).unwrap());
        for (byte, bit) in [(0, 0), (7, 7), (8, 3), (31, 1), (32, 5), (65535, 7)] {
            let mut damaged = block.clone();
            damaged[byte] ^= 1 << bit;
            assert_ne!(of(|file| file.write_all_at(&damaged, 1 << 20).unwrap()), whole, "{byte} {bit}");
        }
        let longer = of(|file| {
            file.write_all_at(&block, 1 << 20).unwrap();
            file.set_len((10 << 20) + 1).unwrap();
        });
        assert_ne!(longer, whole);
    }
}
