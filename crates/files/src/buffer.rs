//! A buffer that is used again and again: it grows once, and bytes that will be overwritten are not cleared first.

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    /// All bytes that were ever used; those behind `len` are old.
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.grow(data.len()).copy_from_slice(data);
    }

    /// Appends `len` bytes with any content, for the caller to fill.
    pub(crate) fn grow(&mut self, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len += len;
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len, 0);
        }
        &mut self.bytes[start..self.len]
    }

    /// Drops all bytes from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Forgets old bytes too if there are more than `bytes` of them.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        if self.bytes.len() > bytes {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_what_was_pushed_since_it_was_cleared() {
        let mut buffer = Buffer::default();
        buffer.push(b"first");
        buffer.clear();
        assert_eq!(buffer.grow(2).len(), 2);
        buffer.truncate(1);
        buffer.push(b"xy");
        assert_eq!((&buffer.bytes()[1..], buffer.len()), (&b"xy"[..], 3));
        buffer.shrink(4);
        assert_eq!(buffer.len(), 0);
    }
}
