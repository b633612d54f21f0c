use std::time::{Duration, Instant};

use super::fuse::{IN_HEADER, OUT_HEADER, long, op, word as word_at};
use super::*;

fn push(decoder: &mut Decoder, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let space = decoder.space();
        let part = space.len().min(bytes.len());
        space[..part].copy_from_slice(&bytes[..part]);
        decoder.filled(part);
        bytes = &bytes[part..];
    }
}

fn hello() -> Vec<u8> {
    let mut out = Vec::new();
    Hello::new(7).encode(kind::HELLO, &mut out);
    out
}

fn request(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = Header { kind: kind::REQUEST, share: 3, slot: Some(2), data: 9 };
    Frame { header, payload }.encode(&mut out);
    out
}

#[test]
fn stale_bytes_before_hello_are_dropped_whatever_they_are() {
    let mut stream = vec![0xff; 1000];
    stream.extend_from_slice(&MAGIC);
    stream.extend(hello());
    let mut decoder = Decoder::new();
    let mut seen = Vec::new();
    for byte in stream {
        push(&mut decoder, &[byte]);
        if let Some(frame) = decoder.next_frame().unwrap() {
            seen.push((frame.header.kind, Hello::parse(frame.payload).unwrap()));
        }
    }
    assert_eq!(seen, [(kind::HELLO, Hello { version: VERSION, nonce: 7 })]);
}

#[test]
fn frames_survive_any_fragmentation() {
    let stream = [hello(), request(b"one"), request(b""), request(&[5; 300])].concat();
    for chunk in 1..stream.len() {
        let mut decoder = Decoder::new();
        let mut payloads = Vec::new();
        for part in stream.chunks(chunk) {
            push(&mut decoder, part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                payloads.push((frame.header, frame.payload.to_vec()));
            }
        }
        let header = Header { kind: kind::REQUEST, share: 3, slot: Some(2), data: 9 };
        assert_eq!(payloads[1..], [(header, b"one".to_vec()), (header, Vec::new()), (header, vec![5; 300])]);
        assert!(!decoder.is_mid_frame());
    }
}

#[test]
fn the_largest_frame_fits_and_its_memory_is_given_back() {
    let mut decoder = Decoder::new();
    push(&mut decoder, &hello());
    assert!(decoder.next_frame().unwrap().is_some());
    let large = vec![1; MAX_PAYLOAD];
    let bytes = request(&large);
    for part in bytes.chunks(100_000) {
        assert_eq!(decoder.next_frame(), Ok(None));
        push(&mut decoder, part);
    }
    assert_eq!(decoder.next_frame().unwrap().unwrap().payload, large);
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.space().len() <= 64 * 1024);
}

#[test]
fn an_overlong_frame_is_an_error_before_its_payload_is_stored() {
    let mut decoder = Decoder::new();
    push(&mut decoder, &hello());
    assert!(decoder.next_frame().unwrap().is_some());
    let mut long = request(b"");
    long[..4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    push(&mut decoder, &long);
    assert_eq!(decoder.next_frame(), Err(FilesError::TooLong { kind: kind::REQUEST, len: 0x7fff_ffff }));
    assert_eq!(decoder.next_frame(), Ok(None));
    push(&mut decoder, &hello());
    assert_eq!(decoder.next_frame().unwrap().map(|frame| frame.header.kind), Some(kind::HELLO));
}

#[test]
fn a_decoder_out_of_step_finds_the_next_hello_in_what_it_already_has() {
    let mut decoder = Decoder::new();
    push(&mut decoder, &[hello(), request(b"old"), hello()].concat());
    assert!(decoder.next_frame().unwrap().is_some());
    decoder.resynchronise();
    assert_eq!(decoder.next_frame().unwrap().map(|frame| frame.header.kind), Some(kind::HELLO));
    assert_eq!(decoder.next_frame(), Ok(None));
}

#[test]
fn slots_survive_the_wire_and_impossible_ones_are_refused() {
    let slots = Slots { size: 8192, pages: (0..6).map(|page| page << 20).collect() };
    assert_eq!(slots.count(), 3);
    let mut bytes = Vec::new();
    slots.encode(&mut bytes);
    let payload = &bytes[HEADER_LEN..];
    assert_eq!(Slots::parse(payload), Ok(slots));
    let with = |at: usize, byte: u8| {
        let mut wrong = payload.to_vec();
        wrong[at] = byte;
        wrong
    };
    let wrong = [with(0, 1), with(1, 0), with(1, 16), with(3, 0x70), with(4, 4), with(8, 1), payload[..50].to_vec()];
    for payload in &wrong {
        assert_eq!(Slots::parse(payload), Err(FilesError::Malformed("SLOTS")), "{payload:?}");
    }
    assert!(Slots::parse(&[]).is_err() && Hello::parse(b"").is_err() && UsableSlots::parse(&[1]).is_err());
    let mut bytes = Vec::new();
    UsableSlots(5).encode(&mut bytes);
    assert_eq!(UsableSlots::parse(&bytes[HEADER_LEN..]), Ok(UsableSlots(5)));
}

/// An INIT as a kernel with this version sends it.
fn init(major: u32, minor: u32, flags: u64) -> Vec<u8> {
    let mut bytes = vec![0; fuse::IN_HEADER];
    bytes[4..8].copy_from_slice(&fuse::op::INIT.to_le_bytes());
    bytes[8..16].copy_from_slice(&77_u64.to_le_bytes());
    for word in [major, minor, 128 * 1024, flags as u32, (flags >> 32) as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.resize(fuse::IN_HEADER + 64, 0);
    bytes
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes[fuse::OUT_HEADER + 4 * index..][..4].try_into().unwrap())
}

#[test]
fn a_kernel_gets_only_flags_that_it_offers() {
    let new = init_reply(&init(7, 45, u64::MAX)).unwrap();
    assert_eq!((new.len(), word(&new, 0), word(&new, 1)), (80, 7, fuse::MINOR));
    assert_eq!(&new[..4], 80_u32.to_le_bytes());
    assert_eq!(&new[8..16], 77_u64.to_le_bytes());
    let flags = u64::from(word(&new, 3));
    assert_ne!(flags & fuse::init::HANDLE_KILLPRIV_V2, 0);
    assert_eq!(word(&new, 8), 1 << 4, "appending files can be mapped");
    assert_eq!(flags & (1 << 16 | 1 << 20), 0, "neither write-back nor POSIX ACLs");
    assert_eq!((word(&new, 5), word(&new, 7)), (MAX_DATA as u32, 256));
    let old = init_reply(&init(7, 17, fuse::init::ASYNC_READ | fuse::init::BIG_WRITES)).unwrap();
    assert_eq!((old.len(), word(&old, 1)), (fuse::OUT_HEADER + 24, 17));
    assert_eq!(u64::from(word(&old, 3)), fuse::init::ASYNC_READ | fuse::init::BIG_WRITES);
}

#[test]
fn a_first_request_that_cannot_be_answered_is_an_error() {
    assert_eq!(init_reply(&init(7, 11, 0)), Err(InitError::Version { major: 7, minor: 11 }));
    assert_eq!(init_reply(&init(8, 0, 0)).unwrap().len(), fuse::OUT_HEADER + 8);
    assert_eq!(init_reply(&[0; 40]), Err(InitError::NotInit));
    assert_eq!(init_reply(&init(7, 40, 0)[..50]), Err(InitError::NotInit));
    assert_eq!(init_reply(&[]), Err(InitError::NotInit));
}

/// A request about a node, as the kernel writes it.
fn fuse(op: u32, unique: u64, node: u64, words: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; IN_HEADER];
    bytes[4..8].copy_from_slice(&op.to_le_bytes());
    bytes[8..16].copy_from_slice(&unique.to_le_bytes());
    bytes[16..24].copy_from_slice(&node.to_le_bytes());
    words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
    bytes
}

