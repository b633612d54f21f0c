//! The answer to a kernel's first request. The courier gives it without asking the server, so a mount costs no round trip.

use std::fmt;

use super::fuse::{IN_HEADER, MAJOR, MINOR, OUT_HEADER, init, op};
use super::{MAX_DATA, PAGE};

/// What is asked of the kernel; an older one offers less.
///
/// Not asked for: write-back (the host sees at once what was written), POSIX ACLs and `default_permissions` (the host's
/// kernel decides who may do what; ACLs travel as extended attributes), READDIRPLUS_AUTO (attributes come with each name:
/// entries are sent ahead, so they cost no waits, and a look at each file would).
const WANTED: u64 = init::ASYNC_READ
    | init::POSIX_LOCKS
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::FLOCK_LOCKS
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::HANDLE_KILLPRIV_V2
    | init::INIT_EXT
    | init::DIRECT_IO_ALLOW_MMAP;

/// Requests that the kernel keeps going by itself (read-ahead, direct I/O) at once.
const BACKGROUND: u16 = 64;
/// From how many on it lets the writers wait.
const CONGESTION: u16 = 48;
/// Bytes that the kernel reads ahead.
const READAHEAD: u32 = MAX_DATA as u32;

/// Why a first request cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitError {
    /// These bytes are not an INIT.
    NotInit,
    /// A FUSE protocol that this one cannot talk to.
    Version {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInit => f.write_str("the first FUSE request is no INIT"),
            Self::Version { major, minor } => {
                write!(f, "the kernel speaks FUSE {major}.{minor}, needed is 7.12 or later (Linux 2.6.31)")
            }
        }
    }
}

impl std::error::Error for InitError {}

/// The reply to `request`, a whole INIT with its header as it was read from `/dev/fuse`.
///
/// # Errors
/// [`InitError`]. A kernel with a *later* major version gets an answer: it asks again with ours.
pub fn init_reply(request: &[u8]) -> Result<Vec<u8>, InitError> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(*request.get(at..)?.first_chunk::<4>()?)) };
    let body = |index: usize| word(IN_HEADER + 4 * index);
    if word(4) != Some(op::INIT) {
        return Err(InitError::NotInit);
    }
    let (Some(major), Some(minor)) = (body(0), body(1)) else { return Err(InitError::NotInit) };
    if major < MAJOR || (major == MAJOR && minor < 12) {
        return Err(InitError::Version { major, minor });
    }
    let mut out = Vec::with_capacity(80);
    if major > MAJOR {
        out.extend_from_slice(&[MAJOR.to_le_bytes(), MINOR.to_le_bytes()].concat());
        return Ok(finish(request, &out));
    }
    let (Some(readahead), Some(low)) = (body(2), body(3)) else { return Err(InitError::NotInit) };
    let offered = u64::from(low) | if low & init::INIT_EXT as u32 != 0 { high(body(4)) } else { 0 };
    let flags = offered & WANTED;
    let max_pages = if flags & init::MAX_PAGES != 0 { (MAX_DATA / PAGE) as u16 } else { 0 };
    out.extend_from_slice(&MAJOR.to_le_bytes());
    out.extend_from_slice(&MINOR.min(minor).to_le_bytes());
    out.extend_from_slice(&readahead.min(READAHEAD).to_le_bytes());
    out.extend_from_slice(&(flags as u32).to_le_bytes());
    out.extend_from_slice(&BACKGROUND.to_le_bytes());
    out.extend_from_slice(&CONGESTION.to_le_bytes());
    out.extend_from_slice(&(MAX_DATA as u32).to_le_bytes());
    if minor >= 23 {
        // Times to the nanosecond.
        out.extend_from_slice(&1_u32.to_le_bytes());
        out.extend_from_slice(&max_pages.to_le_bytes());
        out.extend_from_slice(&0_u16.to_le_bytes());
        out.extend_from_slice(&((flags >> 32) as u32).to_le_bytes());
        out.resize(64, 0);
    }
    Ok(finish(request, &out))
}

fn high(word: Option<u32>) -> u64 {
    u64::from(word.unwrap_or(0)) << 32
}

/// A reply to `request` with this body.
fn finish(request: &[u8], body: &[u8]) -> Vec<u8> {
    let mut reply = ((OUT_HEADER + body.len()) as u32).to_le_bytes().to_vec();
    reply.extend_from_slice(&0_i32.to_le_bytes());
    reply.extend_from_slice(&request[8..16]);
    reply.extend_from_slice(body);
    reply
}
