//! A guest that lies.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto::files::fuse::{ROOT, op};
use proto::files::{Frame, HEADER_LEN, Header, Hello, Slots, kind};

use super::Test;
use super::processes::Flock;
use super::raw::{Raw, request, string, u64_at, words};

pub const TESTS: &[Test] = &[
    ("no_name_leads_out_of_a_share", no_name_leads_out_of_a_share),
    ("forged_nodes_and_handles_are_refused", forged_nodes_and_handles_are_refused),
    ("a_directory_swapped_for_a_link_is_never_left", a_directory_swapped_for_a_link_is_never_left),
    ("what_is_no_file_is_not_opened_on_the_host", what_is_no_file_is_not_opened_on_the_host),
    ("forgetting_too_much_harms_nobody", forgetting_too_much_harms_nobody),
    ("interrupts_of_nothing_are_ignored", interrupts_of_nothing_are_ignored),
    (
        "a_thousand_waits_for_locks_hold_nobody_up_and_all_can_end",
        a_thousand_waits_for_locks_hold_nobody_up_and_all_can_end,
    ),
    ("opens_and_lookups_without_end_are_bounded", opens_and_lookups_without_end_are_bounded),
    ("slots_that_nobody_gave_are_refused", slots_that_nobody_gave_are_refused),
    ("requests_of_any_length_and_kind_are_answered", requests_of_any_length_and_kind_are_answered),
    ("nonsense_on_the_port_ends_the_server", nonsense_on_the_port_ends_the_server),
    ("a_share_that_hangs_holds_up_itself_only", a_share_that_hangs_holds_up_itself_only),
];

/// A directory with a share, a second share, and a secret beside them.
struct Place {
    _dir: tempfile::TempDir,
    one: std::path::PathBuf,
    two: std::path::PathBuf,
    outside: std::path::PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (one, two, outside) = (path("one"), path("two"), path("outside"));
        [&one, &two, &outside].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        fs::write(outside.join("secret"), b"secret").unwrap();
        fs::write(one.join("file"), b"of one").unwrap();
        fs::write(two.join("other"), b"of two").unwrap();
        Self { one, two, outside, _dir: dir }
    }

    fn raw(&self) -> Raw {
        Raw::new(&[&self.one, &self.two])
    }
}

fn no_name_leads_out_of_a_share() {
    let place = Place::new();
    symlink(&place.outside, place.one.join("link")).unwrap();
    let mut raw = place.raw();
    for name in ["..", ".", "", "/", "../outside", "a/../../outside", "/etc", "file/", "./file"] {
        assert_eq!(raw.lookup(0, ROOT, name), Err(libc::EINVAL), "{name:?}");
        for (op, head) in
            [(op::MKDIR, 8), (op::MKNOD, 16), (op::CREATE, 16), (op::UNLINK, 0), (op::RMDIR, 0), (op::SYMLINK, 0)]
        {
            let body = [vec![0; head], string(name), string("x")].concat();
            assert_eq!(raw.ask(0, op, ROOT, &body).0, libc::EINVAL, "{op} {name:?}");
        }
        let renames = [string("file"), string(name)].concat();
        assert_eq!(raw.ask(0, op::RENAME, ROOT, &[words(&[ROOT]), renames].concat()).0, libc::EINVAL);
    }
    let link = raw.lookup(0, ROOT, "link").unwrap();
    assert_eq!(raw.lookup(0, link, "secret"), Err(libc::ENOTDIR));
    assert_eq!(raw.open(0, link, libc::O_RDONLY), Err(libc::ELOOP));
    assert_eq!(raw.ask(0, op::OPENDIR, link, &[0; 8]).0, libc::ENOTDIR);
    // CREATE of a name that is a link does not follow it.
    let body = [&(libc::O_RDWR as u32).to_le_bytes()[..], &[0; 12], b"link\0"].concat();
    assert_eq!(raw.ask(0, op::CREATE, ROOT, &body).0, libc::ELOOP);
    assert_eq!(fs::read_dir(&place.outside).unwrap().count(), 1);
}

