//! What the guest's kernel will ask for next, sent with the reply to what it asks for now.

use std::sync::atomic::{AtomicU64, Ordering};

use proto::files::{Ahead, Frame, Header, INLINE_MAX, What, kind, listed_nodes, opened};

use super::handles::Handles;
use super::nodes::Nodes;
use super::slots::Bulk;

/// Most bytes of a file that are sent with the reply to OPEN.
pub(crate) const CONTENT_MAX: usize = 64 * 1024;

/// Most bytes of entries, which is a few hundred of them.
pub(crate) const ENTRIES_MAX: usize = 128 * 1024;

/// Most bytes of directories that were opened ahead, where they have no slot.
pub(crate) const OPENED_INLINE: usize = 8 * 1024;

/// Bytes that are sent over the port: with the reply they come in one piece.
pub(crate) const INLINE: usize = 2560;

/// See the module.
#[derive(Debug)]
pub(crate) struct Advance {
    pub(crate) handle: u64,
    pub(crate) position: u64,
    pub(crate) what: What,
    pub(crate) bytes: Vec<u8>,
    /// The share's doubts when this began to be made.
    pub(crate) seen: u64,
}

impl Advance {
    /// Its frame; long bytes are put into the slot that the request has lent. `None` if there is no place for them.
    pub(crate) fn frame(&self, header: Header, unique: u64, bulk: &Bulk) -> Option<Vec<u8>> {
        let Self { handle, position, what, ref bytes, .. } = *self;
        let ahead = Ahead { unique, handle, position, what }.encode();
        let slot = header.slot.filter(|_| self.wants_slot());
        let mut header = Header { kind: kind::AHEAD, share: header.share, slot, data: 0 };
        let mut frame = Vec::new();
        if let Some(slot) = slot {
            bulk.lent(slot).and_then(|lent| lent.write(0, bytes)).ok()?;
            header.data = bytes.len() as u32;
            Frame { header, payload: &ahead }.encode(&mut frame);
        } else {
            Frame { header, payload: &[&ahead[..], bytes].concat() }.encode(&mut frame);
        }
        Some(frame)
    }

    /// Whether its bytes belong into a slot.
    pub(crate) fn wants_slot(&self) -> bool {
        self.bytes.len() > INLINE && self.what != What::Names
    }

    /// Whether it is still true.
    pub(crate) fn is_true(&self, doubts: &AtomicU64) -> bool {
        doubts.load(Ordering::SeqCst) == self.seen
    }

    /// The guest will not hear of it.
    pub(crate) fn withdraw(&self, nodes: &Nodes, handles: &Handles) {
        let forget = |entries: &[u8]| listed_nodes(entries).for_each(|node| nodes.forget(node, 1));
        match self.what {
            What::Entries { .. } => forget(&self.bytes),
            What::Opened => {
                for (dir, entries) in opened(&self.bytes) {
                    forget(entries);
                    drop(handles.remove(dir.handle, dir.node));
                }
            }
            What::Content | What::Names => {}
        }
    }
}

/// How much can be sent ahead with the reply to a request with this header. A body that needs the slot itself leaves none.
pub(crate) fn room(header: Header) -> usize {
    if header.slot.is_some() { ENTRIES_MAX } else { INLINE }
}

/// Whether a body of `len` bytes leaves the slot free.
pub(crate) fn leaves_room(len: usize) -> bool {
    len <= INLINE_MAX
}
