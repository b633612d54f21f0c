//! What the courier needs to know about a request of the guest's kernel.

use proto::files::fuse::{IN_HEADER, OUT_HEADER, WRITE_IN, long, op, word};
use proto::files::{INLINE_MAX, MAX_DATA};

/// Bytes of a request that are read apart from the rest: after a WRITE's head only its data follows.
pub(super) const HEAD: usize = IN_HEADER + WRITE_IN;

/// Where READ, READDIR and READDIRPLUS have the number of bytes that they want: after handle and offset.
const SIZE_AT: usize = IN_HEADER + 16;

/// Bytes of a read that is made ahead are more.
const SHORT_READ: usize = 32 * 1024;

/// In RELEASE, after handle and flags: a lock of the whole file ends with it.
const RELEASE_FLAGS_AT: usize = IN_HEADER + 12;
const RELEASE_UNLOCKS: u32 = 1 << 1;

/// Numbers of the notification of a changed node, and where its parts are.
const INVAL_INODE: i32 = 2;
const OFFSET_AT: usize = OUT_HEADER + 8;

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It is answered here.
    Init,
    /// With bulk data behind its head.
    Data,
    /// Its reply may be long.
    LongReply,
    /// As it is.
    Plain,
}

/// How a request of `len` bytes travels that begins with `head`.
pub(super) fn way(head: &[u8; HEAD], len: usize) -> Way {
    match opcode(head) {
        op::INIT => Way::Init,
        op::WRITE if len > HEAD + INLINE_MAX => Way::Data,
        op::READ | op::READDIR | op::READDIRPLUS if word(head, SIZE_AT) as usize > INLINE_MAX - OUT_HEADER => {
            Way::LongReply
        }
        // What comes next may be sent along.
        op::OPEN | op::OPENDIR => Way::LongReply,
        _ => Way::Plain,
    }
}

/// Whether it closes a file or directory: answered here, because nobody waits for what the host makes of it.
pub(super) fn is_close(head: &[u8; HEAD]) -> bool {
    matches!(opcode(head), op::RELEASE | op::RELEASEDIR)
}

/// Whether it may be held back for a moment.
pub(super) fn can_be_held(head: &[u8; HEAD]) -> bool {
    match opcode(head) {
        op::FORGET | op::BATCH_FORGET | op::RELEASEDIR => true,
        // Others may wait for its lock.
        op::RELEASE => word(head, RELEASE_FLAGS_AT) & RELEASE_UNLOCKS == 0,
        _ => false,
    }
}

/// Whether the host answers it.
pub(super) fn is_answered(head: &[u8; HEAD]) -> bool {
    !matches!(opcode(head), op::FORGET | op::BATCH_FORGET | op::INTERRUPT | op::RELEASE | op::RELEASEDIR)
}

/// Number of the request that a reply answers.
pub(super) fn unique(reply: &[u8]) -> u64 {
    long(reply, 8)
}

/// The thread that asks, or 0 if none waits.
pub(super) fn pid(head: &[u8; HEAD]) -> u32 {
    match opcode(head) {
        op::FORGET | op::BATCH_FORGET | op::INTERRUPT | op::RELEASE | op::RELEASEDIR => 0,
        _ => word(head, 32),
    }
}

/// Whether whoever asks does nothing else until the answer, so that nothing is lost if the courier works on the same
/// processor. Only long reads are made ahead, while the task goes on with what it has.
pub(super) fn waits(head: &[u8; HEAD]) -> bool {
    opcode(head) != op::READ || word(head, SIZE_AT) as usize <= SHORT_READ
}

/// Whether its data is so long that a slot is worth waiting for.
pub(super) fn is_bulk(head: &[u8; HEAD], way: Way) -> bool {
    way == Way::Data || opcode(head) == op::READ && word(head, SIZE_AT) as usize > SHORT_READ
}

/// What it asks for.
pub(super) fn opcode(head: &[u8; HEAD]) -> u32 {
    word(head, 4)
}

/// The reply that this request failed, for one that the kernel did not take.
pub(super) fn failure_of(reply: &[u8]) -> Option<[u8; OUT_HEADER]> {
    const EIO: i32 = 5;
    let mut failure = *reply.first_chunk::<OUT_HEADER>()?;
    failure[..4].copy_from_slice(&(OUT_HEADER as u32).to_le_bytes());
    failure[4..8].copy_from_slice(&(-EIO).to_le_bytes());
    Some(failure)
}