/// An entry with a name of five bytes, which is 160 bytes long.
fn entry(node: u64, next: u64) -> Vec<u8> {
    let mut bytes = vec![0; 160];
    bytes[..8].copy_from_slice(&node.to_le_bytes());
    bytes[136..144].copy_from_slice(&next.to_le_bytes());
    bytes[144] = 5;
    bytes
}

/// A store that is told with the reply to the request 1 that the directory 11 is open and lists the nodes 21 and 22.
fn told(store: &mut Store, now: Instant) {
    let mut body = Vec::new();
    Opened { node: 11, handle: 8, is_end: true }.encode(&[entry(21, 100), entry(22, 200)].concat(), &mut body);
    store.learn(&Ahead { unique: 1, handle: 7, position: 0, what: What::Opened }, &body, now);
    store.answered(1);
}

fn walked(now: Instant) -> Store {
    let mut store = Store::default();
    store.answer(&fuse(op::OPENDIR, 1, 10, &[0]), now);
    told(&mut store, now);
    store
}

/// The handle, if the directory is open already.
fn opendir(store: &mut Store, node: u64, now: Instant) -> Option<u64> {
    store.answer(&fuse(op::OPENDIR, 5, node, &[0]), now).map(|reply| long(&reply, OUT_HEADER))
}

/// It closes the directory 11 and forgets what was listed there.
#[track_caller]
fn closes(store: &mut Store) {
    let asides = store.asides();
    assert_eq!(asides.len(), 2);
    assert_eq!((word_at(&asides[0], 4), long(&asides[0], IN_HEADER)), (op::RELEASEDIR, 8));
    assert_eq!((word_at(&asides[1], 4), word_at(&asides[1], IN_HEADER)), (op::BATCH_FORGET, 2));
    assert_eq!(opendir(store, 11, Instant::now()), None);
}

#[test]
fn who_walks_a_tree_opens_a_directory_without_the_host_and_closes_it_with_it() {
    let now = Instant::now();
    let mut store = walked(now);
    assert_eq!(opendir(&mut store, 12, now), None);
    assert_eq!(opendir(&mut store, 11, now), Some(8));
    assert_eq!(opendir(&mut store, 11, now), None, "the next one sees it as it is then");
    let mut listed = |position, size| {
        let reply = store.answer(&fuse(op::READDIRPLUS, 2, 11, &[8, position, size]), now)?;
        Some(reply[OUT_HEADER..].chunks(160).map(|entry| long(entry, 0)).collect::<Vec<_>>())
    };
    assert_eq!((listed(0, 4096), listed(200, 4096)), (Some(vec![21, 22]), Some(vec![])));
    assert_eq!(store.answer(&fuse(op::RELEASEDIR, 3, 11, &[8]), now), None, "the host closes it");
    assert!(store.asides().is_empty());
}

#[test]
fn a_directory_that_nobody_opens_is_closed_and_what_it_listed_is_forgotten() {
    let (now, late) = (Instant::now(), Duration::from_millis(200));
    let mut store = walked(now);
    store.answer(&fuse(op::UNLINK, 3, 10, &[0]), now);
    closes(&mut store);
    let mut store = walked(now);
    store.drop_all();
    closes(&mut store);
    let mut store = walked(now);
    assert!(store.expire(now) && !store.expire(now + late));
    closes(&mut store);
    let mut store = walked(now);
    assert_eq!(opendir(&mut store, 11, now + late), None);
    closes(&mut store);
    let mut store = Store::default();
    told(&mut store, now);
    closes(&mut store);
}
