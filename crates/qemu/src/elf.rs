//! What a program needs to be executed, as far as its own file says it (ELF).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a file begins with decides who executes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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
pub(crate) fn kind(program: &File) -> io::Result<Kind> {
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
const NEEDED: u64 = 1;
const STRINGS: u64 = 5;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;

/// What a program names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Its loader; a static program has none.
    pub loader: Option<PathBuf>,
    /// The libraries that its loader must find first.
    pub libraries: Vec<Vec<u8>>,
    /// Where that looks for them beside the system's directories.
    pub dirs: Vec<PathBuf>,
}

/// What a program at this path needs.
///
/// # Errors
/// When the file cannot be read, or is no program of 64 bits of this processor's byte order.
pub(crate) fn needs(path: &Path, program: &File) -> io::Result<Needs> {
    let segments = segments(program)?;
    let mut needs = Needs::default();
    if let Some(named) = segments.iter().find(|segment| segment.kind == INTERPRETER) {
        needs.loader = Some(PathBuf::from(OsStr::from_bytes(&text(program, named.offset)?)));
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == DYNAMIC) else { return Ok(needs) };
    let bytes = usize::try_from(dynamic.bytes).unwrap_or(usize::MAX);
    if bytes > MANY * 16 {
        return Err(not_understood());
    }
    let table = Bytes::of(program, dynamic.offset, bytes)?;
    let entries: Vec<(u64, u64)> = (0..bytes / 16).map(|n| (table.long(n * 16), table.long(n * 16 + 8))).collect();
    let strings = entries.iter().find(|(kind, _)| *kind == STRINGS).map(|(_, address)| *address);
    let strings = strings.and_then(|address| segments.iter().find_map(|segment| segment.place_of(address)));
    let string = |at: u64| text(program, strings.ok_or_else(not_understood)?.saturating_add(at));
    let origin = path.parent().unwrap_or(Path::new("/")).as_os_str().as_bytes();
    for (kind, at) in entries {
        match kind {
            NEEDED => needs.libraries.push(string(at)?),
            RPATH | RUNPATH => {
                let list = string(at)?;
                let dirs = list.split(|&byte| byte == b':').filter(|dir| !dir.is_empty());
                needs.dirs.extend(dirs.map(|dir| PathBuf::from(OsStr::from_bytes(&without_origin(dir, origin)))));
            }
            _ => {}
        }
    }
    Ok(needs)
}

fn not_understood() -> io::Error {
    io::Error::other("it is no program that is understood")
}

/// The parts that a program says it has.
fn segments(program: &File) -> io::Result<Vec<Segment>> {
    let header = Bytes::of(program, 0, 64)?;
    let is_elf = header.0.starts_with(b"\x7fELF");
    let (at, size, count) = (header.long(32), u64::from(header.short(54)), usize::from(header.short(56)));
    if !is_elf || header.0[4] != 2 || header.0[5] != 1 || size != 56 || count > MANY {
        return Err(not_understood());
    }
    let segment = |number| Bytes::of(program, at.saturating_add(number as u64 * size), 56);
    (0..count).map(|number| Ok(Segment::of(&segment(number)?))).collect()
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
    fn a_program_names_its_loader_its_libraries_and_their_directories() {
        let dir = tempfile::tempdir().unwrap();
        let (source, program) = (dir.path().join("a.c"), dir.path().join("a"));
        std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        let mut gcc = std::process::Command::new("gcc");
        gcc.args(["-Wl,-rpath,$ORIGIN/../lib:/sw/lib", "-o"]).args([&program, &source]);
        assert!(gcc.status().unwrap().success());
        let opened = File::open(&program).unwrap();
        assert_eq!(kind(&opened).unwrap(), Kind::Elf);
        let found = needs(&program, &opened).unwrap();
        assert!(found.loader.as_ref().is_some_and(|loader| loader.is_file() && loader.is_absolute()), "{found:?}");
        assert_eq!(found.dirs, [dir.path().join("../lib"), PathBuf::from("/sw/lib")]);
        assert_eq!(found.libraries, [b"libc.so.6"]);
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
            needs(&program, &File::open(&program).unwrap()).unwrap_err();
        }
        std::fs::write(&program, &whole[..10]).unwrap();
        needs(&program, &File::open(&program).unwrap()).unwrap_err();
    }
}
