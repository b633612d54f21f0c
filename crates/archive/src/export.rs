//! Writes a directory with everything in it as a tar archive.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Entry, Kind, Writer, Xattr, shown};

/// Attributes that make sense only on the system that wrote them.
const LEFT_OUT: [&[u8]; 2] = [b"trusted.overlay.", b"security.selinux"];

/// What to export.
#[derive(Debug, Clone, Default)]
pub struct Export {
    /// The directory that becomes the archive's root.
    pub root: PathBuf,
    /// Paths below it, as in the file system, that are left out with everything in them.
    pub exclude: Vec<PathBuf>,
    /// Directories below it that are exported empty. A link of this name stays a link.
    pub hollow: Vec<PathBuf>,
    /// Mount points below it whose file systems belong to the tree. Any other mount point is exported as an empty
    /// directory.
    pub include: Vec<PathBuf>,
    /// Every file system mounted below belongs to the tree.
    pub across: bool,
    /// Files of this user and group get root as their owner.
    pub owner: Option<(u32, u32)>,
    /// The limit for all content in bytes; 0 means no limit.
    pub limit: u64,
}

/// Why a tree could not be exported.
#[derive(Debug)]
pub enum ExportError {
    /// A part of the tree cannot be read.
    Unreadable(PathBuf, io::Error),
    /// The files are larger than the limit.
    TooLarge(u64),
    /// The archive cannot be written.
    Output(io::Error),
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, why) => write!(f, "cannot read {}: {why}", shown(path.as_os_str().as_bytes())),
            Self::TooLarge(limit) => write!(f, "the files take more than {} MiB", limit >> 20),
            Self::Output(why) => write!(f, "the archive cannot be written: {why}"),
        }
    }
}

impl std::error::Error for ExportError {}

impl Export {
    /// Writes the tree as a whole archive. Sockets are left out, and symbolic links are never followed. A file
    /// that disappears meanwhile is no error: the tree may belong to a running system.
    ///
    /// # Errors
    /// The first file that cannot be read, or the archive cannot be written. The archive then has no end mark.
    pub fn write<W: Write>(&self, out: W) -> Result<W, ExportError> {
        let meta = fs::symlink_metadata(&self.root).map_err(|error| unreadable(&self.root, error))?;
        let mut walk = Walk { tree: self, writer: Writer::new(out), links: HashMap::new(), bytes: 0 };
        walk.directory(&self.root, b"", &meta)?;
        walk.writer.finish().map_err(ExportError::Output)
    }
}

struct Walk<'a, W> {
    tree: &'a Export,
    writer: Writer<W>,
    /// The first name of each file that has several names.
    links: HashMap<(u64, u64), Vec<u8>>,
    bytes: u64,
}

