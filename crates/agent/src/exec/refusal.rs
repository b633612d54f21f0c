//! Why a program cannot be executed, in the words of a shell: what the kernel's error number leaves out is read from
//! the file itself.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use proto::FailKind;

/// Bytes of a file that are looked at: the kernel reads 256, and the header of a program is in the first 4096.
const HEAD: usize = 4096;

/// Processors by the number in an ELF header.
const MACHINES: [(u16, &str); 10] = [
    (3, "i386"),
    (8, "mips"),
    (20, "powerpc"),
    (21, "ppc64"),
    (22, "s390"),
    (40, "arm"),
    (43, "sparc64"),
    (62, "x86_64"),
    (183, "aarch64"),
    (243, "riscv"),
];

/// The sentence for the command, which has the error `errno`; `candidates` are the files that it may mean.
pub(super) fn explain(errno: Errno, command: &[u8], candidates: &[CString]) -> (FailKind, String) {
    let shown = String::from_utf8_lossy(command);
    let found = candidates.iter().map(|file| Path::new(std::ffi::OsStr::from_bytes(file.to_bytes())));
    let found = found.filter(|path| path.exists()).find(|path| command.contains(&b'/') || !path.is_dir());
    let refused = |text: String| (FailKind::NotExecutable, text);
    let words = words(errno);
    let Some(path) = found else {
        let kind = match errno {
            Errno::ENOENT | Errno::ENOTDIR => FailKind::NotFound,
            _ => FailKind::NotExecutable,
        };
        return (kind, format!("{shown}: {words}"));
    };
    let head = head(path);
    match errno {
        Errno::EACCES if path.is_dir() => refused(format!("{shown}: Is a directory")),
        Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR | Errno::ELOOP => match needed(&head) {
            Some(Needed::Interpreter(name)) if errno == Errno::ENOENT || !is_executable(&name) => {
                refused(format!("{shown}: bad interpreter: {}: {words}{}", visible(&name), line_ends(&name)))
            }
            Some(Needed::Loader(name)) if errno == Errno::ENOENT => {
                refused(format!("{shown}: its program loader {}: {words}", visible(&name)))
            }
            _ if errno == Errno::ENOENT => (FailKind::NotFound, format!("{shown}: {words}")),
            _ => refused(format!("{shown}: {words}")),
        },
        Errno::ENOEXEC => refused(format!("{shown}: {words}{}", kind_of(&head))),
        _ => refused(format!("{shown}: {words}")),
    }
}

/// The words of strerror, which users and their scripts know.
fn words(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOEXEC => "Exec format error",
        Errno::ENOENT => "No such file or directory",
        Errno::EACCES => "Permission denied",
        Errno::E2BIG => "Argument list too long",
        other => other.desc(),
    }
}

/// A file that must exist so that another one can be executed.
enum Needed {
    Interpreter(Vec<u8>),
    Loader(Vec<u8>),
}

fn needed(head: &[u8]) -> Option<Needed> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        return words.next().map(|name| Needed::Interpreter(name.to_vec()));
    }
    loader(head).map(|name| Needed::Loader(name.to_vec()))
}

/// The dynamic loader that a 64-bit little-endian ELF program names.
fn loader(head: &[u8]) -> Option<&[u8]> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, len: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(head.get(at..at.checked_add(len)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(number(32, 8)?).ok()?;
    let (size, count) = (number(54, 2)? as usize, number(56, 2)? as usize);
    for index in 0..count {
        let entry = table.checked_add(index.checked_mul(size)?)?;
        if number(entry, 4)? == PT_INTERP {
            let start = usize::try_from(number(entry.checked_add(8)?, 8)?).ok()?;
            let name = head.get(start..)?;
            return name.split(|&byte| byte == 0).next().filter(|name| !name.is_empty());
        }
    }
    None
}

fn is_executable(name: &[u8]) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(name));
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Control characters as a terminal echoes them: a carriage return is `^M`.
fn visible(name: &[u8]) -> String {
    let shown = String::from_utf8_lossy(name);
    shown
        .chars()
        .map(|c| if c.is_ascii_control() { format!("^{}", (c as u8 ^ 64) as char) } else { c.to_string() })
        .collect()
}

fn line_ends(interpreter: &[u8]) -> &'static str {
    if interpreter.ends_with(b"\r") { " (the script has the line ends of Windows; dos2unix removes them)" } else { "" }
}

