//! Gives bytes that a guest or a user can forge to the code that reads them.
//!
//! Each function is a fuzz target (`fuzz/`): it must not panic, and its assertions must hold for any input.
//! `make fuzz` runs them for a while; the unit tests replay the inputs in `fuzz/seeds`, which include every
//! input that ever failed.

use std::io::{self, Read};
use std::path::Path;

use archive::Reader;
use image::ImageEntry;
use image::probe::Probe;
use node::status::Status;
use proto::{Decoder, Frame, HEADER_LEN, MAX_PAYLOAD, ToGuest, ToHost};
use request::{self, VmRequest};
use runner::template;

pub use runner::fuzzing::{guest, template_guest, texts};

/// A target's name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets by the names of their directories in `fuzz/seeds`.
pub const TARGETS: [Target; 9] = [
    ("frames", frames),
    ("guest", guest),
    ("template_guest", template_guest),
    ("texts", texts),
    ("request", request),
    ("files", files),
    ("disk", disk),
    ("archive", archive),
    ("file_server", file_server),
];

/// Cutting a stream into frames and reading the messages of both directions.
pub fn frames(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let whole = decode(stream, stream.len().max(1));
    let parts = decode(stream, usize::from(cut) + 1);
    // It must make no difference how the stream was cut on its way.
    assert_eq!(whole, parts);
}

/// Requests of a guest to the file server.
pub fn file_server(data: &[u8]) {
    // In memory where that can be: a fuzzer makes many.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let place = tempfile::tempdir_in(place).expect("a temporary directory");
    ::files::fuzzing::serve(place.path(), data);
}

/// The frames up to the first error; each is also read as a message.
fn decode(stream: &[u8], chunk: usize) -> Vec<(u8, u8, u16, Vec<u8>)> {
    let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
    for piece in stream.chunks(chunk) {
        decoder.push(piece);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return seen,
            };
            assert!(frame.payload.len() <= MAX_PAYLOAD);
            seen.push((frame.kind, frame.stream, frame.task, frame.payload.to_vec()));
            messages(frame);
        }
    }
    seen
}

/// A valid message stays the same when it is written and read again.
fn messages(frame: Frame<'_>) {
    let mut bytes = Vec::new();
    if let Ok(message) = ToHost::parse(frame) {
        message.encode(frame.task, &mut bytes);
        assert_eq!(ToHost::parse(reread(&bytes)).as_ref(), Ok(&message));
    }
    bytes.clear();
    if let Ok(message) = ToGuest::parse(frame) {
        message.encode(frame.task, &mut bytes);
        assert_eq!(ToGuest::parse(reread(&bytes)).as_ref(), Ok(&message));
    }
}

fn reread(bytes: &[u8]) -> Frame<'_> {
    let (header, payload) = bytes.split_first_chunk::<HEADER_LEN>().expect("a whole frame");
    Frame { kind: header[0], stream: header[1], task: u16::from_le_bytes([header[2], header[3]]), payload }
}

/// Input from users: option values, and the request in the environment, which anybody can forge.
pub fn request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(request) = text.parse::<VmRequest>() {
        assert_eq!(request.to_string().parse(), Ok(request));
    }
    for error in request::OPTIONS.iter().filter_map(|option| (option.check)(text).err()) {
        // The error is printed on a terminal and in a log, as one line.
        assert!(!error.to_string().chars().any(char::is_control));
    }
}

/// Files that users may write: catalogue entries and templates. Also the plugin's own files.
pub fn files(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(entry) = toml::from_str::<ImageEntry>(text) {
        let again = toml::to_string(&entry).expect("an entry can be written");
        assert_eq!(toml::from_str(&again), Ok(entry));
    }
    let _ = toml::from_str::<template::Manifest>(text);
    let _ = text.parse::<Status>();
}

/// The beginning of a file that a user calls a disk. The first byte says how much longer the file is.
pub fn disk(data: &[u8]) {
    let Some((&more, head)) = data.split_first() else { return };
    let bytes = head.len() as u64 + (u64::from(more) << 20);
    let probe = Probe::of_head(head, bytes);
    assert!(!probe.content.to_string().chars().any(char::is_control));
    assert!(probe.missing_bytes() != Some(0));
}

/// An archive that a user imports. A sparse entry may claim any size, so only one MiB of each is read.
pub fn archive(data: &[u8]) {
    let mut reader = Reader::new(data);
    while let Ok(Some(_)) = reader.next_entry() {
        let _ = io::copy(&mut reader.content().take(1 << 20), &mut io::sink());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_input_that_was_kept_is_harmless() {
        for (name, target) in TARGETS {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
            let seeds: Vec<_> = std::fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.path()).collect();
            assert!(!seeds.is_empty(), "{}", dir.display());
            for seed in seeds {
                target(&std::fs::read(seed).unwrap());
            }
        }
    }
}
