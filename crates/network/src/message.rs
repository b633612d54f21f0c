//! Netlink messages as bytes: headers, and attributes within attributes.

/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_AND_ACK: u16 = 1 | 4;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

/// One message that grows.
#[derive(Debug, Clone)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// A message of this type that asks for an answer, with the type's own header.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST_AND_ACK | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend_from_slice(header);
        Self(bytes)
    }

    /// The same without asking for an answer.
    pub(crate) fn unanswered(kind: u16, header: &[u8]) -> Self {
        let mut message = Self::new(kind, 0, header);
        message.0[6..8].copy_from_slice(&1_u16.to_ne_bytes());
        message
    }

    /// Appends an attribute.
    #[must_use]
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (4 + value.len()) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.align();
        self
    }

    /// Appends a text with the NUL that ends it.
    #[must_use]
    pub(crate) fn with_text(self, kind: u16, text: &str) -> Self {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that holds those that `fill` appends.
    #[must_use]
    pub(crate) fn with_nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = (filled.0.len() - start) as u16;
        filled.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// The finished message with this number.
    pub(crate) fn finish(mut self, number: u32) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&number.to_ne_bytes());
        self.0
    }
}

/// The first message of `bytes`: its type, its number, what follows its header, and the other messages.
pub(crate) fn first(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let number = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, number, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_know_their_length() {
        let message =
            Message::new(16, CREATE, &[9; 4]).with_nest(18, |inner| inner.with_text(1, "vxlan").with(2, &[7]));
        let bytes = message.finish(5);
        let (kind, number, body, rest) = first(&bytes).unwrap();
        assert_eq!((kind, number, rest.len()), (16, 5, 0));
        let nest = &body[4..];
        assert_eq!(u16::from_ne_bytes([nest[0], nest[1]]) as usize, nest.len());
        // 4 of the nest, 4 + 6 + 2 of the text, 4 + 1 + 3 of the byte.
        assert_eq!(nest.len(), 24);
        assert_eq!(&nest[8..14], b"vxlan\0");
    }

    #[test]
    fn what_is_no_message_is_none() {
        assert!(
            first(&[]).is_none()
                && first(&[255; 20]).is_none()
                && first(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none()
        );
    }
}
