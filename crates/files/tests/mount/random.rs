//! Random operations on a file through a mount and on a plain file, compared after each; like fsx, with a tree beside it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};

use super::Test;
use super::mounted::Options;
use super::pair::{Pair, errno, number};
use super::processes::Mapping;

pub const TESTS: &[Test] = &[
    ("operations_on_a_file_leave_the_same_bytes", operations_on_a_file_leave_the_same_bytes),
    ("operations_on_a_tree_leave_the_same_tree", operations_on_a_tree_leave_the_same_tree),
];

/// Numbers that look random and are the same for the same seed.
#[derive(Clone)]
struct Numbers(u64);

impl Numbers {
    /// From the clock, or from the variable FILES_SEED.
    fn new() -> Self {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("FILES_SEED").ok().map_or_else(clock, |seed| seed.parse().unwrap());
        eprintln!("FILES_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % below
    }
}

const SIZE_MAX: u64 = 700_000;

/// One operation; what it returned.
fn on_file(path: &Path, file: &mut File, numbers: &mut Numbers) -> (String, u64) {
    let (at, len) = (numbers.next(SIZE_MAX), numbers.next(120_000) + 1);
    let data = vec![numbers.next(255) as u8 + 1; len as usize];
    let name = |what: &str| format!("{what} {at} {len}");
    let code = |code: i32| code as u64;
    match numbers.next(10) {
        0..=2 => (name("write"), code(errno(file.write_all_at(&data, at)))),
        3..=4 => {
            let mut bytes = vec![0; len as usize];
            let read = file.read_at(&mut bytes, at).unwrap();
            let sum =
                bytes[..read].iter().fold(read as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            (name("read"), sum)
        }
        5 => (name("truncate"), code(errno(file.set_len(at)))),
        6 => {
            let flags = match numbers.next(4) {
                0 => FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
                1 => FallocateFlags::FALLOC_FL_ZERO_RANGE,
                2 => FallocateFlags::FALLOC_FL_KEEP_SIZE,
                _ => FallocateFlags::empty(),
            };
            (format!("{} {flags:?}", name("fallocate")), code(number(fallocate(&*file, flags, at as i64, len as i64))))
        }
        7 => {
            *file = File::options().read(true).write(true).open(path).unwrap();
            (name("reopen"), file.metadata().unwrap().len())
        }
        8 => {
            let size = file.metadata().unwrap().len();
            if size > 0 {
                let mapping = Mapping::new(file, size as usize).unwrap();
                let at = (at % size) as usize;
                mapping.write(at, &data[..data.len().min(size as usize - at)]);
                mapping.sync();
            }
            (name("map"), size)
        }
        _ => {
            let mut appends = File::options().append(true).open(path).unwrap();
            (name("append"), code(errno(io::Write::write_all(&mut appends, &data[..data.len() / 8]))))
        }
    }
}

fn operations_on_a_file_leave_the_same_bytes() {
    let mut numbers = Numbers::new();
    for slots in [true, false] {
        let pair = Pair::with(Options { slots, ..Options::default() });
        let paths = [pair.guest().join("f"), pair.plain().join("f")];
        let mut files = paths.each_ref().map(|path| {
            fs::write(path, b"").unwrap();
            File::options().read(true).write(true).open(path).unwrap()
        });
        let mut log = Vec::new();
        for step in 0..400 {
            let mut again = numbers.clone();
            let guest = on_file(&paths[0], &mut files[0], &mut numbers);
            let plain = on_file(&paths[1], &mut files[1], &mut again);
            log.push(guest.0.clone());
            assert_eq!(guest, plain, "step {step}: {:#?}", &log[log.len().saturating_sub(12)..]);
            if step % 20 == 19 {
                let same = fs::read(&paths[1]).unwrap() == fs::read(pair.host.join("f")).unwrap()
                    && fs::read(&paths[1]).unwrap() == fs::read(&paths[0]).unwrap();
                assert!(same, "step {step}: {:#?}", &log[log.len().saturating_sub(20)..]);
            }
        }
    }
}

/// Like `fs::write`, but does not wait for the reader of a FIFO.
fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    io::Write::write_all(&mut &file, data)
}

/// One operation in a tree of few names; what it returned.
fn on_tree(root: &Path, numbers: &mut Numbers) -> (String, i32) {
    let mut path = || {
        let mut path = String::from(".");
        for _ in 0..=numbers.next(3) {
            path.push_str(["/a", "/b", "/c", "/d"][numbers.next(4) as usize]);
        }
        path
    };
    let (one, two) = (path(), path());
    let (first, second) = (root.join(&one), root.join(&two));
    let operation = numbers.next(12);
    let result = match operation {
        0..=1 => errno(fs::create_dir(&first)),
        2..=3 => errno(write(&first, two.as_bytes())),
        4 => errno(fs::remove_file(&first)),
        5 => errno(fs::remove_dir(&first)),
        6 => errno(fs::rename(&first, &second)),
        7 => errno(fs::hard_link(&first, &second)),
        8 => errno(symlink(&two, &first)),
        9 => number(nix::unistd::mkfifo(&first, nix::sys::stat::Mode::from_bits_retain(0o640))),
        10 => errno(
            fs::symlink_metadata(&first)
                .and_then(|_| fs::set_permissions(&first, std::os::unix::fs::PermissionsExt::from_mode(0o750))),
        ),
        _ => {
            use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
            number(renameat2(AT_FDCWD, &first, AT_FDCWD, &second, RenameFlags::RENAME_EXCHANGE))
        }
    };
    (format!("{operation} {one} {two}"), result)
}

/// All that is below a directory: path, mode, links, size, and content or target.
fn tree(root: &Path, dir: &Path, into: &mut Vec<(String, u32, u64, Vec<u8>)>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = match stat.mode() & libc::S_IFMT {
            libc::S_IFREG => fs::read(&path).unwrap(),
            libc::S_IFLNK => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        into.push((path.strip_prefix(root).unwrap().display().to_string(), stat.mode(), stat.nlink(), content));
        if stat.is_dir() {
            tree(root, &path, into);
        }
    }
}

fn operations_on_a_tree_leave_the_same_tree() {
    let mut numbers = Numbers::new();
    let pair = Pair::new();
    let whole = |root: &Path| {
        let mut all = Vec::new();
        tree(root, root, &mut all);
        all
    };
    let mut log = Vec::new();
    for step in 0..3000 {
        let mut again = numbers.clone();
        let guest = on_tree(pair.guest(), &mut numbers);
        let plain = on_tree(pair.plain(), &mut again);
        log.push(guest.0.clone());
        assert_eq!(guest, plain, "step {step}: {:#?}", &log[log.len().saturating_sub(30)..]);
        if step % 300 == 299 {
            assert_eq!(whole(pair.guest()), whole(pair.plain()), "step {step}");
            assert_eq!(whole(&pair.host), whole(pair.plain()), "step {step}");
        }
    }
}
