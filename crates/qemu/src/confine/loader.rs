//! Where the system's loader looks for what a program needs, as far as the program's own file says it (ELF).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a file begins with decides who executes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The loader that it names.
    Elf,
    /// An interpreter.
    Script,
    /// Nobody that is known here.
    Other,
}

/// What this program is.
///
/// # Errors
/// When it cannot be read.
pub(super) fn kind(program: &File) -> io::Result<Kind> {
    let mut magic = [0; 4];
    let read = program.read_at(&mut magic, 0)?;
    Ok(match &magic[..read] {
        b"\x7fELF" => Kind::Elf,
        [b'#', b'!', ..] => Kind::Script,
        _ => Kind::Other,
    })
}

/// More than programs have of it: segments, entries of the dynamic section, bytes of a text.
const MANY: usize = 4096;

/// Kinds of segments.
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;

/// Entries of the dynamic section.
const STRINGS: u64 = 5;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;

/// The loader of a program at this path and the directories of libraries that it names.
///
/// # Errors
/// When the file cannot be read, or is no program of 64 bits of this processor's byte order.
pub(super) fn places(path: &Path, program: &File) -> io::Result<Vec<PathBuf>> {
    let broken = || io::Error::other("it is no program that is understood");
    let header = Bytes::of(program, 0, 64)?;
    if header.0[4] != 2 || header.0[5] != 1 {
        return Err(broken());
    }
    let (at, size, count) = (header.long(32), u64::from(header.short(54)), usize::from(header.short(56)));
    if size != 56 || count > MANY {
        return Err(broken());
    }
    let segments: Vec<Segment> = (0..count)
        .map(|number| Ok(Segment::of(&Bytes::of(program, at.saturating_add(number as u64 * size), 56)?)))
        .collect::<io::Result<_>>()?;
    let mut places = Vec::new();
    if let Some(named) = segments.iter().find(|segment| segment.kind == INTERPRETER) {
        places.push(PathBuf::from(OsStr::from_bytes(&text(program, named.offset)?)));
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == DYNAMIC) else { return Ok(places) };
    let bytes = usize::try_from(dynamic.bytes).unwrap_or(usize::MAX);
    if bytes > MANY * 16 {
        return Err(broken());
    }
    let table = Bytes::of(program, dynamic.offset, bytes)?;
    let entries: Vec<(u64, u64)> = (0..bytes / 16).map(|n| (table.long(n * 16), table.long(n * 16 + 8))).collect();
    let strings = entries.iter().find(|(kind, _)| *kind == STRINGS).map(|(_, address)| *address);
    let strings = strings.and_then(|address| segments.iter().find_map(|segment| segment.place_of(address)));
    for (_, string) in entries.iter().filter(|(kind, _)| [RPATH, RUNPATH].contains(kind)) {
        let list = text(program, strings.ok_or_else(broken)?.saturating_add(*string))?;
        let origin = path.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes();
        let dirs = list.split(|&byte| byte == b':').filter(|dir| !dir.is_empty());
        places.extend(dirs.map(|dir| PathBuf::from(OsStr::from_bytes(&without_origin(dir, origin)))));
    }
    Ok(places)
}

/// A directory's name in which `$ORIGIN` is the program's.
fn without_origin(dir: &[u8], origin: &[u8]) -> Vec<u8> {
    let rest = [&b"$ORIGIN"[..], b"${ORIGIN}"].into_iter().find_map(|word| dir.strip_prefix(word));
    rest.map_or_else(|| dir.to_vec(), |rest| [origin, rest].concat())
}

/// A text that ends with a zero.
fn text(program: &File, at: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; MANY];
    let read = program.read_at(&mut bytes, at)?;
    bytes.truncate(read);
    let end = bytes.iter().position(|&byte| byte == 0).ok_or_else(|| io::Error::other("a text in it has no end"))?;
    bytes.truncate(end);
    Ok(bytes)
}

/// A part of a program that is loaded, or that says how.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    bytes: u64,
}

impl Segment {
    fn of(header: &Bytes) -> Self {
        let kind = u32::from(header.short(0)) | u32::from(header.short(2)) << 16;
        Self { kind, offset: header.long(8), address: header.long(16), bytes: header.long(32) }
    }

    /// Where in the file this address is.
    fn place_of(&self, address: u64) -> Option<u64> {
        let within = address.checked_sub(self.address).filter(|within| self.kind == LOAD && *within < self.bytes)?;
        self.offset.checked_add(within)
    }
}

/// Bytes of the file, of which enough are there for what is read of them.
struct Bytes(Vec<u8>);

impl Bytes {
    fn of(program: &File, at: u64, count: usize) -> io::Result<Self> {
        let mut bytes = vec![0; count];
        program.read_exact_at(&mut bytes, at)?;
        Ok(Self(bytes))
    }

    fn short(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn long(&self, at: usize) -> u64 {
        (0..4).fold(0, |all, part| all | u64::from(self.short(at + 2 * part)) << (16 * part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_its_loader_and_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let (source, program) = (dir.path().join("a.c"), dir.path().join("a"));
        std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        let mut gcc = std::process::Command::new("gcc");
        gcc.args(["-Wl,-rpath,$ORIGIN/../lib:/sw/lib", "-o"]).args([&program, &source]);
        assert!(gcc.status().unwrap().success());
        let opened = File::open(&program).unwrap();
        assert_eq!(kind(&opened).unwrap(), Kind::Elf);
        let found = places(&program, &opened).unwrap();
        assert!(found[0].is_file() && found[0].is_absolute(), "{found:?}");
        assert_eq!(found[1..], [dir.path().join("../lib"), PathBuf::from("/sw/lib")]);
        assert_eq!(kind(&File::open(&source).unwrap()).unwrap(), Kind::Other);
    }

    #[test]
    fn nonsense_is_an_error_and_never_more() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("a");
        let whole = std::fs::read("/proc/self/exe").unwrap();
        for (byte, value) in [(4, 1), (39, 0xff), (54, 1), (57, 0xff)] {
            let mut bytes = whole[..4096].to_vec();
            bytes[byte] = value;
            std::fs::write(&program, bytes).unwrap();
            places(&program, &File::open(&program).unwrap()).unwrap_err();
        }
        std::fs::write(&program, &whole[..10]).unwrap();
        places(&program, &File::open(&program).unwrap()).unwrap_err();
    }
}
