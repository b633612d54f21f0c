//! Writes entries to a tar stream.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::{BLOCK, Entry, Kind, padding, pax};

/// Longest name that fits into the header itself, in bytes.
const NAME_MAX: usize = 100;

/// Writes an archive. An archive that was not finished has no end mark, so readers see that it is not whole.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// An archive on `out`, which should be buffered.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes one entry and, for a file, its content. Content that is shorter than the entry says is filled with
    /// zeros: a file may shrink while it is read.
    ///
    /// # Errors
    /// When the content cannot be read or the stream cannot be written.
    pub fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let (kind, target, device) = match &entry.kind {
            Kind::File(_) => (EntryType::Regular, None, None),
            Kind::Directory => (EntryType::Directory, None, None),
            Kind::Symlink(target) => (EntryType::Symlink, Some(target), None),
            Kind::HardLink(target) => (EntryType::Link, Some(target), None),
            Kind::CharDevice(major, minor) => (EntryType::Char, None, Some((*major, *minor))),
            Kind::BlockDevice(major, minor) => (EntryType::Block, None, Some((*major, *minor))),
            Kind::Fifo => (EntryType::Fifo, None, None),
        };
        let mut records = Vec::new();
        if entry.path.len() > NAME_MAX {
            pax::push(&mut records, b"path", &entry.path);
        }
        if let Some(target) = target.filter(|target| target.len() > NAME_MAX) {
            pax::push(&mut records, b"linkpath", target);
        }
        for xattr in &entry.xattrs {
            pax::push(&mut records, &[pax::XATTR, &xattr.name].concat(), &xattr.value);
        }
        if !records.is_empty() {
            let mut header = header(EntryType::XHeader, b"pax", 0o644, records.len() as u64);
            self.raw(&mut header, &mut &records[..])?;
        }
        let mut header = header(kind, &entry.path, entry.mode & 0o7777, entry.kind.size());
        header.set_uid(entry.uid);
        header.set_gid(entry.gid);
        header.set_mtime(entry.mtime);
        if let Some(target) = target {
            fill(&mut header.as_old_mut().linkname, target);
        }
        if let Some((major, minor)) = device {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        self.raw(&mut header, content)
    }

    fn raw(&mut self, header: &mut Header, content: &mut dyn Read) -> io::Result<()> {
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        let size = header.size()?;
        let copied = io::copy(&mut content.take(size), &mut self.out)?;
        io::copy(&mut io::repeat(0).take(size - copied), &mut self.out)?;
        self.out.write_all(&[0; BLOCK][..padding(size)])
    }

    /// Writes the end mark and hands the stream back.
    ///
    /// # Errors
    /// When the stream cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn header(kind: EntryType, name: &[u8], mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    fill(&mut header.as_old_mut().name, name);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Values that do not fit are in an extended header before this one.
fn fill(field: &mut [u8; NAME_MAX], name: &[u8]) {
    let len = name.len().min(NAME_MAX);
    field[..len].copy_from_slice(&name[..len]);
}
