//! The initramfs archive format ("newc"), as far as a kit needs it.

const PAGE: usize = 4096;

/// Archive under construction. The same entries always give the same bytes.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040000;
const CHARACTER_DEVICE: u32 = 0o020000;
const REGULAR_FILE: u32 = 0o100000;

impl Archive {
    /// Adds a directory; parents come before what is in them.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), b"");
    }

    /// Adds a character device by its major and minor number.
    pub fn device(&mut self, path: &str, mode: u32, number: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE | mode, number, b"");
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR_FILE | mode, (0, 0), content);
    }

    /// The whole archive, padded with zeros to whole pages.
    ///
    /// QEMU puts an initramfs at the very end of the guest's memory, rounded down to a page, and on
    /// microvm the firmware has put its ACPI tables there before. Between the last full page and the end
    /// of memory they survive; an archive that reaches into that page overwrites them.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), b"");
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let name_len = path.len() as u32 + 1;
        // Inode, mode, owner, group, links, time, length, device of the file, device number, name length, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, major, minor, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::tool;
    use std::process::Command;

    #[test]
    fn every_header_and_content_starts_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.device("dev/console", 0o600, (5, 1));
        archive.file("init", 0o755, b"12345");
        let bytes = archive.finish();
        let headers: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"070701")).collect();
        assert_eq!(headers.len(), 4);
        assert!(headers.iter().all(|at| at % 4 == 0) && bytes.len() % PAGE == 0);
        assert_eq!(&bytes[headers[2] + 110..][..5], b"init\0");
    }

    #[test]
    fn cpio_reads_it_back() {
        let mut archive = Archive::default();
        archive.directory("modules");
        archive.file("modules/load", 0o644, b"base a.ko\n");
        let bytes = archive.finish();
        let listed = tool::filter(Command::new("cpio").args(["-itv", "--quiet"]), &bytes).unwrap();
        let listed = String::from_utf8(listed).unwrap();
        assert!(listed.contains("-rw-r--r--   1 root     root           10"), "{listed}");
        let content = tool::filter(Command::new("cpio").args(["-i", "--quiet", "--to-stdout", "modules/load"]), &bytes);
        assert_eq!(content.unwrap(), b"base a.ko\n");
    }
}
