//! Digests of sparse files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use image::digest::hex;
use qemu::scratch::data_extents;

/// Bytes hashed at once.
const BLOCK: u64 = 64 * 1024;

/// SHA-256 of the file's length and of its blocks that are not all zeros, each with its number: holes
/// cost nothing, and whether zeros are stored or not makes no difference.
///
/// # Errors
/// When the file cannot be read.
pub fn of_file(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    hash.update(file.metadata()?.len().to_le_bytes());
    let mut buf = vec![0; BLOCK as usize];
    let mut done = 0;
    for extent in data_extents(file)? {
        let mut block = (extent.start / BLOCK).max(done);
        while block * BLOCK < extent.end {
            let n = read_at(file, &mut buf, block * BLOCK)?;
            if buf[..n].iter().any(|&byte| byte != 0) {
                hash.update(block.to_le_bytes());
                hash.update(&buf[..n]);
            }
            block += 1;
        }
        done = block;
    }
    Ok(hex(&hash.finalize()))
}

fn read_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
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

    #[test]
    fn holes_and_zeros_are_the_same_and_a_moved_byte_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let digest = |name: &str, write: &dyn Fn(&File)| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(10 << 20).unwrap();
            write(&file);
            of_file(&File::open(path).unwrap()).unwrap()
        };
        let sparse = digest("sparse", &|file| file.write_all_at(b"x", 5 << 20).unwrap());
        let full = digest("full", &|file| {
            file.write_all_at(&vec![0; 10 << 20], 0).unwrap();
            file.write_all_at(b"x", 5 << 20).unwrap();
        });
        let moved = digest("moved", &|file| file.write_all_at(b"x", 6 << 20).unwrap());
        assert_eq!(sparse, full);
        assert_ne!(sparse, moved);
    }
}