fn forged_nodes_and_handles_are_refused() {
    let place = Place::new();
    let mut raw = place.raw();
    let node = raw.lookup(0, ROOT, "file").unwrap();
    let handle = raw.open(0, node, libc::O_RDWR).unwrap();
    let other = raw.lookup(1, ROOT, "other").unwrap();
    let read = |handle: u64| words(&[handle, 0, 100, 0, 0]);
    assert_eq!(raw.ask(0, op::READ, node, &read(handle)), (0, b"of one".to_vec()));
    // The handle of a share means nothing in another, nor for another node.
    assert_eq!(raw.ask(1, op::READ, other, &read(handle)).0, libc::EBADF);
    assert_eq!(raw.ask(0, op::READ, ROOT, &read(handle)).0, libc::EBADF);
    for forged in [0, handle + 1, u64::MAX, 0x7fff_ffff_ffff] {
        assert_eq!(raw.ask(0, op::READ, node, &read(forged)).0, libc::EBADF);
        raw.post(0, op::RELEASE, node, &words(&[forged, 0, 0]));
        raw.post(0, op::RELEASEDIR, node, &words(&[forged, 0, 0]));
    }
    assert_eq!(raw.ask(0, op::READ, node, &read(handle)).0, 0, "it is open still");
    for forged in [0, node + 1, u64::MAX, u64::MAX / 2] {
        assert_eq!(raw.ask(0, op::GETATTR, forged, &words(&[0, 0])).0, libc::ESTALE);
        assert_eq!(raw.lookup(0, forged, "file"), Err(libc::ESTALE));
        assert_eq!(raw.open(0, forged, libc::O_RDONLY), Err(libc::ESTALE));
    }
    assert_eq!(raw.ask(9, op::GETATTR, ROOT, &words(&[0, 0])).0, libc::EBUSY, "a share that is none");
    // Closed twice.
    raw.post(0, op::RELEASE, node, &words(&[handle, 0, 0]));
    raw.post(0, op::RELEASE, node, &words(&[handle, 0, 0]));
    assert_eq!(raw.ask(0, op::READ, node, &read(handle)).0, libc::EBADF);
}

fn a_directory_swapped_for_a_link_is_never_left() {
    let place = Place::new();
    fs::create_dir_all(place.one.join("dir")).unwrap();
    fs::write(place.one.join("dir/secret"), b"inside").unwrap();
    let mut raw = place.raw();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                fs::rename(place.one.join("dir"), place.one.join("away")).unwrap();
                symlink(&place.outside, place.one.join("dir")).unwrap();
                fs::remove_file(place.one.join("dir")).unwrap();
                fs::rename(place.one.join("away"), place.one.join("dir")).unwrap();
            }
        });
        let (mut found, end) = (0, Instant::now() + Duration::from_secs(20));
        while found < 300 && Instant::now() < end {
            let Ok(dir) = raw.lookup(0, ROOT, "dir") else { continue };
            let Ok(node) = raw.lookup(0, dir, "secret") else { continue };
            let Ok(handle) = raw.open(0, node, libc::O_RDONLY) else { continue };
            assert_eq!(raw.ask(0, op::READ, node, &words(&[handle, 0, 100, 0, 0])).1, b"inside");
            raw.post(0, op::RELEASE, node, &words(&[handle, 0, 0]));
            found += 1;
        }
        over.store(true, Ordering::Relaxed);
        assert!(found > 0);
    });
}

fn what_is_no_file_is_not_opened_on_the_host() {
    let place = Place::new();
    nix::unistd::mkfifo(&place.one.join("fifo"), nix::sys::stat::Mode::from_bits_retain(0o600)).unwrap();
    let device = nix::sys::stat::SFlag::S_IFCHR;
    nix::sys::stat::mknod(
        &place.one.join("null"),
        device,
        nix::sys::stat::Mode::from_bits_retain(0o666),
        libc::makedev(1, 3),
    )
    .unwrap();
    let mut raw = place.raw();
    for name in ["fifo", "null"] {
        let node = raw.lookup(0, ROOT, name).unwrap();
        assert_eq!(raw.open(0, node, libc::O_RDONLY), Err(libc::ENXIO), "{name}");
        let create = [&(libc::O_RDWR as u32).to_le_bytes()[..], &[0; 12], &string(name)].concat();
        assert_eq!(raw.ask(0, op::CREATE, ROOT, &create).0, libc::ENXIO, "{name}");
        assert_eq!(raw.ask(0, op::SETATTR, node, &[words(&[8, 0, 5]), vec![0; 64]].concat()).0, libc::EINVAL, "{name}");
    }
    assert_eq!(raw.ask(0, op::OPENDIR, ROOT, &[0; 8]).0, 0);
    assert_eq!(raw.open(0, ROOT, libc::O_RDONLY), Err(libc::ENXIO));
}

