//! Frames on their way to the host, in one piece, so that many small ones go in one write.

use proto::files::{Frame, HEADER_LEN, Header};

/// Bytes that wait, beyond which no more requests are taken from the kernel.
const LIMIT: usize = 256 * 1024;

/// The frames.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// Bytes of them that were sent.
    sent: usize,
    /// Where the first frame that was not sent as a whole begins.
    begin: usize,
}

impl Outbox {
    /// Where frames are appended.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends a frame whose payload has two parts.
    pub fn push(&mut self, header: Header, head: &[u8], rest: &[u8]) {
        if rest.is_empty() {
            return Frame { header, payload: head }.encode(&mut self.bytes);
        }
        self.bytes.extend_from_slice(&header.encode(head.len() + rest.len()));
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(rest);
    }

    /// Whether more may be added.
    pub fn has_room(&self) -> bool {
        self.bytes.len() - self.sent < LIMIT
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// What is to be sent.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So many bytes were sent.
    pub fn advance(&mut self, sent: usize) {
        self.sent += sent;
        if self.is_empty() {
            self.bytes.clear();
            (self.sent, self.begin) = (0, 0);
            return;
        }
        while let Some(end) = self.end_of_first().filter(|&end| end <= self.sent) {
            self.begin = end;
        }
        if self.begin > LIMIT {
            self.bytes.drain(..self.begin);
            self.sent -= self.begin;
            self.begin = 0;
        }
    }

    /// Drops what was not begun: a frame of which the host has a part must be completed.
    pub fn clear(&mut self) {
        let keep = if self.sent == self.begin { self.sent } else { self.end_of_first().unwrap_or(self.bytes.len()) };
        self.bytes.truncate(keep);
        self.advance(0);
    }

    /// Where the frame that begins at `begin` ends.
    fn end_of_first(&self) -> Option<usize> {
        let length = self.bytes.get(self.begin..)?.first_chunk::<4>()?;
        Some(self.begin + HEADER_LEN + u32::from_le_bytes(*length) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::files::kind;

    fn push(outbox: &mut Outbox, payload: &[u8]) {
        let header = Header { kind: kind::REQUEST, ..Header::default() };
        let (head, rest) = payload.split_at(payload.len() / 2);
        outbox.push(header, head, rest);
    }

    #[test]
    fn a_frame_that_was_begun_is_completed_and_the_others_are_dropped() {
        for sent in 0..3 * (HEADER_LEN + 10) {
            let mut outbox = Outbox::default();
            (0..3).for_each(|_| push(&mut outbox, &[7; 10]));
            outbox.advance(sent);
            outbox.clear();
            let left = outbox.pending().len();
            assert_eq!((sent + left) % (HEADER_LEN + 10), 0, "{sent}");
            assert!(left < HEADER_LEN + 10, "{sent}");
            outbox.advance(left);
            assert!(outbox.is_empty());
        }
    }

    #[test]
    fn bytes_leave_in_their_order_and_their_memory_does_not_grow() {
        let mut outbox = Outbox::default();
        let (mut all, mut got) = (Vec::new(), Vec::new());
        for step in 0..3000_usize {
            let payload = vec![step as u8; step % 997];
            let header = Header { kind: kind::REQUEST, ..Header::default() };
            Frame { header, payload: &payload }.encode(&mut all);
            push(&mut outbox, &payload);
            let now = outbox.pending().len().min(step % 1500);
            got.extend_from_slice(&outbox.pending()[..now]);
            outbox.advance(now);
            assert!(outbox.begin <= LIMIT && outbox.begin <= outbox.sent);
        }
        got.extend_from_slice(outbox.pending());
        assert!(got == all);
    }
}
