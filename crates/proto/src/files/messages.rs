//! Payloads of the frames that are not FUSE's own.

use super::error::FilesError;
use super::{Frame, Header, MAGIC, MAX_DATA, MAX_SLOTS, PAGE, PROBED, VERSION, kind};

/// A session begins, or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The sender's [`VERSION`].
    pub version: u16,
    /// Number of the session, drawn by the guest. No secret.
    pub nonce: u64,
}

impl Hello {
    /// A HELLO of this version.
    pub fn new(nonce: u64) -> Self {
        Self { version: VERSION, nonce }
    }

    /// Appends a frame of the kind HELLO (from the guest) or HELLO_REPLY (from the host).
    pub fn encode(&self, kind: u8, out: &mut Vec<u8>) {
        let mut payload = MAGIC.to_vec();
        payload.extend_from_slice(&self.version.to_le_bytes());
        payload.extend_from_slice(&self.nonce.to_le_bytes());
        Frame { header: Header { kind, ..Header::default() }, payload: &payload }.encode(out);
    }

    /// Reads the payload of either kind. Bytes after what is known are ignored.
    ///
    /// # Errors
    /// [`FilesError::Malformed`].
    pub fn parse(payload: &[u8]) -> Result<Self, FilesError> {
        let wrong = FilesError::Malformed("HELLO");
        let rest = payload.strip_prefix(&MAGIC).ok_or(wrong)?;
        let [v0, v1, n0, n1, n2, n3, n4, n5, n6, n7] = *rest.first_chunk::<10>().ok_or(wrong)?;
        let nonce = u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        Ok(Self { version: u16::from_le_bytes([v0, v1]), nonce })
    }
}

/// Pages of the guest's memory for bulk data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// Bytes of each slot: whole pages, at most [`MAX_DATA`].
    pub size: u32,
    /// Guest-physical addresses of the pages of all slots, in their order.
    pub pages: Vec<u64>,
}

impl Slots {
    /// How many slots there are.
    pub fn count(&self) -> usize {
        self.pages.len() / (self.size as usize / PAGE).max(1)
    }

    /// Appends a frame.
    ///
    /// # Panics
    /// If there are more or larger slots than allowed.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(
            is_possible(self.size as usize, self.pages.len()),
            "{} pages, slots of {}",
            self.pages.len(),
            self.size
        );
        let mut payload = self.size.to_le_bytes().to_vec();
        payload.extend_from_slice(&(self.count() as u32).to_le_bytes());
        payload.extend(self.pages.iter().flat_map(|page| page.to_le_bytes()));
        Frame { header: Header { kind: kind::SLOTS, ..Header::default() }, payload: &payload }.encode(out);
    }

    /// Reads the payload. The addresses are the guest's claim.
    ///
    /// # Errors
    /// [`FilesError::Malformed`].
    pub fn parse(payload: &[u8]) -> Result<Self, FilesError> {
        let wrong = FilesError::Malformed("SLOTS");
        let (head, pages) = payload.split_first_chunk::<8>().ok_or(wrong)?;
        let [s0, s1, s2, s3, c0, c1, c2, c3] = *head;
        let (size, count) = (u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes([c0, c1, c2, c3]));
        let (pages, rest) = pages.as_chunks::<8>();
        let slots = Self { size, pages: pages.iter().map(|page| u64::from_le_bytes(*page)).collect() };
        let fits = rest.is_empty() && is_possible(size as usize, slots.pages.len()) && slots.count() == count as usize;
        let aligned = slots.pages.iter().all(|page| page.is_multiple_of(PAGE as u64));
        if fits && aligned { Ok(slots) } else { Err(wrong) }
    }
}

/// Whether slots of `size` bytes can have so many pages together.
fn is_possible(size: usize, pages: usize) -> bool {
    let each = size / PAGE;
    (PAGE..=MAX_DATA).contains(&size)
        && size.is_multiple_of(PAGE)
        && (each..=each * MAX_SLOTS).contains(&pages)
        && pages.is_multiple_of(each)
}

/// The server's answer to SLOTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsableSlots(
    /// How many of them are usable, from the first on; 0 if the server has no access to the guest's memory.
    pub u32,
);

impl UsableSlots {
    /// Appends a frame.
    pub fn encode(self, out: &mut Vec<u8>) {
        let header = Header { kind: kind::SLOTS_REPLY, ..Header::default() };
        Frame { header, payload: &self.0.to_le_bytes() }.encode(out);
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`FilesError::Malformed`].
    pub fn parse(payload: &[u8]) -> Result<Self, FilesError> {
        let bytes = payload.first_chunk::<4>().ok_or(FilesError::Malformed("SLOTS_REPLY"))?;
        Ok(Self(u32::from_le_bytes(*bytes)))
    }
}

/// Files of a share that do not have an extended attribute, so that the guest need not ask for each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    /// Which attribute: its place in [`PROBED`].
    pub name: u32,
    /// What the host's kernel says: the error number. ENODATA where a list of attributes would be empty.
    pub errno: u32,
    /// The files.
    pub nodes: Vec<u64>,
}

impl Absent {
    /// Appends a frame.
    pub fn encode(&self, share: u16, out: &mut Vec<u8>) {
        let mut payload = self.name.to_le_bytes().to_vec();
        payload.extend_from_slice(&self.errno.to_le_bytes());
        payload.extend(self.nodes.iter().flat_map(|node| node.to_le_bytes()));
        Frame { header: Header { kind: kind::ABSENT, share, ..Header::default() }, payload: &payload }.encode(out);
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`FilesError::Malformed`].
    pub fn parse(payload: &[u8]) -> Result<Self, FilesError> {
        let wrong = FilesError::Malformed("ABSENT");
        let (head, nodes) = payload.split_first_chunk::<8>().ok_or(wrong)?;
        let [n0, n1, n2, n3, e0, e1, e2, e3] = *head;
        let (name, errno) = (u32::from_le_bytes([n0, n1, n2, n3]), u32::from_le_bytes([e0, e1, e2, e3]));
        let (nodes, rest) = nodes.as_chunks::<8>();
        // An error number as the kernel takes it.
        if name as usize >= PROBED.len() || !(1..512).contains(&errno) || !rest.is_empty() {
            return Err(wrong);
        }
        Ok(Self { name, errno, nodes: nodes.iter().map(|node| u64::from_le_bytes(*node)).collect() })
    }
}
