//! Directories that are opened before the guest opens them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proto::files::{Opened, What};

use super::super::advance::{Advance, ENTRIES_MAX, OPENED_INLINE};
use super::super::share::Share;
use super::super::wire::Reply;
use super::{absent, directory};

/// Looking ahead takes no longer.
const TIME_MAX: Duration = Duration::from_millis(3);

/// After an OPENDIR of `dir`: for who walks a tree, the directories that come next.
pub(crate) fn after(share: &Share, dir: u64, reply: &mut Reply) {
    let Ok(node) = share.nodes.get(dir) else { return };
    let (begun, seen) = (Instant::now(), share.doubts.load(Ordering::SeqCst));
    let next = share.walk.next(dir, node.parent(), begun);
    if next.is_empty() {
        return;
    }
    let slot_is_free = reply.room == ENTRIES_MAX && !reply.advance.as_ref().is_some_and(Advance::wants_slot);
    let room = if slot_is_free { ENTRIES_MAX } else { OPENED_INLINE };
    let (mut bytes, mut more) = (Vec::new(), Reply::default());
    for id in next {
        let Some(left) = room.checked_sub(bytes.len() + Opened::HEAD) else { break };
        let Ok(child) = share.nodes.get(id) else { continue };
        if begun.elapsed() > TIME_MAX {
            break;
        }
        if child.key.0 != node.key.0 {
            // Something else is mounted there.
            continue;
        }
        more.begin();
        share.walk.sent(id, begun);
        if let Some((handle, is_end)) = directory::opened(share, child, left, &mut more) {
            Opened { node: id, handle, is_end }.encode(more.body(), &mut bytes);
        }
        reply.doubt |= more.doubt;
    }
    if !bytes.is_empty() {
        reply.walked = Some(Advance { handle: dir, position: 0, what: What::Opened, bytes, seen });
        reply.absent.extend(absent::more(share));
    }
}
