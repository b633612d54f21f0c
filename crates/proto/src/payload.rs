//! Writes fields into payloads and reads them again.

use super::{MAGIC, ProtoError};

/// Appends the fields that start every HELLO.
pub(super) fn put_hello(out: &mut Vec<u8>, version: u16, nonce: u64) {
    out.extend_from_slice(&MAGIC);
    out.extend(version.to_le_bytes());
    out.extend(nonce.to_le_bytes());
}

/// Appends bytes as they are.
pub(super) fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) -> &[u8] {
    out.extend(bytes);
    out
}

/// Appends the length of the bytes (two bytes), then the bytes. No path or name of a system has as many as 64 KiB; what a
/// directory service has of such length is cut off.
pub(super) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(len.to_le_bytes());
    out.extend_from_slice(&bytes[..usize::from(len)]);
}

/// Appends a terminal's size.
pub(super) fn put_size(out: &mut Vec<u8>, rows: u16, cols: u16) -> &[u8] {
    out.extend(rows.to_le_bytes());
    out.extend(cols.to_le_bytes());
    out
}

/// Takes fields off the front of a payload.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Reader<'a> {
    pub fn new(payload: &'a [u8], message: &'static str) -> Self {
        Self { rest: payload, message }
    }

    pub fn wrong(&self, why: &'static str) -> ProtoError {
        ProtoError::Malformed { message: self.message, why }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(self.wrong("too short"))?;
        self.rest = rest;
        Ok(*field)
    }

    pub fn u8(&mut self) -> Result<u8, ProtoError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, ProtoError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, ProtoError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, ProtoError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The value that `take` reads, if nothing follows it.
    pub fn only<T>(mut self, take: impl FnOnce(&mut Self) -> Result<T, ProtoError>) -> Result<T, ProtoError> {
        let value = take(&mut self)?;
        self.end()?;
        Ok(value)
    }

    pub fn size(self) -> Result<(u16, u16), ProtoError> {
        self.only(|r| Ok((r.u16()?, r.u16()?)))
    }

    pub fn hello(&mut self) -> Result<(u16, u64), ProtoError> {
        if self.array()? != MAGIC {
            return Err(self.wrong("no magic"));
        }
        Ok((self.u16()?, self.u64()?))
    }

    pub fn counted(&mut self) -> Result<&'a [u8], ProtoError> {
        let len = self.u16()? as usize;
        let (field, rest) = self.rest.split_at_checked(len).ok_or(self.wrong("too short"))?;
        self.rest = rest;
        Ok(field)
    }

    /// What [`put_counted`] wrote, and the rest.
    pub fn pair(mut self) -> Result<(&'a [u8], &'a [u8]), ProtoError> {
        let first = self.counted()?;
        Ok((first, self.rest))
    }

    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub fn end(&self) -> Result<(), ProtoError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.wrong("too long")) }
    }
}
