//! The server without a port, for the fuzz target and the replay of its seeds.

use std::fs;
use std::path::Path;

use proto::files::fuse::{ROOT, op};
use proto::files::{Decoder, Hello, Slots, kind};

use super::control::{Share as Described, Shares};
use super::dispatch::{dispatch, is_silent};
use super::locks::Waits;
use super::share::{Share, open_all};
use super::wire::{Args, Reply, Request};

/// What lies beside the shares, and must stay as it is.
const SECRET: &[u8] = b"secret";

/// Gives `data` as requests of a guest to a server with two shares, one of them read-only, in a directory of its own
/// below `place`, which must be empty.
///
/// # Panics
/// If a guest could change what it must not, or if a reply is none.
pub fn serve(place: &Path, data: &[u8]) {
    #[cfg(fuzzing)]
    super::process::small_files();
    let (one, two, outside) = (place.join("one"), place.join("two"), place.join("outside"));
    for dir in [&one, &two, &outside] {
        fs::create_dir(dir).expect("an empty place");
        fs::write(dir.join("file"), SECRET).expect("a new file");
    }
    fs::create_dir(one.join("dir")).expect("a new directory");
    std::os::unix::fs::symlink(&outside, one.join("link")).expect("a new link");
    let share = |path: &Path, read_only| Described { path: path.to_owned(), read_only };
    let shares = open_all(&Shares(vec![share(&one, false), share(&two, true)])).expect("the shares are there");
    let mut played = Played { shares, waits: Waits::default(), reply: Reply::default() };
    match data.split_first() {
        Some((0, frames)) => played.frames(frames),
        Some((_, requests)) => played.requests(requests),
        None => {}
    }
    for dir in [&two, &outside] {
        assert_eq!(fs::read(dir.join("file")).expect("it is still there"), SECRET);
        assert_eq!(fs::read_dir(dir).expect("it is still a directory").count(), 1);
    }
    assert!(played.shares.iter().all(|share| share.nodes.len() < 100_000));
}

struct Played {
    shares: Vec<Share>,
    waits: Waits,
    reply: Reply,
}

impl Played {
    /// The bytes of the port.
    fn frames(&mut self, mut bytes: &[u8]) {
        let mut decoder = Decoder::new();
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => match frame.header.kind {
                    kind::REQUEST => {
                        if let Some(request) = Request::parse(frame.payload) {
                            self.request(frame.header.share, request);
                        }
                    }
                    kind::SLOTS => drop(Slots::parse(frame.payload)),
                    _ => drop(Hello::parse(frame.payload)),
                },
                Ok(None) if bytes.is_empty() => return,
                Ok(None) => {
                    let space = decoder.space();
                    let len = space.len().min(bytes.len());
                    let (now, later) = bytes.split_at(len);
                    space[..len].copy_from_slice(now);
                    decoder.filled(len);
                    bytes = later;
                }
                Err(_) => return,
            }
        }
    }

    /// Requests that are nearly right: operation, node, length of the rest.
    fn requests(&mut self, mut bytes: &[u8]) {
        while let Some(([op, node, len], rest)) = bytes.split_first_chunk::<3>() {
            let (args, rest) = rest.split_at(rest.len().min(usize::from(*len)));
            bytes = rest;
            let node = if *node == u8::MAX { u64::MAX } else { ROOT + u64::from(node & 0x7f) };
            let request = Request { op: u32::from(*op), unique: 1, node, args: Args::new(args) };
            self.request(u16::from(*op >= 0x80), Request { op: request.op & 0x7f, ..request });
        }
    }

    fn request(&mut self, number: u16, request: Request<'_>) {
        // Flags can make a file that even root must not remove.
        if request.op == op::IOCTL {
            return;
        }
        let Some(share) = self.shares.get(usize::from(number)) else { return };
        self.reply.room = super::advance::ENTRIES_MAX;
        dispatch(share, number, &self.waits, request, &mut self.reply);
        if !is_silent(&request) {
            let frame = self.reply.finish(number, None, request.unique, Ok(()), 0);
            assert!(frame.len() <= proto::files::HEADER_LEN + proto::files::MAX_PAYLOAD);
        }
    }
}
