//! Splits the byte stream of the port into frames.

use super::error::FilesError;
use super::{HEADER_LEN, MAGIC, MAX_PAYLOAD, kind};

/// Bytes of buffer at the start; more only while a longer frame arrives.
const BUFFER: usize = 64 * 1024;

/// What stands before each payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u8,
    /// Number of the share; 0 where there is none.
    pub share: u16,
    /// The slot that belongs to the request, or to the reply that gives it back.
    pub slot: Option<u32>,
    /// Bytes of bulk data in the slot, which follow the payload.
    pub data: u32,
}

/// One frame, borrowed from the decoder's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub header: Header,
    /// The inline payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

impl Header {
    /// The header's bytes before a payload of `len` bytes.
    ///
    /// # Panics
    /// If the payload is longer than [`MAX_PAYLOAD`]. The payload is the caller's own data, never the peer's.
    pub fn encode(&self, len: usize) -> [u8; HEADER_LEN] {
        assert!(len <= MAX_PAYLOAD, "payload of {len} bytes");
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[4..6].copy_from_slice(&self.share.to_le_bytes());
        bytes[6] = self.kind;
        bytes[8..12].copy_from_slice(&self.slot.unwrap_or(u32::MAX).to_le_bytes());
        bytes[12..].copy_from_slice(&self.data.to_le_bytes());
        bytes
    }

    /// The header and the length of its payload, which is not checked yet.
    fn parse(bytes: &[u8; HEADER_LEN]) -> (Self, u32) {
        let [l0, l1, l2, l3, s0, s1, kind, _, n0, n1, n2, n3, d0, d1, d2, d3] = *bytes;
        let slot = u32::from_le_bytes([n0, n1, n2, n3]);
        let header = Self {
            kind,
            share: u16::from_le_bytes([s0, s1]),
            slot: (slot != u32::MAX).then_some(slot),
            data: u32::from_le_bytes([d0, d1, d2, d3]),
        };
        (header, u32::from_le_bytes([l0, l1, l2, l3]))
    }
}

impl Frame<'_> {
    /// Appends the frame's bytes to `out`.
    ///
    /// # Panics
    /// As [`Header::encode`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(HEADER_LEN + self.payload.len());
        out.extend_from_slice(&self.header.encode(self.payload.len()));
        out.extend_from_slice(self.payload);
    }
}

/// Incremental decoder of one direction of the port. The caller reads straight into its buffer.
///
/// It starts out of step: it drops bytes until it finds the header of a HELLO followed by [`MAGIC`]. From then on every
/// byte belongs to a frame.
#[derive(Debug, Default)]
pub struct Decoder {
    buf: Vec<u8>,
    /// Bytes at the front of `buf` that were handed out already.
    used: usize,
    /// Bytes of `buf` that were read.
    filled: usize,
    in_step: bool,
}

impl Decoder {
    /// A decoder that waits for a HELLO.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the caller reads the next bytes of the port to; never empty once [`Decoder::next_frame`] has returned `None`.
    /// The buffer has at most [`HEADER_LEN`] + [`MAX_PAYLOAD`] bytes.
    pub fn space(&mut self) -> &mut [u8] {
        if self.used > 0 {
            self.buf.copy_within(self.used..self.filled, 0);
            self.filled -= self.used;
            self.used = 0;
        }
        let wanted = self.expected().max(BUFFER);
        if self.buf.len() < wanted {
            self.buf.resize(wanted, 0);
        } else if self.filled == 0 && self.buf.len() > BUFFER {
            self.buf.truncate(BUFFER);
            self.buf.shrink_to_fit();
        }
        &mut self.buf[self.filled..]
    }

    /// Takes over `bytes` bytes that were read to [`Decoder::space`].
    pub fn filled(&mut self, bytes: usize) {
        self.filled = (self.filled + bytes).min(self.buf.len());
    }

    /// Whether bytes of an unfinished frame are held back.
    pub fn is_mid_frame(&self) -> bool {
        self.in_step && self.filled > self.used
    }

    /// Gives up on the current stream: searches the bytes it holds, and all that come, for the next HELLO.
    pub fn resynchronise(&mut self) {
        self.in_step = false;
    }

    /// The next whole frame, `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FilesError::TooLong`]; the decoder is out of step after that.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FilesError> {
        if !self.in_step && !self.seek_hello() {
            return Ok(None);
        }
        let rest = &self.buf[self.used..self.filled];
        let Some((header, body)) = rest.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let (header, len) = Header::parse(header);
        if len as usize > MAX_PAYLOAD {
            // Skip one byte, or the same header would be found again.
            self.used += 1;
            self.in_step = false;
            return Err(FilesError::TooLong { kind: header.kind, len });
        }
        let Some(payload) = body.get(..len as usize) else { return Ok(None) };
        self.used += HEADER_LEN + len as usize;
        Ok(Some(Frame { header, payload }))
    }

    /// Bytes of the frame that begins the buffer, as far as they are known.
    fn expected(&self) -> usize {
        match self.buf[..self.filled].split_first_chunk::<HEADER_LEN>() {
            Some((header, _)) if self.in_step => HEADER_LEN + (Header::parse(header).1 as usize).min(MAX_PAYLOAD),
            _ => HEADER_LEN,
        }
    }

    /// Drops bytes up to the next HELLO; keeps a tail that may be the start of one.
    fn seek_hello(&mut self) -> bool {
        let rest = &self.buf[self.used..self.filled];
        let is_hello = |w: &[u8]| matches!(w[6], kind::HELLO | kind::HELLO_REPLY) && w[HEADER_LEN..] == MAGIC;
        // Only payloads of HELLO start with MAGIC, so a header is recognised by its kind and by what follows it.
        if let Some(at) = rest.windows(HEADER_LEN + MAGIC.len()).position(is_hello) {
            self.used += at;
            self.in_step = true;
            return true;
        }
        let keep = rest.len().min(HEADER_LEN + MAGIC.len() - 1);
        self.used = self.filled - keep;
        false
    }
}
