//! Files with holes: the four ways in which GNU tar says where the data is.

use std::io::{self, Read};

use tar::GnuSparseHeader;

use super::error::damaged;

/// Maximum number of data pieces in one file.
const PIECES_MAX: usize = 1 << 18;

/// The pieces of a file that hold data, in order: offset, length, and the bytes of data before.
#[derive(Debug, Default)]
pub struct Map {
    pieces: Vec<(u64, u64, u64)>,
}

impl Map {
    fn push(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let (end, before) = self.pieces.last().map_or((0, 0), |&(offset, len, before)| (offset + len, before + len));
        if offset < end || offset.checked_add(len).is_none() || self.pieces.len() >= PIECES_MAX {
            return Err(wrong());
        }
        self.pieces.push((offset, len, before));
        Ok(())
    }

    /// The pieces from a header of the old format.
    pub fn add_all(&mut self, headers: &[GnuSparseHeader]) -> io::Result<()> {
        headers
            .iter()
            .filter(|header| !header.is_empty())
            .try_for_each(|header| self.push(header.offset()?, header.length()?))
    }

    /// Format 0.0: a record for each offset and length.
    pub fn from_records(records: &[(Vec<u8>, Vec<u8>)]) -> io::Result<Self> {
        let (mut map, mut offset) = (Self::default(), None);
        for (key, value) in records {
            match key.as_slice() {
                b"GNU.sparse.offset" => offset = Some(number(value)?),
                b"GNU.sparse.numbytes" => map.push(offset.take().ok_or_else(wrong)?, number(value)?)?,
                _ => {}
            }
        }
        Ok(map)
    }

    /// Format 0.1: one record with all numbers.
    pub fn from_list(text: &[u8]) -> io::Result<Self> {
        let numbers: Vec<u64> = text.split(|&byte| byte == b',').map(number).collect::<io::Result<_>>()?;
        let mut map = Self::default();
        for pair in numbers.chunks(2) {
            map.push(pair[0], *pair.get(1).ok_or_else(wrong)?)?;
        }
        Ok(map)
    }

    /// Format 1.0: lines before the data.
    pub fn from_content(content: &mut dyn Read) -> io::Result<Self> {
        let mut line = || {
            let mut digits = Vec::new();
            loop {
                let mut byte = [0];
                content.read_exact(&mut byte)?;
                match byte {
                    [b'\n'] => return number(&digits),
                    _ if digits.len() > 20 => return Err(wrong()),
                    [digit] => digits.push(digit),
                }
            }
        };
        let count = line()?;
        let mut map = Self::default();
        for _ in 0..count {
            map.push(line()?, line()?)?;
        }
        Ok(map)
    }

    /// Whether the pieces add up to the stored bytes and lie within the file.
    pub fn check(&self, stored: u64, size: u64) -> io::Result<()> {
        let (end, data) = self.pieces.last().map_or((0, 0), |&(offset, len, before)| (offset + len, before + len));
        if end <= size && data == stored { Ok(()) } else { Err(wrong()) }
    }

    /// Whether there is data at `position` of a file of `size` bytes, and for how many bytes that is so.
    pub fn at(&self, position: u64, size: u64) -> (bool, u64) {
        let next = self.pieces.partition_point(|&(offset, len, _)| offset + len <= position);
        match self.pieces.get(next) {
            Some(&(offset, len, _)) if offset <= position => (true, offset + len - position),
            Some(&(offset, ..)) => (false, offset - position),
            None => (false, size.saturating_sub(position)),
        }
    }

    /// Bytes of data before `position`.
    pub fn stored_before(&self, position: u64) -> u64 {
        let next = self.pieces.partition_point(|&(offset, ..)| offset < position);
        match next.checked_sub(1).and_then(|last| self.pieces.get(last)) {
            Some(&(offset, len, before)) => before + len.min(position - offset),
            None => 0,
        }
    }
}

fn number(digits: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)
}

fn wrong() -> io::Error {
    damaged("has a sparse file with an impossible map".to_owned())
}