impl<W: Write> Walk<'_, W> {
    fn directory(&mut self, path: &Path, name: &[u8], meta: &Metadata) -> Result<(), ExportError> {
        let mut names: Vec<_> = match fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(listing) => listing.into_iter().map(|child| child.file_name()).collect(),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(unreadable(path, error)),
        };
        self.entry(path, if name.is_empty() { b"." } else { name }, meta, Kind::Directory, &mut io::empty())?;
        names.sort_unstable();
        for child in names {
            let path = path.join(&child);
            if self.tree.exclude.contains(&path) {
                continue;
            }
            let mut name = name.to_vec();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(child.as_bytes());
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() && self.tree.hollow.contains(&path) => {
                    self.entry(&path, &name, &found, Kind::Directory, &mut io::empty())?;
                }
                Ok(found) if !found.is_dir() => self.leaf(&path, &name, &found)?,
                Ok(found) if found.dev() == meta.dev() || self.tree.across || self.tree.include.contains(&path) => {
                    self.directory(&path, &name, &found)?;
                }
                Ok(found) => self.entry(&path, &name, &found, Kind::Directory, &mut io::empty())?,
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(unreadable(&path, error)),
            }
        }
        Ok(())
    }

    fn leaf(&mut self, path: &Path, name: &[u8], meta: &Metadata) -> Result<(), ExportError> {
        let kind = meta.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        if meta.nlink() > 1 {
            let id = (meta.dev(), meta.ino());
            if let Some(first) = self.links.get(&id) {
                let kind = Kind::HardLink(first.clone());
                return self.entry(path, name, meta, kind, &mut io::empty());
            }
            self.links.insert(id, name.to_vec());
        }
        if kind.is_file() {
            return self.file(path, name, meta);
        }
        let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
        let kind = if kind.is_symlink() {
            match fs::read_link(path) {
                Ok(target) => Kind::Symlink(target.into_os_string().into_vec()),
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(unreadable(path, error)),
            }
        } else if kind.is_char_device() {
            Kind::CharDevice(major, minor)
        } else if kind.is_block_device() {
            Kind::BlockDevice(major, minor)
        } else {
            Kind::Fifo
        };
        self.entry(path, name, meta, kind, &mut io::empty())
    }

    fn file(&mut self, path: &Path, name: &[u8], meta: &Metadata) -> Result<(), ExportError> {
        // O_NOFOLLOW, O_NONBLOCK: what was a file a moment ago may now be a link or a pipe.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut content = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => Content { file, error: None },
            Err(error) if is_gone(&error) => {
                // Another name of this file must not become a link to an entry that is not in the archive.
                self.links.remove(&(meta.dev(), meta.ino()));
                return Ok(());
            }
            Err(error) => return Err(unreadable(path, error)),
        };
        self.bytes = self.bytes.saturating_add(meta.len());
        if self.tree.limit > 0 && self.bytes > self.tree.limit {
            return Err(ExportError::TooLarge(self.tree.limit));
        }
        let written = self.entry(path, name, meta, Kind::File(meta.len()), &mut content);
        match content.error {
            Some(error) => Err(unreadable(path, error)),
            None => written,
        }
    }

    fn entry(
        &mut self,
        path: &Path,
        name: &[u8],
        meta: &Metadata,
        kind: Kind,
        content: &mut dyn Read,
    ) -> Result<(), ExportError> {
        let as_root = |id: u32, own: Option<u32>| if own == Some(id) { 0 } else { u64::from(id) };
        let xattrs = match kind {
            Kind::HardLink(_) => Vec::new(),
            _ => attributes(path).map_err(|error| unreadable(path, error))?,
        };
        let entry = Entry {
            path: name.to_vec(),
            kind,
            mode: meta.mode(),
            uid: as_root(meta.uid(), self.tree.owner.map(|(uid, _)| uid)),
            gid: as_root(meta.gid(), self.tree.owner.map(|(_, gid)| gid)),
            mtime: u64::try_from(meta.mtime()).unwrap_or(0),
            xattrs,
        };
        self.writer.entry(&entry, content).map_err(ExportError::Output)
    }
}

/// A file's content. It remembers whether reading failed, because writing can give the same error.
struct Content {
    file: File,
    error: Option<io::Error>,
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.error =
                    Some(error.raw_os_error().map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error));
            }
        })
    }
}

fn attributes(path: &Path) -> io::Result<Vec<Xattr>> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        // A file system without extended attributes.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTSUP | libc::ENOENT | libc::EPERM)) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in names.filter(|name| !LEFT_OUT.iter().any(|prefix| name.as_bytes().starts_with(prefix))) {
        match xattr::get(path, &name) {
            Ok(Some(value)) => found.push(Xattr { name: name.into_vec(), value }),
            Ok(None) => {}
            // In a namespace that we may not read.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM | libc::EACCES)) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    // ELOOP: the answer of O_NOFOLLOW when a link has replaced the file.
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE | libc::ELOOP | libc::ENOTDIR))
}

fn unreadable(path: &Path, error: io::Error) -> ExportError {
    ExportError::Unreadable(path.to_owned(), error)
}
