//! The processor that an image's programs were made for: found by looking at one of them.

use std::io::Read;

use super::tree::{Inode, Tree};

/// Programs that stand for all programs of an image; the first one found decides.
const TELLING: [&[u8]; 7] =
    [b"bin/sh", b"bin/bash", b"bin/busybox", b"usr/bin/env", b"sbin/init", b"usr/lib/systemd/systemd", b"bin/ls"];

/// Bytes of an ELF header up to and with the machine field.
const HEADER: usize = 20;

/// What was seen of the programs while the content was copied.
#[derive(Debug)]
pub struct Seen {
    candidates: Vec<Inode>,
    /// The best program so far: its place among the candidates, and its machine.
    best: Option<(usize, &'static str)>,
}

impl Seen {
    /// Will look at the programs of this tree.
    pub fn of(tree: &Tree) -> Self {
        let found = TELLING.iter().filter_map(|path| tree.find(path, true).ok().flatten());
        Self { candidates: found.collect(), best: None }
    }

    /// The same content; its first bytes are looked at if the file is a candidate.
    pub fn watch<R: Read>(&mut self, inode: Inode, executable: bool, content: R) -> Watched<'_, R> {
        let last = self.candidates.len();
        let rank = self.candidates.iter().position(|&candidate| candidate == inode).or(executable.then_some(last));
        let rank = rank.filter(|rank| self.best.is_none_or(|(best, _)| *rank < best));
        Watched { seen: self, rank, start: Vec::new(), content }
    }

    fn look(&mut self, rank: usize, start: &[u8]) {
        if let Some(machine) = machine(start) {
            self.best = Some((rank, machine));
        }
    }

    /// The architecture, and what the user should know about it.
    pub fn conclude(self) -> (String, Option<String>) {
        let host = std::env::consts::ARCH;
        match self.best {
            None => (host.to_owned(), Some(format!("no program was found in it; it is taken for {host}"))),
            Some((_, arch)) if runs_here(arch) => (arch.to_owned(), None),
            Some((_, arch)) => {
                (arch.to_owned(), Some(format!("its programs are for {arch}: they do not run on {host}")))
            }
        }
    }
}

/// Whether guests of this machine run programs of `arch`.
pub fn runs_here(arch: &str) -> bool {
    arch == std::env::consts::ARCH || (arch == "i386" && std::env::consts::ARCH == "x86_64")
}

/// The machine of an ELF file that begins so.
fn machine(start: &[u8]) -> Option<&'static str> {
    let &[0x7f, b'E', b'L', b'F', class, order, .., a, b] = start.get(..HEADER)? else { return None };
    let number = if order == 2 { u16::from_be_bytes([a, b]) } else { u16::from_le_bytes([a, b]) };
    match (number, class) {
        (62, 1) => Some("x32"),
        (62, _) => Some("x86_64"),
        (3 | 6, _) => Some("i386"),
        (183, _) => Some("aarch64"),
        (40, _) => Some("arm"),
        (243, _) => Some("riscv64"),
        (21, _) => Some("powerpc64"),
        (22, _) => Some("s390x"),
        (8, _) => Some("mips"),
        _ => Some("another processor"),
    }
}

/// Content that is passed on, and whose first bytes are looked at.
#[derive(Debug)]
pub struct Watched<'a, R> {
    seen: &'a mut Seen,
    rank: Option<usize>,
    start: Vec<u8>,
    content: R,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.content.read(buf)?;
        if let Some(rank) = self.rank {
            self.start.extend_from_slice(&buf[..read.min(HEADER)]);
            if self.start.len() >= HEADER {
                self.seen.look(rank, &self.start);
                self.rank = None;
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_the_header_in_either_byte_order() {
        let header = |class: u8, order: u8, machine: [u8; 2]| {
            let mut header = vec![0x7f, b'E', b'L', b'F', class, order];
            header.resize(18, 0);
            header.extend(machine);
            header
        };
        assert_eq!(machine(&header(2, 1, [62, 0])), Some("x86_64"));
        assert_eq!(machine(&header(1, 1, [3, 0])), Some("i386"));
        assert_eq!(machine(&header(2, 1, [183, 0])), Some("aarch64"));
        assert_eq!(machine(&header(2, 2, [0, 22])), Some("s390x"));
        assert_eq!(machine(b"#!/bin/sh\n0123456789012345"), None);
        assert_eq!(machine(b"\x7fELF"), None);
    }
}
