//! The part of ELF that kernel modules need: finding a section, and removing sections that only cost a guest time.

/// Length of a section header of a 64-bit file.
const SECTION_HEADER: usize = 64;

/// Length of the file header.
const FILE_HEADER: usize = 64;

/// A section without content in the file.
const NO_BITS: u32 = 8;

/// The bytes of section `name` of a 64-bit little-endian ELF file.
pub(super) fn section<'a>(elf: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let table = Table::read(elf)?;
    let header = (0..table.count).find(|&index| table.name(index) == Some(name.as_bytes()))?;
    table.content(header)
}

/// Sections, and the relocations of sections, that only debugging the guest's kernel would need: type
/// information, and the stack unwinder's tables (without them a backtrace is less exact in modules).
const DEBUGGING: [&[u8]; 3] = [b".BTF", b".orc_unwind", b".rela.orc_unwind"];

/// A kernel module without its signature and without [`DEBUGGING`].
///
/// A guest that loads a module checks its signature, parses its types and sorts its unwind tables, which under
/// emulation takes longer than the rest of its boot. The signature protects nothing there: who can
/// change a kit can change its kernel too. The numbers of all sections stay, for relocations refer to them.
///
/// `None` when this is no ELF file that could be taken apart.
pub(super) fn slim_module(elf: &[u8]) -> Option<Vec<u8>> {
    let table = Table::read(elf)?;
    let mut slim = elf.get(..FILE_HEADER)?.to_vec();
    let mut headers = Vec::with_capacity(table.count * SECTION_HEADER);
    for index in 0..table.count {
        let mut header = *table.header(index)?;
        let name = table.name(index)?;
        if DEBUGGING.iter().any(|prefix| name.starts_with(prefix)) {
            // Type 0, SHT_NULL: a number without a section.
            header = [0; SECTION_HEADER];
        } else if table.kind(index)? != NO_BITS && table.kind(index)? != 0 {
            let align = usize::try_from(u64_at(&header, 0x30)?).ok()?.clamp(1, 4096);
            slim.resize(slim.len().next_multiple_of(align), 0);
            header[0x18..0x20].copy_from_slice(&(slim.len() as u64).to_le_bytes());
            slim.extend_from_slice(table.content(index)?);
        }
        headers.extend_from_slice(&header);
    }
    slim.resize(slim.len().next_multiple_of(8), 0);
    let headers_at = slim.len() as u64;
    slim[0x28..0x30].copy_from_slice(&headers_at.to_le_bytes());
    slim.extend_from_slice(&headers);
    Some(slim)
}

/// The section headers of a file.
struct Table<'a> {
    elf: &'a [u8],
    start: usize,
    count: usize,
    names: &'a [u8],
}

impl<'a> Table<'a> {
    fn read(elf: &'a [u8]) -> Option<Self> {
        if !elf.starts_with(b"\x7fELF\x02\x01") || usize::from(u16_at(elf, 0x3a)?) != SECTION_HEADER {
            return None;
        }
        let start = usize::try_from(u64_at(elf, 0x28)?).ok()?;
        let mut table = Self { elf, start, count: usize::from(u16_at(elf, 0x3c)?), names: &[] };
        table.names = table.content(usize::from(u16_at(elf, 0x3e)?))?;
        Some(table)
    }

    fn header(&self, index: usize) -> Option<&'a [u8; SECTION_HEADER]> {
        self.elf.get(self.start.checked_add(index * SECTION_HEADER)?..)?.first_chunk()
    }

    fn kind(&self, index: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.header(index)?[4..8].try_into().ok()?))
    }

    fn name(&self, index: usize) -> Option<&'a [u8]> {
        let at = u32::from_le_bytes(self.header(index)?[..4].try_into().ok()?) as usize;
        self.names.get(at..)?.split(|&byte| byte == 0).next()
    }

    fn content(&self, index: usize) -> Option<&'a [u8]> {
        let header = self.header(index)?;
        let (start, len) = (u64_at(header, 0x18)?, u64_at(header, 0x20)?);
        self.elf.get(usize::try_from(start).ok()?..)?.get(..usize::try_from(len).ok()?)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// A minimal ELF file with these sections, for tests.
#[cfg(test)]
pub(super) fn example(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01".to_vec();
    elf.resize(FILE_HEADER, 0);
    let mut names = vec![0];
    let mut headers = vec![0; SECTION_HEADER];
    let mut add = |name_at: u32, content: &[u8]| {
        let mut header = [name_at.to_le_bytes(), 1u32.to_le_bytes()].concat();
        header.resize(0x18, 0);
        header.extend((elf.len() as u64).to_le_bytes());
        header.extend((content.len() as u64).to_le_bytes());
        header.resize(0x30, 0);
        header.extend(16u64.to_le_bytes());
        header.resize(SECTION_HEADER, 0);
        headers.extend(header);
        elf.extend_from_slice(content);
    };
    for (name, content) in sections {
        add(names.len() as u32, content);
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    add(0, &names);
    let count = (headers.len() / SECTION_HEADER) as u16;
    let headers_at = elf.len() as u64;
    elf[0x28..0x30].copy_from_slice(&headers_at.to_le_bytes());
    for (at, value) in [(0x3a, SECTION_HEADER as u16), (0x3c, count), (0x3e, count - 1)] {
        elf[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    elf.extend(headers);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_found_by_its_whole_name() {
        let elf = example(&[(".text", b"\x90"), (".modinfo", b"depends=a")]);
        assert_eq!(section(&elf, ".modinfo"), Some(b"depends=a".as_slice()));
        assert_eq!(section(&elf, ".mod"), None);
    }

    #[test]
    fn a_slim_module_keeps_its_sections_and_their_numbers() {
        let mut elf = example(&[(".text", b"\x90"), (".BTF", &[7; 5000]), (".modinfo", b"depends=a")]);
        elf.extend_from_slice(b"PKCS#7~Module signature appended~\n");
        let slim = slim_module(&elf).unwrap();
        assert!(slim.len() < 700 && !slim.ends_with(b"~\n"), "{}", slim.len());
        assert_eq!(section(&slim, ".text"), Some(b"\x90".as_slice()));
        assert_eq!(section(&slim, ".BTF"), None);
        let (before, after) = (Table::read(&elf).unwrap(), Table::read(&slim).unwrap());
        assert_eq!(before.count, after.count);
        assert_eq!(after.name(3), Some(b".modinfo".as_slice()));
        assert_eq!(after.content(3), before.content(3));
        assert_eq!(u64_at(after.header(3).unwrap(), 0x18).unwrap() % 16, 0);
    }

    #[test]
    fn no_truncation_of_a_file_is_read_beyond_its_end() {
        let elf = example(&[(".modinfo", b"depends=a")]);
        for len in 0..elf.len() {
            assert_eq!(section(&elf[..len], ".modinfo"), None);
            assert_eq!(slim_module(&elf[..len]), None);
        }
        assert_eq!(section(&[0xff; 200], ".modinfo"), None);
    }
}
