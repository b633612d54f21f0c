//! How the bulk data of a reply gets from a slot to `/dev/fuse`: through a pipe.
//!
//! From memory of this process the kernel takes a reply page by page, and looks up each by its address, which costs a third of
//! the copy. A slot's pages lie in a pipe already, where the kernel has them in its hands: they are lent to a second pipe,
//! behind the reply's head, and passed on from there. (Requests cannot come this way: the kernel copies a writer's pages into
//! new ones first.)
//!
//! Bytes that were left in the pipe would become part of the next reply. So it is given up whenever a call has failed.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee};
use nix::sys::uio::writev;
use nix::unistd::{pipe2, write};

use proto::files::MAX_DATA;

/// Room for a slot's pages and the head before them: a pipe has a power of two of places.
const BYTES: usize = 2 * MAX_DATA;

/// For fewer bytes it is not worth its calls.
const LEAST: usize = 64 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Both ends of one that is empty.
    ends: Option<(OwnedFd, OwnedFd)>,
    /// The kernel gives none of this size.
    is_hopeless: bool,
}

impl Pipe {
    /// Gives the kernel a reply: `head`, and the bulk data of a slot, whose pages lie in the pipe `pages` and stay there.
    ///
    /// # Errors
    /// Those of writing to `/dev/fuse`.
    pub fn give(&mut self, fuse: &OwnedFd, head: &[u8], bulk: &[u8], pages: Option<&OwnedFd>) -> nix::Result<usize> {
        let pages = pages.filter(|_| bulk.len() >= LEAST);
        let Some((reader, writer)) = pages.and_then(|pages| self.fill(head, pages, bulk.len())) else {
            return writev(fuse, &[IoSlice::new(head), IoSlice::new(bulk)]);
        };
        let len = head.len() + bulk.len();
        let given = splice(&reader, None, fuse, None, len, SpliceFFlags::empty())?;
        if given == len {
            self.ends = Some((reader, writer));
        }
        Ok(given)
    }

    /// The pipe, with exactly these bytes in it; whoever empties it puts it back.
    fn fill(&mut self, head: &[u8], pages: &OwnedFd, bulk: usize) -> Option<(OwnedFd, OwnedFd)> {
        if self.ends.is_none() && !self.is_hopeless {
            self.ends = make().ok();
            self.is_hopeless = self.ends.is_none();
        }
        let (reader, writer) = self.ends.take()?;
        let written = write(&writer, head).ok()?;
        let lent = tee(pages, &writer, bulk, SpliceFFlags::SPLICE_F_NONBLOCK).ok()?;
        ((written, lent) == (head.len(), bulk)).then_some((reader, writer))
    }
}

fn make() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(BYTES as i32))?;
    Ok((reader, writer))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    /// What a reader of `/dev/fuse` would get, with a file in its place.
    fn given(pipe: &mut Pipe, head: &[u8], bulk: &[u8], pages: Option<&OwnedFd>) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        let fuse = OwnedFd::from(file.try_clone().unwrap());
        assert_eq!(pipe.give(&fuse, head, bulk, pages), Ok(head.len() + bulk.len()));
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_reply_is_its_head_and_the_slot_s_first_bytes_and_the_slot_keeps_its_pages() {
        let slot: Vec<u8> = (0..2 * LEAST).map(|at| (at / 97) as u8).collect();
        let (pages, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(slot.len() as i32)).unwrap();
        std::fs::File::from(writer.try_clone().unwrap()).write_all(&slot).unwrap();
        let mut pipe = Pipe::default();
        for len in [slot.len(), LEAST + 1, LEAST, LEAST - 1, 1, 0, slot.len()] {
            let expected = [b"head", &slot[..len]].concat();
            assert!(given(&mut pipe, b"head", &slot[..len], Some(&pages)) == expected, "{len} bytes");
        }
        assert_ne!(pipe.ends.is_some(), pipe.is_hopeless, "it was used, unless this user may have none");
        assert!(given(&mut pipe, b"head", &slot, None)[4..] == slot, "without pages");
    }

    #[test]
    fn what_a_failed_reply_leaves_behind_is_no_part_of_the_next_one() {
        let slot = vec![7; LEAST];
        let (pages, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        std::fs::File::from(writer.try_clone().unwrap()).write_all(&slot[..LEAST / 2]).unwrap();
        let mut pipe = Pipe::default();
        // The pages are fewer than they should be: the reply is written as without a pipe.
        assert!(given(&mut pipe, b"one", &slot, Some(&pages)) == [b"one", &slot[..]].concat());
        std::fs::File::from(writer.try_clone().unwrap()).write_all(&slot[LEAST / 2..]).unwrap();
        let closed = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(pipe.give(&closed, b"two", &slot, Some(&pages)).is_err(), "not open for writing");
        assert!(given(&mut pipe, b"three", &slot, Some(&pages)) == [b"three", &slot[..]].concat());
    }
}
