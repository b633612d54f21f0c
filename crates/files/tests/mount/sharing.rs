//! What guests and the host see of each other's changes.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::Test;
use super::mounted::Mounted;
use super::pair::{Pair, errno};
use super::times::{saw, soon, undisturbed};

pub const TESTS: &[Test] = &[
    ("appending_from_two_guests_and_the_host_overwrites_nothing", appending_overwrites_nothing),
    ("what_was_closed_elsewhere_is_seen_at_the_next_open", what_was_closed_elsewhere_is_seen_at_the_next_open),
    ("what_changes_elsewhere_is_seen_after_the_attributes_time", what_changes_elsewhere_is_seen_in_time),
    ("a_change_in_the_same_instant_is_seen_too", a_change_in_the_same_instant_is_seen_too),
    ("what_is_written_is_on_the_host_at_once", what_is_written_is_on_the_host_at_once),
    ("who_reads_beside_a_writer_sees_each_write", who_reads_beside_a_writer_sees_each_write),
    ("data_that_did_not_change_is_read_once", data_that_did_not_change_is_read_once),
    ("what_was_sent_ahead_is_not_believed_after_a_change", what_was_sent_ahead_is_not_believed_after_a_change),
    ("a_content_is_not_older_than_a_moment", a_content_is_not_older_than_a_moment),
    ("a_file_that_was_replaced_on_the_host_is_the_new_one", a_file_that_was_replaced_on_the_host_is_the_new_one),
    ("a_guest_that_ends_takes_its_server_with_it", a_guest_that_ends_takes_its_server_with_it),
];

fn appending_overwrites_nothing() {
    const LINES: usize = 300;
    let pair = Pair::new();
    let second = Mounted::directory(&pair.host);
    let places = [pair.guest(), &second.path, &pair.host];
    let writers = places.iter().enumerate().map(|(number, dir)| {
        let path = dir.join("log");
        std::thread::spawn(move || {
            // One opens for reading too.
            let mut options = File::options();
            options.append(true).create(true).read(number == 1);
            let mut file = options.open(&path).unwrap();
            for line in 0..LINES {
                file.write_all(format!("{number} {line} {}\n", "x".repeat(line % 90)).as_bytes()).unwrap();
            }
        })
    });
    writers.collect::<Vec<_>>().into_iter().for_each(|writer| writer.join().unwrap());
    let text = fs::read_to_string(pair.host.join("log")).unwrap();
    for number in 0..3 {
        let lines = text.lines().filter(|line| line.starts_with(&format!("{number} ")));
        let expected = (0..LINES).map(|line| format!("{number} {line} {}", "x".repeat(line % 90)));
        assert!(lines.eq(expected), "lines of writer {number} are lost, cut or out of order");
    }
    // The flag can also be set on a file that is open already.
    let file = File::options().write(true).open(pair.guest().join("log")).unwrap();
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND);
    nix::fcntl::fcntl(&file, flags).unwrap();
    File::options().append(true).open(pair.host.join("log")).unwrap().write_all(b"host").unwrap();
    (&file).write_all(b"guest").unwrap();
    let appended = fs::read_to_string(pair.host.join("log")).unwrap();
    assert!(appended.len() == text.len() + 9 && appended.ends_with("hostguest"));
}

fn what_was_closed_elsewhere_is_seen_at_the_next_open() {
    let pair = Pair::new();
    let second = Mounted::directory(&pair.host);
    let (host, guest, other) = (pair.host.join("f"), pair.guest().join("f"), second.path.join("f"));
    for round in 0..50 {
        // Alternating lengths, and the same one twice.
        let text = format!("{round} {}", "x".repeat(round / 2 % 5 * 3000));
        match round % 3 {
            0 => fs::write(&host, &text).unwrap(),
            1 => fs::write(&guest, &text).unwrap(),
            _ => fs::write(&other, &text).unwrap(),
        }
        for path in [&guest, &other, &host] {
            let mut file = File::open(path).unwrap();
            let mut found = String::new();
            let len = file.seek(SeekFrom::End(0)).unwrap();
            file.rewind().unwrap();
            file.read_to_string(&mut found).unwrap();
            assert!(found == text && len == text.len() as u64, "round {round} {}: {len}", path.display());
        }
    }
}

fn what_changes_elsewhere_is_seen_in_time() {
    let pair = Pair::new();
    let (host, guest) = (pair.host.join("f"), pair.guest().join("f"));
    fs::write(&host, b"old").unwrap();
    let open = File::open(&guest).unwrap();
    let read = || {
        let mut bytes = [0; 8];
        let len = open.read_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    assert_eq!(read(), "old");
    fs::write(&host, b"newer").unwrap();
    assert!(soon(|| read() == "newer"));
    assert_eq!(errno(fs::metadata(pair.guest().join("none"))), libc::ENOENT);
    fs::write(pair.host.join("none"), b"").unwrap();
    assert_eq!(errno(fs::metadata(pair.guest().join("none"))), 0, "what was not there is asked for again");
    fs::remove_file(&host).unwrap();
    assert!(soon(|| errno(fs::metadata(&guest)) == libc::ENOENT));
}

fn what_was_sent_ahead_is_not_believed_after_a_change() {
    const FILES: usize = 200;
    for by_host in [true, false] {
        let pair = Pair::new();
        (0..FILES).for_each(|file| fs::write(pair.host.join(format!("f{file}")), b"old").unwrap());
        // Of what is sent the kernel asks for a part: the rest waits.
        let mut listing = fs::read_dir(pair.guest()).unwrap();
        let mut seen = vec![listing.next().unwrap().unwrap().file_name()];
        for file in 0..FILES {
            let dir = if by_host { &pair.host } else { pair.guest() };
            fs::write(dir.join(format!("f{file}")), format!("new {file}")).unwrap();
            if file % 2 == 0 {
                let text = fs::read_to_string(pair.guest().join(format!("f{file}"))).unwrap();
                assert_eq!(text, format!("new {file}"));
            }
        }
        seen.extend(listing.map(|entry| entry.unwrap().file_name()));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), FILES);
        for file in (0..FILES).filter(|file| !by_host || file % 2 == 0) {
            let expected = format!("new {file}");
            let path = pair.guest().join(format!("f{file}"));
            assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64, "{file}: it was known before");
            assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        }
    }
}

