//! Reading, writing, and what a file goes through while it is open.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::Test;
use super::mounted::Options;
use super::pair::{Pair, errno, number};
use super::processes::Mapping;

pub const TESTS: &[Test] = &[
    ("what_is_written_is_read_again_of_any_length", what_is_written_is_read_again_of_any_length),
    ("an_unlinked_open_file_is_used_like_any_other", an_unlinked_open_file_is_used_like_any_other),
    ("a_file_without_a_name_can_get_one", a_file_without_a_name_can_get_one),
    ("space_is_reserved_and_holes_are_made_and_found", space_is_reserved_and_holes_are_made_and_found),
    ("a_sparse_file_of_more_than_4_gib_is_one", a_sparse_file_of_more_than_4_gib_is_one),
    ("a_shared_mapping_reaches_the_file", a_shared_mapping_reaches_the_file),
    ("a_file_is_copied_within_the_host", a_file_is_copied_within_the_host),
    ("errors_of_the_host_arrive_as_they_are", errors_of_the_host_arrive_as_they_are),
    ("a_file_system_that_is_full_says_so", a_file_system_that_is_full_says_so),
];

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

fn what_is_written_is_read_again_of_any_length() {
    for slots in [true, false] {
        let pair = Pair::with(Options { slots, ..Options::default() });
        for len in [0, 1, 4095, 4096, 4097, 65_536, 1_000_003, 5 << 20] {
            let name = format!("f{len}");
            fs::write(pair.guest().join(&name), pattern(len, 7)).unwrap();
            assert!(fs::read(pair.host.join(&name)).unwrap() == pattern(len, 7), "{len} bytes written, slots: {slots}");
            fs::write(pair.host.join(&name), pattern(len, 9)).unwrap();
            assert!(fs::read(pair.guest().join(&name)).unwrap() == pattern(len, 9), "{len} bytes read, slots: {slots}");
        }
    }
}

fn an_unlinked_open_file_is_used_like_any_other() {
    let pair = Pair::new();
    pair.both(|dir| {
        let path = dir.join("temporary");
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all(b"0123456789").unwrap();
        file.set_len(5).unwrap();
        let stat = file.metadata().unwrap();
        let again = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mut again = again.unwrap();
        again.seek(SeekFrom::End(0)).unwrap();
        again.write_all(b"xyz").unwrap();
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_retain(0o640)).unwrap();
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        (stat.len(), stat.nlink(), file.metadata().unwrap().mode(), text)
    });
}

fn a_file_without_a_name_can_get_one() {
    let pair = Pair::new();
    pair.both(|dir| {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        let opened = options.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(dir);
        // Kernels before 6.2 have no such request.
        let Ok(mut file) = opened else { return None };
        file.write_all(b"first").unwrap();
        let before = file.metadata().unwrap().nlink();
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
        nix::unistd::linkat(nix::fcntl::AT_FDCWD, from.as_str(), nix::fcntl::AT_FDCWD, &dir.join("named"), flags)
            .unwrap();
        Some((before, fs::read(dir.join("named")).unwrap(), fs::metadata(dir.join("named")).unwrap().mode()))
    });
}

fn space_is_reserved_and_holes_are_made_and_found() {
    let pair = Pair::new();
    pair.both(|dir| {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("f")).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
        let reserved = file.metadata().unwrap();
        file.write_all_at(&pattern(1 << 20, 3), 0).unwrap();
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, hole, 65_536, 131_072).unwrap();
        let mut byte = [9];
        file.read_exact_at(&mut byte, 70_000).unwrap();
        let find = |at, whence| lseek(&file, at, whence).unwrap();
        let found = (
            find(0, Whence::SeekHole),
            find(65_536, Whence::SeekData),
            number(lseek(&file, 2 << 20, Whence::SeekData)),
        );
        let negative = number(fallocate(&file, FallocateFlags::empty(), 0, 0));
        (reserved.len(), reserved.blocks(), byte, found, negative, file.metadata().unwrap().len())
    });
}

fn a_sparse_file_of_more_than_4_gib_is_one() {
    let pair = Pair::new();
    pair.both(|dir| {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("f")).unwrap();
        file.write_all_at(b"end", (5 << 30) - 3).unwrap();
        file.set_len(6 << 30).unwrap();
        let mut bytes = [0; 6];
        file.read_exact_at(&mut bytes, (5 << 30) - 6).unwrap();
        let stat = file.metadata().unwrap();
        (stat.len(), stat.blocks() < 64, bytes, lseek(&file, 0, Whence::SeekData).unwrap())
    });
}

fn a_shared_mapping_reaches_the_file() {
    let pair = Pair::new();
    let path = pair.guest().join("f");
    fs::write(&path, vec![b'.'; 8192]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mapping = Mapping::new(&file, 8192).unwrap();
    mapping.write(4090, b"across a page");
    mapping.sync();
    assert_eq!(&fs::read(pair.host.join("f")).unwrap()[4088..4105], b"..across a page..");
    drop((mapping, file));
    // Also for a file that is open for appending only: what a mapping has changed is not appended.
    let appends = File::options().read(true).append(true).open(&path).unwrap();
    let mapping = Mapping::new(&appends, 8192).unwrap();
    mapping.write(0, b"start");
    mapping.sync();
    (&appends).write_all(b"end").unwrap();
    let all = fs::read(pair.host.join("f")).unwrap();
    assert_eq!((all.len(), &all[..7], &all[8190..]), (8195, &b"start.."[..], &b"..end"[..]));
}

fn a_file_is_copied_within_the_host() {
    let pair = Pair::new();
    pair.both(|dir| {
        fs::write(dir.join("from"), pattern(300_000, 5)).unwrap();
        let copied = fs::copy(dir.join("from"), dir.join("to")).unwrap();
        (copied, fs::read(dir.join("to")).unwrap() == pattern(300_000, 5))
    });
}

fn errors_of_the_host_arrive_as_they_are() {
    let pair = Pair::new();
    pair.both(|dir| {
        fs::create_dir_all(dir.join("full/inner")).unwrap();
        fs::write(dir.join("file"), b"").unwrap();
        let open = |path: &Path| errno(File::open(path));
        let missing = (open(&dir.join("none")), open(&dir.join("file/below")), errno(fs::remove_dir(dir.join("full"))));
        let kinds = (errno(fs::remove_dir(dir.join("file"))), errno(fs::remove_file(dir.join("full"))));
        let there = (errno(fs::create_dir(dir.join("full"))), errno(File::create_new(dir.join("file"))));
        let up = errno(fs::rename(dir.join("full"), dir.join("full/inner/below")));
        let devices = errno(File::open(dir.join("full")).and_then(|dir| dir.read_at(&mut [0], 0)));
        (missing, kinds, there, up, devices, errno(fs::write(dir.join("full"), b"")))
    });
}

fn a_file_system_that_is_full_says_so() {
    let place = tempfile::tempdir().unwrap();
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("small"), place.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
    let mounted = super::mounted::Mounted::directory(place.path());
    let written = fs::write(mounted.path.join("f"), vec![1; 1 << 20]);
    assert_eq!(errno(written), libc::ENOSPC);
    let stat = nix::sys::statvfs::statvfs(&mounted.path).unwrap();
    assert_eq!((stat.blocks() * stat.fragment_size(), stat.blocks_available()), (65_536, 0));
}
