//! The second port: the guest's file requests to the file server on the host.
//!
//! The guest's kernel speaks FUSE on a descriptor of `/dev/fuse` for each share. A *courier* in the guest moves these
//! requests over one virtio-serial port ([`PORT_NAME`]) to the *file server*, a process on the host that is the user and
//! nothing more, and moves the replies back. This module is the whole wire format: no I/O, no `unsafe`, no
//! allocation that the peer can make grow.
//!
//! ```text
//! courier                                        file server
//!   HELLO version nonce          ───────────►   (drops all bytes before it)
//!                                ◄───────────   HELLO version same-nonce
//!   SLOTS size addresses         ───────────►   (optional, once)
//!                                ◄───────────   SLOTS usable       (as soon as it can reach the guest's memory, or cannot)
//!   REQUEST share slot fuse      ───────────►
//!                                ◄───────────   REPLY share slot fuse
//!                                ◄───────────   NOTIFY share fuse, ABSENT share files, DOUBT share
//!                                ◄───────────   AHEAD share slot bytes, with the REPLY that follows
//! ```
//!
//! A port tells neither side when the other connects, and a clone's port may hold bytes of its template's session. So a
//! reader drops everything before a HELLO ([`Decoder`]), and the courier drops everything before the HELLO with its nonce.
//! A server answers every HELLO; what it knows of nodes and handles stays, its slots are forgotten.
//!
//! **INIT never travels**: the courier answers it by [`init_reply`]. FORGET, BATCH_FORGET and INTERRUPT have no reply,
//! and the server does not answer RELEASE and RELEASEDIR: the courier does, because nobody waits for what becomes of them.
//! DESTROY need not be sent. What else the guest can answer itself [`Asked`], [`Absences`] and [`Store`] know.
//!
//! # Slots
//!
//! QEMU hands the bytes of a port to the guest 4 KiB at a time, so bulk data has another way: *slots*, locked pages in
//! the guest's memory that the server reads and writes directly. The guest announces them with SLOTS and may use
//! them once the server has answered that they are usable; until then, and where the server has no access,
//! everything travels inline and nothing else changes. A REQUEST that names a slot owns it until its REPLY. For a request
//! with bulk data (WRITE) the first `data` bytes of the slot follow the inline payload. For READ and READDIR `data` is 0,
//! and the server may put the reply's body there: then `data` of the REPLY is not 0, and that many bytes of the slot
//! follow its inline payload. The slot of an OPEN, OPENDIR or READDIRPLUS may hold what one AHEAD before the REPLY brings; the
//! names of a directory, with the REPLY to a LOOKUP that failed, come inline.

mod ahead;
mod error;
mod frame;
pub mod fuse;
mod init;
mod listing;
mod local;
mod messages;
mod names;
mod opened;
#[cfg(test)]
mod tests;

pub use ahead::{Ahead, Store, What};
pub use error::FilesError;
pub use frame::{Decoder, Frame, Header};
pub use init::{InitError, init_reply};
pub use listing::listed_nodes;
pub use local::{Absences, Asked, FILE_IOCTLS, QUIET_CLOSE, local_reply};
pub use messages::{Absent, Hello, Slots, UsableSlots};
pub use names::{NAMES_MAX, name_mark};
pub use opened::{Opened, opened};

/// Version of this wire format.
pub const VERSION: u16 = 5;

/// Name of the virtio-serial port, as the guest sees it in `/sys/class/virtio-ports/*/name`.
pub const PORT_NAME: &str = "org.spank-vm.files";

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 16;

/// Largest amount of data of one READ or WRITE in bytes, and the largest size of a slot.
pub const MAX_DATA: usize = 1024 * 1024;

/// Largest inline payload of a frame in bytes: bulk data and what FUSE puts before it.
pub const MAX_PAYLOAD: usize = MAX_DATA + 4096;

/// Bulk data shorter than this many bytes is quicker inline.
pub const INLINE_MAX: usize = 4096;

/// Bytes of a page of a slot. The guest's own pages may be larger: it announces each part.
pub const PAGE: usize = 4096;

/// Largest number of slots.
pub const MAX_SLOTS: usize = 64;

/// Extended attributes that the guest's kernel and `ls` ask for, of every file: [`Absent`] names them by their place here.
/// One has no name: it stands for any, and who lists them asks for it.
pub const PROBED: [&[u8]; 4] = [b"security.capability", b"", b"system.posix_acl_access", b"system.posix_acl_default"];

/// Whether an extended attribute is a label that the host's security module gives to a file. It says nothing to the guest's
/// kernel, so in the guest it is not there, as over NFS. Capabilities are no label, and neither are the sums of
/// `security.ima` and `security.evm`.
#[must_use]
pub fn is_label(name: &[u8]) -> bool {
    matches!(name, b"security.selinux" | b"security.apparmor") || name.starts_with(b"security.SMACK64")
}

/// Starts the payload of every HELLO. A receiver that is not yet in step looks for it in the stream.
pub const MAGIC: [u8; 16] = *b"\xf6spank-vm files\n";

/// What a frame is.
pub mod kind {
    /// Guest: a session begins.
    pub const HELLO: u8 = 1;
    /// Guest: pages of memory for bulk data.
    pub const SLOTS: u8 = 2;
    /// Guest: a request of the guest's kernel.
    pub const REQUEST: u8 = 3;
    /// Host: answers the guest's HELLO.
    pub const HELLO_REPLY: u8 = 17;
    /// Host: how many slots are usable; 0 for none.
    pub const SLOTS_REPLY: u8 = 18;
    /// Host: answers a request.
    pub const REPLY: u8 = 19;
    /// Host: a FUSE notification.
    pub const NOTIFY: u8 = 20;
    /// Host: extended attributes that files do not have. Of use for speed only.
    pub const ABSENT: u8 = 21;
    /// Host: what the guest's kernel will ask for next. Of use for speed only.
    pub const AHEAD: u8 = 22;
    /// Host: what was sent ahead of a share may no longer be true.
    pub const DOUBT: u8 = 23;
}