/// What a file is that the kernel does not execute.
fn kind_of(head: &[u8]) -> String {
    if head.is_empty() {
        return " (the file is empty)".to_owned();
    }
    if head.starts_with(b"\x7fELF") {
        let bytes = [head.get(18).copied().unwrap_or(0), head.get(19).copied().unwrap_or(0)];
        let number = if head.get(5) == Some(&2) { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
        let machine = MACHINES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
        return match machine {
            Some(name) if name == std::env::consts::ARCH => " (the program is damaged)".to_owned(),
            Some(name) => format!(" (a program for {name}; this machine is {})", std::env::consts::ARCH),
            None => format!(" (a program for another processor; this machine is {})", std::env::consts::ARCH),
        };
    }
    let is_text = !head.contains(&0);
    match (head.starts_with(b"MZ"), head.starts_with(b"\xef\xbb\xbf#!"), is_text) {
        (true, ..) => " (a program for Windows)".to_owned(),
        (_, true, _) => " (a byte order mark stands before its #!)".to_owned(),
        (.., true) => " (a script needs a first line with #! and its interpreter)".to_owned(),
        (.., false) => String::new(),
    }
}

fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    // Opening something else than a file may block.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        let _ = file.take(HEAD as u64).read_to_end(&mut head);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error for a command that is a file with this content.
    fn told(errno: Errno, content: &[u8]) -> (FailKind, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap();
        let (kind, text) = explain(errno, path.as_bytes(), &[CString::new(path).unwrap()]);
        (kind, text.replace(path, "x"))
    }

    #[test]
    fn a_command_that_is_nowhere_is_told_in_the_words_of_strerror() {
        for (errno, kind, words) in [
            (Errno::ENOENT, FailKind::NotFound, "No such file or directory"),
            (Errno::ENOTDIR, FailKind::NotFound, "Not a directory"),
            (Errno::EACCES, FailKind::NotExecutable, "Permission denied"),
            (Errno::E2BIG, FailKind::NotExecutable, "Argument list too long"),
        ] {
            let error = explain(errno, b"foo", &[c"/none/foo".to_owned()]);
            assert_eq!(error, (kind, format!("foo: {words}")));
        }
    }

    #[test]
    fn a_script_whose_interpreter_is_missing_names_it() {
        let (kind, text) = told(Errno::ENOENT, b"#! /none/python3 -u\nprint()\n");
        assert_eq!(kind, FailKind::NotExecutable);
        assert_eq!(text, "x: bad interpreter: /none/python3: No such file or directory");
        let (_, text) = told(Errno::ENOENT, b"#!/bin/sh\r\necho\r\n");
        assert!(text.starts_with("x: bad interpreter: /bin/sh^M: No such") && text.contains("dos2unix"), "{text}");
        assert_eq!(told(Errno::EACCES, b"#!/etc/passwd\n").1, "x: bad interpreter: /etc/passwd: Permission denied");
        assert_eq!(told(Errno::EACCES, b"#!/bin/sh\n").1, "x: Permission denied");
    }

    #[test]
    fn a_program_names_what_it_needs() {
        let own = fs::read("/proc/self/exe").unwrap();
        if loader(&own[..HEAD]).is_some() {
            let (_, text) = told(Errno::ENOENT, &own[..HEAD]);
            assert!(text.contains("its program loader /") && text.ends_with(": No such file or directory"), "{text}");
        }
        let mut arm = own[..64].to_vec();
        (arm[18], arm[19]) = (183, 0);
        assert!(told(Errno::ENOEXEC, &arm).1.contains("a program for aarch64; this machine is"));
        assert!(told(Errno::ENOEXEC, b"echo hello\n").1.contains("first line with #!"));
        assert_eq!(told(Errno::ENOEXEC, b"").1, "x: Exec format error (the file is empty)");
        assert_eq!(told(Errno::ENOEXEC, b"\0\x01\x02").1, "x: Exec format error");
    }

    #[test]
    fn a_directory_is_no_command_and_does_not_hide_one_in_the_path() {
        let error = explain(Errno::EACCES, b"/tmp", &[c"/tmp".to_owned()]);
        assert_eq!(error, (FailKind::NotExecutable, "/tmp: Is a directory".to_owned()));
        let error = explain(Errno::EACCES, b"tmp", &[c"/tmp".to_owned()]);
        assert_eq!(error.1, "tmp: Permission denied");
    }

    #[test]
    fn no_header_of_a_program_is_too_strange() {
        let own = fs::read("/proc/self/exe").unwrap();
        for at in 0..120 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut head = own[..512].to_vec();
                head[at] = byte;
                let _ = (loader(&head), kind_of(&head), needed(&head[..at]));
            }
        }
    }
}
