//! Pages of a template's memory that its clones write before their command runs.
//!
//! A clone maps its template's memory privately. A page that the guest reads and then writes costs it three exits under KVM: the
//! page is mapped, the write copies it, and the copy takes away the mapping that KVM has just looked at. So what one clone has
//! written is copied for all later ones before their guest runs: a byte of each page is read and written back from
//! outside, a thousand pages with two system calls.
//!
//! - Nobody else writes to this memory meanwhile: QEMU has not loaded its state, and so its guest does not run.
//! - A list is only a guess. With a wrong one a clone has a few pages of its own that it did not need; [`MOST`] bounds them.
//! - Where a system forbids it (ptrace, /proc), or the mapping is not found, the guest makes its own copies.
//! - A QEMU that has ended meanwhile is noticed through its channel.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

/// Most pages of a list: 16 MiB.
pub const MOST: usize = 4096;

/// Largest memory whose pages are looked through, in pages: 1 GiB.
const LOOKED_AT_MOST: u64 = 1 << 18;

const PAGE: u64 = 4096;

/// Most pages of one system call (`IOV_MAX`).
const BATCH: usize = 1024;

/// Bytes of an entry of `/proc/PID/pagemap`, and its bits.
const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Pages by their number in the file with a template's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written(Vec<u32>);

impl Written {
    /// Reads a list as [`Written::to_bytes`] makes it; anything else is no list.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks() else { return None };
        let is_sorted = numbers.is_sorted_by_key(|&number| u32::from_le_bytes(number));
        (numbers.len() <= MOST && is_sorted).then(|| Self(numbers.iter().map(|&it| u32::from_le_bytes(it)).collect()))
    }

    /// Four bytes for each page.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|number| number.to_le_bytes()).collect()
    }
}

/// The file with a template's memory, to be found among a process's mappings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryFile {
    inode: u64,
    bytes: u64,
}

impl MemoryFile {
    pub(crate) fn of(file: &File) -> Option<Self> {
        let meta = file.metadata().ok()?;
        Some(Self { inode: meta.ino(), bytes: meta.len() })
    }
}

/// A private mapping of a template's memory in QEMU.
#[derive(Debug)]
pub(crate) struct Mapping {
    pid: i32,
    start: u64,
    pages: u64,
}

impl Mapping {
    /// That of process `pid`; `None` if it has none, or this process may not know.
    pub(crate) fn find(pid: u32, file: MemoryFile) -> Option<Self> {
        let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
        let maps = String::from_utf8_lossy(&maps);
        // START-END rw-p OFFSET DEVICE INODE PATH. The device is not compared: on some file systems it is not stat's.
        let start = maps.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).ok());
            let (start, bytes) = (start?, end?.checked_sub(start?)?);
            let (mode, offset, inode) = (words.next()?, words.next()?, words.nth(1)?);
            let is_it = mode.starts_with("rw")
                && mode.ends_with('p')
                && u64::from_str_radix(offset, 16) == Ok(0)
                && inode.parse() == Ok(file.inode)
                && bytes == file.bytes;
            is_it.then_some(start)
        })?;
        Some(Self { pid: i32::try_from(pid).ok()?, start, pages: file.bytes / PAGE })
    }

    /// The pages of which the process has a copy of its own, the first [`MOST`] of them.
    pub(crate) fn written(&self) -> io::Result<Written> {
        let mut written = Written(Vec::new());
        if self.pages > LOOKED_AT_MOST {
            return Ok(written);
        }
        let map = File::open(format!("/proc/{}/pagemap", self.pid))?;
        let mut entries = vec![0; self.pages as usize * ENTRY];
        map.read_exact_at(&mut entries, self.start / PAGE * ENTRY as u64)?;
        let is_own = |entry: &[u8; ENTRY]| {
            let entry = u64::from_ne_bytes(*entry);
            entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
        };
        let own = entries.as_chunks().0.iter().enumerate().filter(|(_, entry)| is_own(entry));
        written.0.extend(own.map(|(number, _)| number as u32).take(MOST));
        Ok(written)
    }

    /// Gives the process a copy of its own of each page, and returns of how many.
    pub(crate) fn copy(&self, written: &Written) -> io::Result<usize> {
        let pid = Pid::from_raw(self.pid);
        let mut copied = 0;
        for batch in written.0.chunks(BATCH) {
            let places = batch.iter().map(|&number| u64::from(number)).filter(|&number| number < self.pages);
            let places: Vec<RemoteIoVec> =
                places.map(|number| RemoteIoVec { base: (self.start + number * PAGE) as usize, len: 1 }).collect();
            let mut bytes = [0; BATCH];
            let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes[..places.len()])], &places)?;
            copied += process_vm_writev(pid, &[IoSlice::new(&bytes[..read])], &places[..read])?;
        }
        Ok(copied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::process::{Child, Command, Stdio};

    const PAGES: u64 = 64;

    /// A process with a private mapping of a file, that writes page 3 and then waits for its stdin to close.
    fn process(file: &tempfile::NamedTempFile) -> Child {
        let script = "import mmap, sys\n\
            f = open(sys.argv[1], 'r+b')\n\
            m = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE)\n\
            m[3 * 4096] = 7\n\
            print('ready', flush=True)\n\
            sys.stdin.read()\n\
            o = f.read()\n\
            print(m[:] == o[:12288] + b'\\7' + o[12289:], m[5 * 4096], m[6 * 4096 + 1])";
        let arguments: [OsString; 3] = ["-c".into(), script.into(), file.path().into()];
        let mut child = Command::new("python3");
        child.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn pages_are_copied_from_outside_and_keep_their_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..PAGES * PAGE).map(|at| (at / PAGE + at % 5) as u8).collect();
        fs::write(file.path(), &content).unwrap();
        let mut child = process(&file);
        let mut said = io::BufReader::new(child.stdout.take().unwrap());
        io::BufRead::read_line(&mut said, &mut String::new()).unwrap();

        let mapping = Mapping::find(child.id(), MemoryFile::of(file.as_file()).unwrap()).unwrap();
        assert_eq!(mapping.written().unwrap(), Written(vec![3]));
        // A page that is not there is left out.
        assert_eq!(mapping.copy(&Written(vec![5, 6, 63, 64, 1 << 30])).unwrap(), 3);
        assert_eq!(mapping.written().unwrap(), Written(vec![3, 5, 6, 63]));

        drop(child.stdin.take());
        let mut end = String::new();
        io::Read::read_to_string(&mut said, &mut end).unwrap();
        let (fifth, sixth) = (content[5 * PAGE as usize], content[6 * PAGE as usize + 1]);
        assert_eq!(end.trim(), format!("True {fifth} {sixth}"));
        assert_eq!(fs::read(file.path()).unwrap(), content);
        child.wait().unwrap();
        assert!(Mapping::find(child.id(), MemoryFile::of(file.as_file()).unwrap()).is_none());
        assert!(mapping.copy(&Written(vec![1])).is_err(), "the process is gone");
    }

    #[test]
    fn what_is_no_list_is_not_taken_for_one() {
        let list = Written(vec![1, 2, 70_000]);
        assert_eq!(Written::from_bytes(&list.to_bytes()), Some(list));
        assert_eq!(Written::from_bytes(&[0; 5]), None);
        assert_eq!(Written::from_bytes(&vec![0; (MOST + 1) * 4]), None);
        assert_eq!(Written::from_bytes(&[2, 0, 0, 0, 1, 0, 0, 0]), None);
    }
}
