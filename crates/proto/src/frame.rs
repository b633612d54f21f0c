//! Splits a byte stream into frames.

use super::error::ProtoError;
use super::message::kind;
use super::{HEADER_LEN, MAGIC, MAX_PAYLOAD};

/// One frame, borrowed from the decoder's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is; see the `kind` constants of the message module.
    pub kind: u8,
    /// The data stream it belongs to (0 where there is none).
    pub stream: u8,
    /// The task within the VM it belongs to; 0 in a VM of one task, and for what concerns the machine.
    pub task: u16,
    /// The payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Appends the frame's bytes to `out`.
    ///
    /// # Panics
    /// If the payload is longer than [`MAX_PAYLOAD`]. The payload is the caller's own data, never the peer's.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.payload.len() <= MAX_PAYLOAD, "payload of {} bytes", self.payload.len());
        out.reserve(HEADER_LEN + self.payload.len());
        out.push(self.kind);
        out.push(self.stream);
        out.extend_from_slice(&self.task.to_le_bytes());
        out.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(self.payload);
    }
}

/// Incremental decoder of one direction of the channel.
///
/// It starts out of step: it drops bytes until it finds a whole HELLO header followed by [`MAGIC`].
/// From then on every byte belongs to a frame.
#[derive(Debug, Default)]
pub struct Decoder {
    buf: Vec<u8>,
    /// Bytes at the front of `buf` that were already handed out.
    used: usize,
    in_step: bool,
}

impl Decoder {
    /// A decoder that waits for a HELLO.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes that were read from the port.
    ///
    /// The buffer stays below `HEADER_LEN + MAX_PAYLOAD + bytes.len()` as long as the caller
    /// drains [`Decoder::next_frame`] after each push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buf.drain(..self.used);
        self.used = 0;
        self.buf.extend_from_slice(bytes);
    }

    /// Whether bytes of an unfinished frame are held back.
    pub fn is_mid_frame(&self) -> bool {
        self.in_step && self.buf.len() > self.used
    }

    /// Gives up on the current stream: searches the bytes it holds, and all that come, for the next
    /// HELLO.
    pub fn resynchronise(&mut self) {
        self.in_step = false;
    }

    /// The next whole frame, `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`ProtoError::TooLong`]; the decoder is out of step after that.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ProtoError> {
        if !self.in_step && !self.seek_hello() {
            return Ok(None);
        }
        let rest = &self.buf[self.used..];
        let Some((header, body)) = rest.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let [kind, stream, t0, t1, l0, l1, l2, l3] = *header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len as usize > MAX_PAYLOAD {
            // Skip one byte, or the same header would be found again.
            self.used += 1;
            self.in_step = false;
            return Err(ProtoError::TooLong { kind, len });
        }
        let Some(payload) = body.get(..len as usize) else { return Ok(None) };
        self.used += HEADER_LEN + len as usize;
        Ok(Some(Frame { kind, stream, task: u16::from_le_bytes([t0, t1]), payload }))
    }

    /// Drops bytes up to the next HELLO; keeps a tail that may be the start of one.
    fn seek_hello(&mut self) -> bool {
        let rest = &self.buf[self.used..];
        // Only HELLO payloads start with MAGIC, so a header is recognised by its kind and by what follows it.
        let found =
            rest.windows(HEADER_LEN + MAGIC.len()).position(|w| w[0] == kind::HELLO && w[HEADER_LEN..] == MAGIC);
        match found {
            Some(at) => {
                self.used += at;
                self.in_step = true;
                true
            }
            None => {
                let keep = rest.len().min(HEADER_LEN + MAGIC.len() - 1);
                self.used = self.buf.len() - keep;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ToGuest, ToHost};
    use super::*;

    fn hello() -> Vec<u8> {
        let mut out = Vec::new();
        ToGuest::Hello { version: 1, nonce: 7 }.encode(0, &mut out);
        out
    }

    #[test]
    fn stale_bytes_before_hello_are_dropped_whatever_they_are() {
        let mut stream = vec![0xff; 1000];
        stream.extend_from_slice(&MAGIC);
        stream.extend(hello());
        let mut decoder = Decoder::new();
        let mut seen = None;
        for byte in stream {
            decoder.push(&[byte]);
            if let Some(frame) = decoder.next_frame().unwrap() {
                assert!(seen.is_none());
                seen = Some(frame.kind);
            }
        }
        assert_eq!(seen, Some(kind::HELLO));
    }

    #[test]
    fn frames_survive_any_fragmentation() {
        let mut stream = hello();
        ToHost::Warning(b"one").encode(0, &mut stream);
        ToHost::Warning(b"two").encode(3, &mut stream);
        for chunk in 1..stream.len() {
            let mut decoder = Decoder::new();
            let mut payloads = Vec::new();
            for part in stream.chunks(chunk) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    payloads.push((frame.task, frame.payload.to_vec()));
                }
            }
            assert_eq!(payloads.len(), 3, "chunk size {chunk}");
            assert_eq!(payloads[2], (3, b"two".to_vec()));
            assert!(!decoder.is_mid_frame());
        }
    }

    #[test]
    fn an_overlong_frame_is_an_error_before_its_payload_is_stored() {
        let mut decoder = Decoder::new();
        decoder.push(&hello());
        assert!(decoder.next_frame().unwrap().is_some());
        decoder.push(&[9, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(decoder.next_frame(), Err(ProtoError::TooLong { kind: 9, len: 0x7fff_ffff }));
        assert_eq!(decoder.next_frame(), Ok(None));
    }

    #[test]
    fn a_decoder_out_of_step_finds_the_next_hello_in_what_it_already_has() {
        let mut endless = hello();
        endless[7] = 0x7f;
        let mut decoder = Decoder::new();
        decoder.push(&[endless, hello()].concat());
        assert!(decoder.next_frame().is_err());
        assert_eq!(decoder.next_frame().unwrap().map(|frame| frame.kind), Some(kind::HELLO));
        decoder.push(&[vec![0; HEADER_LEN], hello()].concat());
        assert_eq!(decoder.next_frame().unwrap().map(|frame| frame.kind), Some(0));
        decoder.resynchronise();
        assert_eq!(decoder.next_frame().unwrap().map(|frame| frame.kind), Some(kind::HELLO));
    }
}