/// Whether a notification only makes the kernel forget attributes. Any other may wait for pages or directories that are
/// locked until a reply arrives, and the courier would wait for itself.
pub(super) fn is_harmless(notification: &[u8]) -> bool {
    let offset = notification.get(OFFSET_AT..).and_then(|rest| rest.first_chunk::<8>());
    word(notification, 4) as i32 == INVAL_INODE && offset.is_some_and(|offset| i64::from_le_bytes(*offset) < 0)
}

/// Bytes behind a request's head: its names, or the data of a WRITE.
pub(super) const REST: usize = MAX_DATA;

#[cfg(test)]
mod tests {
    use super::*;

    fn head(opcode: u32, size: u32) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[4..8].copy_from_slice(&opcode.to_le_bytes());
        head[SIZE_AT..][..4].copy_from_slice(&size.to_le_bytes());
        head
    }

    #[test]
    fn only_what_is_long_takes_a_slot() {
        assert_eq!(way(&head(op::WRITE, 0), HEAD + INLINE_MAX), Way::Plain);
        assert_eq!(way(&head(op::WRITE, 0), HEAD + INLINE_MAX + 1), Way::Data);
        assert_eq!(way(&head(op::READ, 4000), HEAD), Way::Plain);
        assert_eq!(way(&head(op::READ, 4096), HEAD), Way::LongReply);
        assert_eq!(way(&head(op::READDIRPLUS, 1 << 17), HEAD), Way::LongReply);
        assert_eq!(way(&head(op::SETXATTR, 1 << 17), 60_000), Way::Plain);
        assert_eq!(way(&head(op::INIT, 0), 104), Way::Init);
        assert_eq!(way(&head(op::OPENDIR, 0), 48), Way::LongReply);
        assert!(!is_answered(&head(op::FORGET, 0)) && is_answered(&head(op::FLUSH, 0)));
    }

    #[test]
    fn only_who_reads_much_may_go_on_meanwhile_and_only_for_much_data_is_a_slot_waited_for() {
        let long = head(op::READ, 1 << 20);
        assert!(!waits(&long) && is_bulk(&long, Way::LongReply));
        let short = head(op::READ, 4096);
        assert!(waits(&short) && !is_bulk(&short, Way::LongReply));
        let write = head(op::WRITE, 0);
        assert!(waits(&write) && is_bulk(&write, Way::Data) && !is_bulk(&write, Way::Plain));
        assert!(!is_bulk(&head(op::READDIRPLUS, 1 << 17), Way::LongReply));
    }

    #[test]
    fn a_close_is_held_back_unless_it_unlocks() {
        let mut close = head(op::RELEASE, 0);
        assert!(is_close(&close) && can_be_held(&close) && can_be_held(&head(op::FORGET, 0)));
        close[RELEASE_FLAGS_AT] = 2;
        assert!(is_close(&close) && !can_be_held(&close));
        assert!(!is_close(&head(op::FORGET, 0)) && !can_be_held(&head(op::FLUSH, 0)));
    }

    #[test]
    fn a_notification_that_could_wait_is_not_passed_on() {
        let notification = |code: i32, offset: i64| {
            let mut bytes = vec![0; OUT_HEADER + 24];
            bytes[4..8].copy_from_slice(&code.to_le_bytes());
            bytes[OFFSET_AT..][..8].copy_from_slice(&offset.to_le_bytes());
            bytes
        };
        assert!(is_harmless(&notification(2, -1)));
        assert!(!is_harmless(&notification(2, 0)) && !is_harmless(&notification(3, -1)));
        assert!(!is_harmless(&notification(2, -1)[..20]) && !is_harmless(&[]));
    }

    #[test]
    fn a_reply_that_was_refused_becomes_an_error_of_its_request() {
        let mut reply = vec![9; 40];
        reply[8..16].copy_from_slice(&77_u64.to_le_bytes());
        let failure = failure_of(&reply).unwrap();
        assert_eq!(failure[..4], 16_u32.to_le_bytes());
        assert_eq!(failure[4..8], (-5_i32).to_le_bytes());
        assert_eq!(failure[8..], 77_u64.to_le_bytes());
        assert_eq!(failure_of(&[0; 15]), None);
    }
}