fn forgetting_too_much_harms_nobody() {
    let place = Place::new();
    let mut raw = place.raw();
    let node = raw.lookup(0, ROOT, "file").unwrap();
    let handle = raw.open(0, node, libc::O_RDONLY).unwrap();
    raw.post(0, op::FORGET, node, &words(&[u64::MAX]));
    raw.post(0, op::FORGET, node, &words(&[u64::MAX]));
    raw.post(0, op::FORGET, ROOT, &words(&[u64::MAX]));
    // The count says more than there is.
    raw.post(0, op::BATCH_FORGET, 0, &words(&[0xffff_ffff, ROOT, 9, node, 9]));
    raw.post(7, op::FORGET, ROOT, &words(&[1]));
    assert_eq!(raw.ask(0, op::GETATTR, node, &words(&[0, 0])).0, libc::ESTALE);
    // What is open stays open.
    assert_eq!(raw.ask(0, op::READ, node, &words(&[handle, 0, 100, 0, 0])), (0, b"of one".to_vec()));
    assert!(raw.lookup(0, ROOT, "file").unwrap() != node, "numbers are never used again");
}

fn interrupts_of_nothing_are_ignored() {
    let place = Place::new();
    let mut raw = place.raw();
    for unique in 0..1000 {
        raw.post(0, op::INTERRUPT, 0, &words(&[unique]));
        raw.post(3, op::INTERRUPT, 0, &words(&[unique]));
    }
    raw.post(0, op::INTERRUPT, 0, b"");
    assert_eq!(raw.ask(0, op::GETATTR, ROOT, &words(&[0, 0])).0, 0);
}

fn a_thousand_waits_for_locks_hold_nobody_up_and_all_can_end() {
    const WAITS: u64 = 1200;
    let place = Place::new();
    let held = fs::File::options().write(true).open(place.one.join("file")).unwrap();
    held.exclusive().unwrap();
    let mut raw = place.raw();
    let node = raw.lookup(0, ROOT, "file").unwrap();
    let handle = raw.open(0, node, libc::O_RDWR).unwrap();
    // F_WRLCK of the whole file, by flock.
    let lock = words(&[handle, 1, 0, i64::MAX as u64, 1, 1]);
    let waits: Vec<u64> = (0..WAITS).map(|_| raw.post(0, op::SETLKW, node, &lock)).collect();
    let mut open: std::collections::BTreeSet<u64> = waits.iter().copied().collect();
    let asked = raw.post(0, op::GETATTR, ROOT, &words(&[0, 0]));
    let mut refused = 0;
    let mut answered = false;
    while !answered {
        let (_, payload) = raw.receive().unwrap();
        let unique = u64_at(&payload, 8);
        answered = unique == asked;
        if open.remove(&unique) {
            assert_eq!(&payload[4..8], (-libc::ENOLCK).to_le_bytes());
            refused += 1;
        }
    }
    for unique in &waits {
        raw.post(0, op::INTERRUPT, 0, &words(&[*unique]));
    }
    while !open.is_empty() {
        let (_, payload) = raw.receive().unwrap();
        if open.remove(&u64_at(&payload, 8)) {
            let error = -i32::from_le_bytes(payload[4..8].try_into().unwrap());
            assert!([libc::EINTR, libc::ENOLCK].contains(&error), "{error}");
            refused += u64::from(error == libc::ENOLCK);
        }
    }
    assert!((1..WAITS / 2).contains(&refused), "{refused} of {WAITS} refused");
}

fn opens_and_lookups_without_end_are_bounded() {
    let place = Place::new();
    let mut raw = place.raw();
    let node = raw.lookup(0, ROOT, "file").unwrap();
    let mut limit = None;
    for count in 0..2_000_000 {
        if let Err(error) = raw.open(0, node, libc::O_RDONLY) {
            assert!([libc::ENFILE, libc::EMFILE].contains(&error), "{error}");
            limit = Some(count);
            break;
        }
        if count == 20_000 {
            break;
        }
    }
    assert!(limit.is_none_or(|limit| limit > 100), "{limit:?}");
    // Other requests still have descriptors.
    assert!(raw.lookup(1, ROOT, "other").is_ok());
    (0..20_000).for_each(|_| assert_eq!(raw.lookup(0, ROOT, "file"), Ok(node)));
    assert!(raw.memory() < 64 << 20, "{} bytes", raw.memory());
}

