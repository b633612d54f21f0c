//! Reads a tar stream of any dialect into entries.
//!
//! Every size that an archive claims is checked against a limit before memory is allocated for it. An archive
//! without its end mark is an error: it was cut off.

use std::borrow::Cow;
use std::io::{self, Read};

use tar::{EntryType, Header};

use super::error::damaged;
use super::sparse::Map;
use super::{BLOCK, Entry, Kind, Xattr, padding, pax, shown};

/// Maximum size of a long name or an extended header, in bytes.
const META_MAX: u64 = 1 << 20;

/// Maximum size of all of them that apply to one entry.
const ALL_META_MAX: u64 = 4 << 20;

/// Maximum number of records that apply to all entries: each entry gets a copy.
const GLOBALS_MAX: usize = 1000;

/// A stream that may be able to skip bytes without reading them.
pub trait Skip: Read {
    /// Skips `bytes`.
    ///
    /// # Errors
    /// When the stream ends too early.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match io::copy(&mut self.take(bytes), &mut io::sink())? {
            skipped if skipped == bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Skip for &[u8] {}

/// Reads an archive.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    position: u64,
    /// Bytes of the current entry that are still in the stream.
    stored: u64,
    /// Bytes after them up to the next header.
    pad: usize,
    /// Where the current entry's content is, if it has holes.
    map: Option<Map>,
    /// Bytes of the content that were read already.
    read: u64,
    size: u64,
    /// Records that apply to all entries that follow.
    globals: Vec<Record>,
    /// Bytes of the headers that they come from.
    global_bytes: u64,
    /// Bytes of all headers that apply to the current entry.
    meta_bytes: u64,
}

type Record = (Vec<u8>, Vec<u8>);

/// What the headers before an entry say about it.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Vec<Record>,
}

impl Extended {
    fn last(&self, key: &str) -> Option<&[u8]> {
        self.records.iter().rfind(|(name, _)| name == key.as_bytes()).map(|(_, value)| &value[..])
    }

    fn number(&self, key: &str) -> Option<u64> {
        let text = std::str::from_utf8(self.last(key)?).ok()?;
        // Times have fractions.
        text.split('.').next()?.parse().ok()
    }
}