fn a_content_is_not_older_than_a_moment() {
    let pair = Pair::new();
    for round in 0..10 {
        fs::write(pair.host.join("f"), format!("old {round}")).unwrap();
        let mut file = File::open(pair.guest().join("f")).unwrap();
        fs::write(pair.host.join("f"), format!("new {round}")).unwrap();
        std::thread::sleep(Duration::from_millis(120));
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("new {round}"));
    }
}

fn a_change_in_the_same_instant_is_seen_too() {
    let pair = Pair::new();
    let (host, guest) = (pair.host.join("f"), pair.guest().join("f"));
    let time = std::time::SystemTime::now();
    for round in 0..40 {
        let text = format!("{round:04}");
        fs::write(&host, &text).unwrap();
        // The clock of a file system may stand still for a while.
        File::options().write(true).open(&host).unwrap().set_modified(time).unwrap();
        assert_eq!(fs::read_to_string(&guest).unwrap(), text);
    }
}

fn what_is_written_is_on_the_host_at_once() {
    let mut pair = Pair::new();
    let mut file = File::create(pair.guest().join("f")).unwrap();
    file.write_all(b"written").unwrap();
    assert_eq!(fs::read(pair.host.join("f")).unwrap(), b"written");
    pair.mounted.kill_server();
    assert_eq!(fs::read(pair.host.join("f")).unwrap(), b"written");
}

/// Data that is only written goes past the guest's memory. A reader has it there.
fn who_reads_beside_a_writer_sees_each_write() {
    let pair = Pair::new();
    let path = pair.guest().join("f");
    let sees_each = |reader: &File, writer: &File| {
        for round in 0..300 {
            let (text, mut seen) = (format!("{round:04}"), [0; 4]);
            writer.write_all_at(text.as_bytes(), 5000).unwrap();
            reader.read_exact_at(&mut seen, 5000).unwrap();
            assert_eq!(std::str::from_utf8(&seen), Ok(&*text));
        }
    };
    let first = File::create(&path).unwrap();
    first.write_all_at(&[b'-'; 10_000], 0).unwrap();
    let reader = File::open(&path).unwrap();
    sees_each(&reader, &first);
    let second = File::options().write(true).open(&path).unwrap();
    sees_each(&reader, &second);
    let both = File::options().read(true).write(true).open(&path).unwrap();
    sees_each(&both, &first);
    sees_each(&File::open(&path).unwrap(), &both);
    drop((first, second));
    sees_each(&reader, &File::options().write(true).open(&path).unwrap());
}

fn data_that_did_not_change_is_read_once() {
    let pair = Pair::new();
    let (host, guest) = (pair.host.join("f"), pair.guest().join("f"));
    fs::write(&host, vec![1; 1 << 20]).unwrap();
    let read_by_server = || {
        let io = fs::read_to_string(format!("/proc/{}/io", pair.mounted.server_pid())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let reads_again = || {
        let before = read_by_server();
        assert_eq!(fs::read(&guest).unwrap().len(), 1 << 20);
        read_by_server() - before >= 1 << 20
    };
    assert!(reads_again());
    assert!(soon(|| !reads_again()));
    undisturbed(|| {
        fs::write(&host, vec![2; 1 << 20]).unwrap();
        assert!(reads_again());
        saw(reads_again(), || "it was read too soon after its last change to be sure, and is not read again".into())
    });
}

fn a_file_that_was_replaced_on_the_host_is_the_new_one() {
    let pair = Pair::new();
    let (host, guest) = (pair.host.join("f"), pair.guest().join("f"));
    fs::write(&host, b"old").unwrap();
    let open = File::open(&guest).unwrap();
    fs::write(pair.host.join("g"), b"new one").unwrap();
    fs::rename(pair.host.join("g"), &host).unwrap();
    assert!(soon(|| fs::read(&guest).unwrap() == b"new one"));
    // Who has the old file open goes on with it.
    let mut bytes = [0; 3];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes, open.metadata().unwrap().len()), (b"old", 3));
    fs::remove_file(&host).unwrap();
    fs::create_dir(&host).unwrap();
    assert!(soon(|| fs::metadata(&guest).is_ok_and(|stat| stat.is_dir())));
}

fn a_guest_that_ends_takes_its_server_with_it() {
    let place = tempfile::tempdir().unwrap();
    let mounted = Mounted::directory(place.path());
    let pid = mounted.server_pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((field("NoNewPrivs:").as_str(), field("CapEff:").as_str()), ("1", "0000000000000000"));
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    assert_eq!(mounted.end_of_port(), Some(0));
}
