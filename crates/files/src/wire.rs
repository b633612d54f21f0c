//! FUSE requests and replies as bytes.

use std::ffi::CStr;

use proto::files::fuse::{IN_HEADER, OUT_HEADER};
use proto::files::{Absent, Frame, HEADER_LEN, Header, kind};

use super::advance::Advance;
use super::buffer::Buffer;
use super::slots::Lent;
use super::sys::{Errno, Result, to_wire_device};

/// How long the guest may believe a name or attributes, in seconds.
const TIMEOUT: u64 = 1;

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) op: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) args: Args<'a>,
}

impl<'a> Request<'a> {
    /// `None` if the bytes are no request: then there is nobody to answer.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(IN_HEADER)?;
        let mut head = Args(head);
        let (_, op) = (head.u32().ok()?, head.u32().ok()?);
        Some(Self { op, unique: head.u64().ok()?, node: head.u64().ok()?, args: Args(body) })
    }
}

/// What follows a request's header. A request that is too short is EINVAL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Args<'a>(&'a [u8]);

impl<'a> Args<'a> {
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Errno(libc::EINVAL))?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// An offset or a length within a file.
    pub(crate) fn offset(&mut self) -> Result<i64> {
        i64::try_from(self.u64()?).map_err(|_| Errno(libc::EINVAL))
    }

    pub(crate) fn skip(&mut self, bytes: usize) -> Result<()> {
        self.0 = self.0.get(bytes..).ok_or(Errno(libc::EINVAL))?;
        Ok(())
    }

    /// A string of bytes.
    pub(crate) fn string(&mut self) -> Result<&'a CStr> {
        let string = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno(libc::EINVAL))?;
        self.0 = &self.0[string.count_bytes() + 1..];
        Ok(string)
    }

    /// The name of a directory's entry: one component, and no way up.
    pub(crate) fn name(&mut self) -> Result<&'a CStr> {
        let name = self.string()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno(libc::EINVAL)),
            bytes if bytes.contains(&b'/') => Err(Errno(libc::EINVAL)),
            _ => Ok(name),
        }
    }

    /// Data of that length.
    pub(crate) fn data(&mut self, len: usize) -> Result<&'a [u8]> {
        let (data, rest) = self.0.split_at_checked(len).ok_or(Errno(libc::EINVAL))?;
        self.0 = rest;
        Ok(data)
    }
}

/// Bytes before a reply's body.
pub(crate) const REPLY_HEAD: usize = HEADER_LEN + OUT_HEADER;

/// The reply to one request, built in place behind the room for its headers.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    bytes: Buffer,
    /// The node whose attributes the guest must drop before it sees the reply.
    pub(crate) stale: Option<u64>,
    /// Extended attributes that files do not have, which the guest is told too.
    pub(crate) absent: Vec<Absent>,
    /// How many changes of such attributes there were when the request began.
    pub(crate) seen: u64,
    /// The slot that the request has lent, with so many bytes of data.
    pub(crate) lent: Option<(Lent, usize)>,
    /// Bytes of the body that lie in it; then there are no others.
    pub(crate) in_slot: usize,
    /// How many bytes may be sent ahead with this reply.
    pub(crate) room: usize,
    /// What is.
    pub(crate) advance: Option<Advance>,
    /// Directories that were opened for who walks a tree. They have the slot only if `advance` has not.
    pub(crate) walked: Option<Advance>,
    /// What was sent ahead before is no longer true.
    pub(crate) doubt: bool,
}

impl Reply {
    /// Begins an empty reply.
    pub(crate) fn begin(&mut self) {
        self.bytes.clear();
        self.bytes.grow(REPLY_HEAD);
        (self.stale, self.advance, self.walked, self.doubt, self.in_slot) = (None, None, None, false, 0);
        self.absent.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - REPLY_HEAD
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes.bytes()[REPLY_HEAD..]
    }

    pub(crate) fn push(&mut self, data: &[u8]) {
        self.bytes.push(data);
    }

    pub(crate) fn u32(&mut self, word: u32) {
        self.bytes.push(&word.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, word: u64) {
        self.bytes.push(&word.to_le_bytes());
    }

    /// See [`Buffer::grow`].
    pub(crate) fn grow(&mut self, len: usize) -> &mut [u8] {
        self.bytes.grow(len)
    }

    /// Drops all of the body from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(REPLY_HEAD + len);
    }