impl<R: Skip> Reader<R> {
    /// Starts at the first header.
    pub fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            stored: 0,
            pad: 0,
            map: None,
            read: 0,
            size: 0,
            globals: Vec::new(),
            global_bytes: 0,
            meta_bytes: 0,
        }
    }

    /// Where the stream is: after [`Reader::next_entry`], the first byte of the entry's content.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The stream, after the last entry.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry, `None` at the end mark.
    ///
    /// # Errors
    /// The archive is cut off or damaged, or the stream cannot be read.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        self.leave_entry()?;
        let mut extended = Extended { records: self.globals.clone(), ..Extended::default() };
        self.meta_bytes = self.global_bytes;
        loop {
            let mut header = Header::new_old();
            self.exact(header.as_mut_bytes())?;
            if header.as_bytes().iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            check(&header)?;
            match header.entry_type() {
                EntryType::GNULongName => extended.name = Some(self.long_name(&header)?),
                EntryType::GNULongLink => extended.target = Some(self.long_name(&header)?),
                EntryType::XHeader => extended.records.extend(self.records(&header)?),
                EntryType::XGlobalHeader => {
                    let records = self.records(&header)?;
                    extended.records.extend(records.iter().cloned());
                    self.globals.extend(records);
                    self.global_bytes += header.entry_size()?;
                    if self.globals.len() > GLOBALS_MAX {
                        return Err(damaged("has too many global headers".to_owned()));
                    }
                }
                // The label of a volume.
                kind if kind.as_byte() == b'V' => {}
                _ => return self.entry(&header, &extended).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, extended: &Extended) -> io::Result<Entry> {
        let path = extended
            .last("GNU.sparse.name")
            .or(extended.last("path"))
            .or(extended.name.as_deref())
            .map_or_else(|| header.path_bytes().into_owned(), <[u8]>::to_vec);
        let target = || {
            let own = || header.link_name_bytes().map(Cow::into_owned).unwrap_or_default();
            extended.last("linkpath").or(extended.target.as_deref()).map_or_else(own, <[u8]>::to_vec)
        };
        let stored = extended.number("size").map_or_else(|| header.entry_size(), Ok)?;
        let device = || {
            let (major, minor) = (header.device_major().ok().flatten(), header.device_minor().ok().flatten());
            (major.unwrap_or(0), minor.unwrap_or(0))
        };
        (self.stored, self.pad) = (0, 0);
        let kind = match header.entry_type() {
            // In old archives a directory is a file whose name ends with a slash.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                (self.stored, self.pad) = (stored, padding(stored));
                self.find_holes(header, extended)?;
                Kind::File(self.size)
            }
            EntryType::Directory => Kind::Directory,
            // An incremental backup of GNU tar: a directory, and as content the names in it.
            other if other.as_byte() == b'D' => Kind::Directory,
            other if other.as_byte() == b'M' => {
                return Err(damaged(format!(
                    "is not the first of several volumes: it goes on with '{}'; join them to one archive",
                    shown(&path)
                )));
            }
            EntryType::Symlink => Kind::Symlink(target()),
            EntryType::Link => Kind::HardLink(target()),
            EntryType::Char => Kind::CharDevice(device().0, device().1),
            EntryType::Block => Kind::BlockDevice(device().0, device().1),
            EntryType::Fifo => Kind::Fifo,
            other => {
                let letter = char::from(other.as_byte()).escape_default();
                return Err(damaged(format!("has '{}' of the unknown type '{letter}'", shown(&path))));
            }
        };
        if !matches!(kind, Kind::File(_)) {
            // Some tars give a hard link the size of its file, with the content or without it. Only in the first case
            // does data follow.
            let has_data = stored > 0 && !matches!(kind, Kind::HardLink(_));
            (self.stored, self.pad) = if has_data { (stored, padding(stored)) } else { (0, 0) };
            (self.size, self.map) = (0, None);
        }
        self.read = 0;
        Ok(Entry {
            path,
            kind,
            mode: header.mode().unwrap_or(0o644) & 0o7777,
            uid: extended.number("uid").or(header.uid().ok()).unwrap_or(0),
            gid: extended.number("gid").or(header.gid().ok()).unwrap_or(0),
            mtime: extended.number("mtime").or(header.mtime().ok()).unwrap_or(0),
            xattrs: attributes(extended),
        })
    }

    /// Finds out how the content of a file is stored, of which `self.stored` bytes follow.
    fn find_holes(&mut self, header: &Header, extended: &Extended) -> io::Result<()> {
        (self.size, self.map) = (self.stored, None);
        let real = extended.number("GNU.sparse.realsize").or(extended.number("GNU.sparse.size"));
        let (map, size) = if header.entry_type() == EntryType::GNUSparse {
            let gnu = header.as_gnu().ok_or_else(|| damaged("has a sparse file without a map".to_owned()))?;
            let mut map = Map::default();
            map.add_all(&gnu.sparse)?;
            let mut more = gnu.is_extended();
            while more {
                let mut block = tar::GnuExtSparseHeader::new();
                self.exact(block.as_mut_bytes())?;
                map.add_all(&block.sparse)?;
                more = block.is_extended();
            }
            (map, gnu.real_size()?)
        } else if extended.last("GNU.sparse.major") == Some(b"1") {
            let before = self.stored;
            let map = Map::from_content(&mut self.content())?;
            let rest = before - self.read;
            // The map takes up whole blocks.
            let fill = (rest % BLOCK as u64).min(rest);
            self.skip(fill)?;
            self.stored = rest - fill;
            (map, real.unwrap_or(0))
        } else if let Some(text) = extended.last("GNU.sparse.map") {
            (Map::from_list(text)?, real.unwrap_or(0))
        } else if extended.last("GNU.sparse.numblocks").is_some() {
            (Map::from_records(&extended.records)?, real.unwrap_or(0))
        } else {
            return Ok(());
        };
        map.check(self.stored, size)?;
        (self.size, self.map) = (size, Some(map));
        Ok(())
    }

    /// The content of the current entry.
    pub fn content(&mut self) -> Content<'_, R> {
        Content { reader: self }
    }

    fn leave_entry(&mut self) -> io::Result<()> {
        let left = match &self.map {
            Some(map) => self.stored - map.stored_before(self.read),
            None => self.stored - self.read.min(self.stored),
        };
        self.skip(left)?;
        self.skip(self.pad as u64)?;
        (self.stored, self.pad, self.read, self.size, self.map) = (0, 0, 0, 0, None);
        Ok(())
    }

    fn long_name(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let mut name = self.meta(header)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn records(&mut self, header: &Header) -> io::Result<Vec<Record>> {
        let bytes = self.meta(header)?;
        let records = pax::parse(&bytes).ok_or_else(|| damaged("has an extended header that is none".to_owned()))?;
        Ok(records.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    }

    fn meta(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = header.entry_size()?;
        if size > META_MAX {
            return Err(damaged(format!("has a name or header of {size} bytes")));
        }
        self.meta_bytes += size;
        if self.meta_bytes > ALL_META_MAX {
            return Err(damaged(format!("has more than {} MiB of extended headers", ALL_META_MAX >> 20)));
        }
        let mut bytes = vec![0; size as usize];
        self.exact(&mut bytes)?;
        self.skip(padding(size) as u64)?;
        Ok(bytes)
    }

    fn exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(bytes).map_err(cut_off)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.input.skip(bytes).map_err(cut_off)?;
        self.position += bytes;
        Ok(())
    }
}

/// The content of an entry, holes filled with zeros.
#[derive(Debug)]
pub struct Content<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Skip> Read for Content<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let reader = &mut *self.reader;
        let (is_data, left) = match &reader.map {
            Some(map) => map.at(reader.read, reader.size),
            None => (true, reader.size.max(reader.stored) - reader.read),
        };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = if is_data {
            match reader.input.read(&mut buf[..wanted])? {
                0 => return Err(cut_off(io::ErrorKind::UnexpectedEof.into())),
                read => read,
            }
        } else {
            buf[..wanted].fill(0);
            wanted
        };
        reader.read += read as u64;
        reader.position += if is_data { read as u64 } else { 0 };
        Ok(read)
    }
}

fn attributes(extended: &Extended) -> Vec<Xattr> {
    let mut found: Vec<Xattr> = Vec::new();
    for (key, value) in &extended.records {
        let Some(name) = key.strip_prefix(pax::XATTR) else { continue };
        found.retain(|other| other.name != name);
        found.push(Xattr { name: name.to_vec(), value: value.clone() });
    }
    found
}

/// Whether the block is a header at all.
pub(super) fn check(header: &Header) -> io::Result<()> {
    let bytes = header.as_bytes();
    let sum = |range: std::ops::Range<usize>| bytes[range].iter().map(|&byte| u32::from(byte)).sum::<u32>();
    // The checksum is computed as if its own field held blanks.
    let expected = sum(0..148) + 8 * u32::from(b' ') + sum(156..BLOCK);
    match header.cksum() {
        Ok(sum) if sum == expected => Ok(()),
        _ => Err(damaged("is damaged: a header has a wrong check sum".to_owned())),
    }
}

fn cut_off(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off: it ends before its end mark")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests;