fn slots_that_nobody_gave_are_refused() {
    let place = Place::new();
    let mut raw = place.raw();
    let node = raw.lookup(0, ROOT, "file").unwrap();
    let handle = raw.open(0, node, libc::O_RDWR).unwrap();
    let write = words(&[handle, 0, 8, 0, 0]);
    for (slot, data) in [(0, 8), (77, 8), (0, u32::MAX), (u32::MAX - 1, 1 << 20)] {
        let header = Header { kind: kind::REQUEST, share: 0, slot: Some(slot), data };
        raw.send(&request(header, op::WRITE, 999, node, &write));
        assert!([libc::EIO, libc::EINVAL].contains(&raw.reply(999).0));
    }
    // A reply that should go to a slot that is none comes inline.
    let header = Header { kind: kind::REQUEST, share: 0, slot: Some(3), data: 0 };
    raw.send(&request(header, op::READ, 1001, node, &words(&[handle, 0, 65_536, 0, 0])));
    assert_eq!(raw.reply(1001), (0, b"of one".to_vec()));
    assert_eq!(fs::read(place.one.join("file")).unwrap(), b"of one");
}

fn requests_of_any_length_and_kind_are_answered() {
    let place = Place::new();
    let mut raw = place.raw();
    let silent = [op::FORGET, op::BATCH_FORGET, op::INTERRUPT, op::DESTROY, op::RELEASE, op::RELEASEDIR];
    for op in (0..60).chain([4096, u32::MAX]).filter(|op| !silent.contains(op)) {
        for len in [0, 1, 7, 8, 16, 23, 24, 39, 40, 47, 88, 200, 70_000] {
            for fill in [0, 1, 0xff] {
                let _ = raw.ask(0, op, ROOT, &vec![fill; len]);
            }
        }
    }
    // A frame too short for a request has nobody who could be answered.
    let mut frame = Vec::new();
    Frame { header: Header { kind: kind::REQUEST, ..Header::default() }, payload: &[1; 39] }.encode(&mut frame);
    raw.send(&frame);
    assert_eq!(raw.ask(0, op::GETATTR, ROOT, &words(&[0, 0])).0, 0);
    assert_eq!(fs::read_dir(&place.outside).unwrap().count(), 1);
}

fn nonsense_on_the_port_ends_the_server() {
    let ends = |bytes: &[u8]| {
        let place = Place::new();
        let mut raw = place.raw();
        raw.send(bytes);
        assert!(raw.receive().is_none(), "{bytes:?}");
        assert_eq!(raw.server.wait().unwrap().code(), Some(1));
    };
    let mut long = Header { kind: kind::REQUEST, ..Header::default() }.encode(0);
    long[3] = 0xff;
    ends(&long);
    ends(&[0; HEADER_LEN]);
    let mut slots = Vec::new();
    Slots { size: 4096, pages: vec![0] }.encode(&mut slots);
    slots[HEADER_LEN] = 1;
    ends(&slots);
    let mut other = Vec::new();
    Hello { version: 99, nonce: 1 }.encode(kind::HELLO, &mut other);
    ends(&other);
}

fn a_share_that_hangs_holds_up_itself_only() {
    // A directory that is a mount of ours whose server does not answer hangs like a file server that is gone.
    let place = Place::new();
    let mut raw = {
        let held = super::mounted::Mounted::directory(&place.outside);
        let mut raw = Raw::new(&[&place.one, &held.path]);
        held.stop_server();
        let asked: Vec<u64> = (0..2000).map(|_| raw.post(1, op::LOOKUP, ROOT, b"secret\0")).collect();
        for _ in 0..100 {
            assert_eq!(raw.ask(0, op::LOOKUP, ROOT, b"file\0").0, 0);
        }
        held.continue_server();
        for _ in asked {
            assert!(raw.receive().is_some());
        }
        raw
    };
    assert_eq!(raw.ask(0, op::LOOKUP, ROOT, b"file\0").0, 0);
}