    /// Gives a large buffer back.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.bytes.shrink(bytes);
    }

    /// Takes the body out: it lies in the slot already. Returns its length.
    pub(crate) fn take_body(&mut self) -> usize {
        let len = self.len();
        self.truncate(0);
        len
    }

    /// Turns the reply into an error.
    pub(crate) fn fail(&mut self) {
        self.in_slot = 0;
        self.truncate(0);
    }

    /// Fills the headers in, with `data` bytes of the body in the slot; the frame's bytes.
    pub(crate) fn finish(
        &mut self,
        share: u16,
        slot: Option<u32>,
        unique: u64,
        result: Result<()>,
        data: usize,
    ) -> &[u8] {
        let inline = OUT_HEADER + self.len();
        let header = Header { kind: kind::REPLY, share, slot, data: data as u32 };
        let error = result.err().map_or(0, |Errno(number)| -number);
        let head = self.bytes.bytes_mut();
        head[..HEADER_LEN].copy_from_slice(&header.encode(inline));
        head[HEADER_LEN..][..4].copy_from_slice(&((inline + data) as u32).to_le_bytes());
        head[HEADER_LEN + 4..][..4].copy_from_slice(&error.to_le_bytes());
        head[HEADER_LEN + 8..][..8].copy_from_slice(&unique.to_le_bytes());
        self.bytes.bytes()
    }

    /// Attributes and how long they hold (`fuse_attr_out`).
    pub(crate) fn attr_out(&mut self, stat: &libc::stat, ino: u64) {
        self.u64(TIMEOUT);
        self.u64(0);
        self.attr(stat, ino);
    }

    /// A name's node (`fuse_entry_out`).
    pub(crate) fn entry_out(&mut self, node: u64, stat: &libc::stat, ino: u64) {
        for word in [node, 0, TIMEOUT, TIMEOUT, 0] {
            self.u64(word);
        }
        self.attr(stat, ino);
    }

    /// `fuse_attr`.
    fn attr(&mut self, stat: &libc::stat, ino: u64) {
        let longs = [ino, stat.st_size as u64, stat.st_blocks as u64];
        let times = [stat.st_atime, stat.st_mtime, stat.st_ctime].map(|time| time as u64);
        longs.iter().chain(&times).for_each(|word| self.u64(*word));
        let parts = [stat.st_atime_nsec, stat.st_mtime_nsec, stat.st_ctime_nsec].map(|part| part as u32);
        let device = to_wire_device(stat.st_rdev);
        let rest = [stat.st_mode, stat.st_nlink as u32, stat.st_uid, stat.st_gid, device, stat.st_blksize as u32, 0];
        parts.iter().chain(&rest).for_each(|word| self.u32(*word));
    }
}

/// A frame that takes back what was sent ahead.
pub(crate) fn doubt(share: u16) -> [u8; HEADER_LEN] {
    Header { kind: kind::DOUBT, share, ..Header::default() }.encode(0)
}

/// A notification that a node's attributes are no longer true.
pub(crate) fn invalidate(share: u16, node: u64) -> Vec<u8> {
    let mut payload = ((OUT_HEADER + 24) as u32).to_le_bytes().to_vec();
    payload.extend_from_slice(&proto::files::fuse::notify::INVAL_INODE.to_le_bytes());
    payload.extend_from_slice(&0_u64.to_le_bytes());
    payload.extend_from_slice(&node.to_le_bytes());
    // A negative offset leaves the data alone: dropping it would wait for reads under way.
    payload.extend_from_slice(&(-1_i64).to_le_bytes());
    payload.extend_from_slice(&0_i64.to_le_bytes());
    let mut frame = Vec::new();
    let header = Header { kind: kind::NOTIFY, share, ..Header::default() };
    Frame { header, payload: &payload }.encode(&mut frame);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_component_and_no_way_up() {
        let name = |bytes: &'static [u8]| Args(bytes).name().map(CStr::to_bytes);
        assert_eq!(name(b"a\xff b\0rest"), Ok(&b"a\xff b"[..]));
        assert_eq!(name(b"...\0"), Ok(&b"..."[..]));
        for wrong in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"/\0", b"../x\0", b"no end", b""] {
            assert_eq!(name(wrong), Err(Errno(libc::EINVAL)), "{wrong:?}");
        }
    }

    #[test]
    fn arguments_are_read_in_turn_and_never_beyond_their_end() {
        let mut args = Args(b"\x01\0\0\0name\0\x02\0\0\0\0\0\0\0data");
        assert_eq!(args.u32(), Ok(1));
        assert_eq!(args.string().map(CStr::to_bytes), Ok(&b"name"[..]));
        assert_eq!(args.offset(), Ok(2));
        assert!(args.data(5).is_err() && args.u64().is_err() && args.skip(5).is_err());
        assert_eq!(args.data(4), Ok(&b"data"[..]));
        assert!(Args(&[0xff; 8]).offset().is_err(), "a negative offset");
        assert!(Request::parse(&[0; IN_HEADER - 1]).is_none());
    }

    #[test]
    fn a_reply_has_both_headers_before_its_body() {
        let mut reply = Reply::default();
        reply.begin();
        reply.u32(7);
        let frame = reply.finish(3, None, 99, Ok(()), 0).to_vec();
        assert_eq!((frame.len(), frame[0], frame[4], frame[6]), (REPLY_HEAD + 4, 20, 3, kind::REPLY));
        assert_eq!(
            &frame[HEADER_LEN..],
            [&[20, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0][..], &[7, 0, 0, 0]].concat()
        );
        reply.fail();
        let frame = reply.finish(3, Some(2), 99, Err(Errno(libc::ENOENT)), 0);
        assert_eq!(&frame[HEADER_LEN + 4..][..4], (-libc::ENOENT).to_le_bytes());
    }

    #[test]
    fn attributes_have_the_length_that_the_kernel_expects() {
        let stat =
            super::super::sys::fstatat(std::os::fd::AsFd::as_fd(&std::fs::File::open("/").unwrap()), c"").unwrap();
        let mut reply = Reply::default();
        reply.begin();
        reply.attr_out(&stat, 5);
        assert_eq!(reply.len(), 16 + 88);
        reply.entry_out(1, &stat, 5);
        assert_eq!(reply.len(), 16 + 88 + 128);
    }
}
