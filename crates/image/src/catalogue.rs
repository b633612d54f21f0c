//! Finding images: by name in the catalogue's directories, or by path.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::allow::Refusal;
use super::dirs::{ImageDir, Owner, Person, expand};
use super::entry::ImageEntry;
use super::fitness;
use super::format::DiskFormat;
use super::mistake::{in_toml, meant};
use super::probe::Probe;
use request::{ImageName, ImageRef};

/// Maximum size of an entry in bytes: it may be any file of any user.
const ENTRY_MAX: u64 = 64 << 10;

/// An image whose entry was read.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name in the catalogue.
    pub name: ImageName,
    /// What the entry says.
    pub entry: ImageEntry,
    /// The entry's own path; the path of the disk if there is no entry.
    pub entry_path: PathBuf,
    /// Absolute path of the disk file.
    pub disk: PathBuf,
}

impl Image {
    /// Opens the disk for reading. This checks that it exists and that this user may use it; nothing is read.
    ///
    /// # Errors
    /// [`ImageError::Disk`].
    pub fn open_disk(&self) -> Result<File, ImageError> {
        open_regular(&self.disk).map_err(|source| self.disk_error(source))
    }

    /// Checks the content of the opened disk: it must be whole, must be what the entry says, and must not lead
    /// QEMU to another file.
    ///
    /// # Errors
    /// [`ImageError::Unfit`], or [`ImageError::Disk`] when it cannot be read.
    pub fn check_disk(&self, file: &File) -> Result<Probe, ImageError> {
        let probe = Probe::of(file).map_err(|source| self.disk_error(source))?;
        match fitness::objection(&self.entry, &probe) {
            None => Ok(probe),
            Some(why) => Err(ImageError::Unfit { name: self.name.clone(), disk: self.disk.clone(), why }),
        }
    }

    fn disk_error(&self, source: io::Error) -> ImageError {
        ImageError::Disk { name: self.name.clone(), disk: self.disk.clone(), source }
    }
}

/// Opens a file, and never waits for the other end of a pipe.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Why an image cannot be used. Each text names the value and the remedy.
#[derive(Debug)]
pub enum ImageError {
    /// No directory has an entry of that name.
    Unknown {
        /// The name asked for.
        name: String,
        /// The most similar name that exists.
        suggestion: Option<String>,
        /// A directory that this person cannot look into.
        closed: Option<PathBuf>,
    },
    /// A directory of the catalogue cannot be listed.
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// An entry cannot be read or is not valid.
    Entry {
        /// The entry's file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        why: String,
    },
    /// The disk file is not usable.
    Disk {
        /// The image.
        name: ImageName,
        /// Its disk file.
        disk: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The disk file is not what the entry says, is damaged, or is of a kind that no VM starts from.
    Unfit {
        /// The image.
        name: ImageName,
        /// Its disk file.
        disk: PathBuf,
        /// What is wrong and what helps.
        why: String,
    },
    /// A file that a user names cannot be opened.
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A path was given, but the site allows only images of the catalogue.
    PathForbidden {
        /// The file.
        path: PathBuf,
    },
    /// The entry's rules exclude this user or job.
    Refused {
        /// The image.
        name: ImageName,
        /// The rule.
        refusal: Refusal,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, suggestion, closed } => {
                write!(f, "no image '{name}'")?;
                if let Some(other) = suggestion {
                    write!(f, "; did you mean '{other}'?")?;
                }
                if let Some(dir) = closed {
                    write!(f, "; you cannot look into {}", dir.display())?;
                }
                f.write_str(" (--vm-image=list shows all)")
            }
            Self::Directory { dir, source } => write!(
                f,
                "the image catalogue {} cannot be read: {source}; the administrator sets it with 'image_dirs'",
                dir.display()
            ),
            Self::Entry { path, why } => write!(f, "the image entry {} is not valid: {why}", path.display()),
            Self::Disk { name, disk, source } => write!(
                f,
                "the disk of image '{name}', {}, cannot be used: {source}; whoever made the image must put it back or \
                 remove the entry",
                disk.display()
            ),
            Self::Unfit { name, disk, why } => write!(f, "the disk of image '{name}', {}, {why}", disk.display()),
            Self::File { path, source } if source.kind() == io::ErrorKind::NotFound => write!(
                f,
                "--vm-image={}: No such file or directory (names of the catalogue have no slash: --vm-image=list; 'spank-vm image \
                 import' makes an image of a container)",
                path.display()
            ),
            Self::File { path, source } => write!(f, "--vm-image={}: {source}", path.display()),
            Self::PathForbidden { path } => write!(
                f,
                "--vm-image={}: this site allows images of its catalogue only ('user_images'); --vm-image=list shows \
                 them",
                path.display()
            ),
            Self::Refused { name, refusal } => write!(f, "image '{name}' is {refusal}"),
        }
    }
}

impl std::error::Error for ImageError {}

/// The images that one person finds.
#[derive(Debug, Clone)]
pub struct Catalogue {
    dirs: Vec<ImageDir>,
    person: Person,
    user_images: bool,
}

impl Catalogue {
    /// The catalogue that `person` finds in these directories; the first directory has precedence. Without
    /// `user_images`, directories of users are ignored and paths are not allowed.
    pub fn of(patterns: &[PathBuf], person: Person, user_images: bool) -> Self {
        let mut dirs = expand(patterns, &person);
        dirs.retain(|dir| user_images || dir.owner != Owner::User);
        Self { dirs, person, user_images }
    }

    /// The same for the user who runs this process.
    pub fn new(patterns: &[PathBuf]) -> Self {
        Self::of(patterns, Person::of_process(), true)
    }

    /// The directories; the first has precedence.
    pub fn dirs(&self) -> &[ImageDir] {
        &self.dirs
    }

    /// Whether paths are allowed.
    pub fn allows_paths(&self) -> bool {
        self.user_images
    }

    /// Where new images of this person belong: those of root in the site's directory, those of others in a directory of
    /// their own.
    pub fn dir_for_new(&self) -> Option<&Path> {
        let owner = if self.person.is_root { Owner::Site } else { Owner::User };
        self.dirs.iter().find(|dir| dir.owner == owner).map(|dir| dir.path.as_path())
    }

    /// Checks that a new image of this person is what its name finds: directories before theirs come first.
    ///
    /// # Errors
    /// One that has an image of that name; the text is for the user.
    pub(crate) fn would_find(&self, name: &ImageName) -> anyhow::Result<()> {
        let dirs = self.dirs.iter().map(|dir| dir.path.as_path());
        let mut before = dirs.take_while(|dir| Some(*dir) != self.dir_for_new());
        match before.find(|dir| dir.join(format!("{name}.toml")).symlink_metadata().is_ok()) {
            Some(dir) => anyhow::bail!(
                "'{name}': {} has an image of that name, which comes first: choose another name",
                dir.display()
            ),
            None => Ok(()),
        }
    }

    /// Who owns the directory of the image's entry; `None` for an image that was named by its path.
    pub fn owner_of(&self, image: &Image) -> Option<Owner> {
        let parent = image.entry_path.parent()?;
        self.dirs.iter().find(|dir| dir.path == parent).map(|dir| dir.owner)
    }

    /// The image of that name or path, if its entry lets this person use it.
    ///
    /// # Errors
    /// Any [`ImageError`] except those about the content of a disk that has an entry.
    pub fn resolve(&self, image: &ImageRef) -> Result<Image, ImageError> {
        let image = match image {
            ImageRef::Name(name) => self.find(name)?,
            ImageRef::Path(path) if !self.user_images => return Err(ImageError::PathForbidden { path: path.clone() }),
            ImageRef::Path(path) => of_path(path)?,
        };
        self.permits(&image)?;
        Ok(image)
    }

    /// Checks that the image's entry lets this person use it.
    ///
    /// # Errors
    /// [`ImageError::Refused`].
    pub fn permits(&self, image: &Image) -> Result<(), ImageError> {
        let refused = |refusal| ImageError::Refused { name: image.name.clone(), refusal };
        image.entry.allow.permits(&self.person).map_err(refused)
    }

    /// The image of that name.
    ///
    /// # Errors
    /// Any [`ImageError`] except [`ImageError::Refused`] and those about the disk, which is not touched.
    pub fn find(&self, name: &ImageName) -> Result<Image, ImageError> {
        for dir in &self.dirs {
            let path = dir.path.join(format!("{name}.toml"));
            match read_entry(&path) {
                Ok(text) => return parse(name.clone(), path, &text),
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                // Images of a closed directory are not this person's, and must not hide those behind it. A closed entry
                // in an open directory is the image that was asked for.
                Err(_) if is_closed(&dir.path) => continue,
                Err(error) => return Err(ImageError::Entry { path, why: error.to_string() }),
            }
        }
        let names = self.names()?;
        if let (false, Some(site)) = (self.is_here(), self.dirs.iter().find(|dir| dir.owner == Owner::Site)) {
            let missing = std::fs::metadata(&site.path).err();
            let source = missing.unwrap_or_else(|| io::ErrorKind::NotADirectory.into());
            return Err(ImageError::Directory { dir: site.path.clone(), source });
        }
        let closed = self.dirs.iter().find(|dir| is_closed(&dir.path)).map(|dir| dir.path.clone());
        let suggestion = meant(name.as_str(), names.iter().map(ImageName::as_str)).map(str::to_owned);
        Err(ImageError::Unknown { name: name.to_string(), suggestion, closed })
    }

    /// The directories that exist and that this person cannot list.
    pub fn unread(&self) -> impl Iterator<Item = (&Path, io::Error)> {
        let of = |dir: &'_ ImageDir| std::fs::read_dir(&dir.path).err();
        let failed = self.dirs.iter().filter_map(move |dir| Some((dir.path.as_path(), of(dir)?)));
        failed.filter(|(_, error)| error.kind() != io::ErrorKind::NotFound)
    }

    /// Whether this host has the site's images at all. On a login node without them only the nodes can tell what there
    /// is.
    pub fn is_here(&self) -> bool {
        let mut of_site = self.dirs.iter().filter(|dir| dir.owner == Owner::Site).peekable();
        of_site.peek().is_none() || of_site.any(|dir| dir.path.is_dir())
    }

    /// All names, sorted. Directories that do not exist or are closed are skipped, unless none can be read and the site
    /// named one.
    ///
    /// # Errors
    /// [`ImageError::Directory`].
    pub fn names(&self) -> Result<Vec<ImageName>, ImageError> {
        let mut names = Vec::new();
        let mut missing = None;
        let mut seen_any = false;
        for ImageDir { path, owner } in &self.dirs {
            let listing = match std::fs::read_dir(path) {
                Ok(listing) => listing,
                Err(error) => {
                    if *owner == Owner::Site || error.kind() != io::ErrorKind::NotFound {
                        missing.get_or_insert((path, error));
                    }
                    continue;
                }
            };
            seen_any = true;
            names.extend(listing.flatten().filter_map(|file| entry_name(&file.path())));
        }
        match missing {
            Some((dir, source)) if !seen_any => Err(ImageError::Directory { dir: dir.clone(), source }),
            _ => {
                names.sort();
                names.dedup();
                Ok(names)
            }
        }
    }

    /// Every image, or why its entry is not valid.
    ///
    /// # Errors
    /// [`ImageError::Directory`].
    pub fn list(&self) -> Result<Vec<Result<Image, ImageError>>, ImageError> {
        Ok(self.names()?.iter().map(|name| self.find(name)).collect())
    }
}

/// The image in this file. Its extension shows that it is an entry; otherwise it is a disk, known by its content.
fn of_path(path: &Path) -> Result<Image, ImageError> {
    let failed = |source| ImageError::File { path: path.to_owned(), source };
    let name = ImageName::of_file(path);
    if path.extension().is_some_and(|extension| extension == "toml") {
        return parse(name, path.to_owned(), &read_entry(path).map_err(failed)?);
    }
    let probe = open_regular(path).and_then(|file| Probe::of(&file)).map_err(failed)?;
    let disk = path.to_owned();
    match DiskFormat::of(&probe.content) {
        Some(format) => {
            let entry = ImageEntry::new(disk.clone(), format);
            Ok(Image { name, entry, entry_path: disk.clone(), disk })
        }
        None => Err(ImageError::Unfit { name, disk, why: fitness::no_disk(&probe) }),
    }
}

/// Whether nothing in this directory can be reached.
fn is_closed(dir: &Path) -> bool {
    std::fs::metadata(dir.join(".")).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn read_entry(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_regular(path)?.take(ENTRY_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > ENTRY_MAX {
        true => Err(io::Error::other(format!("longer than the {} KiB of any entry", ENTRY_MAX >> 10))),
        false => Ok(text),
    }
}

fn entry_name(path: &Path) -> Option<ImageName> {
    if path.extension()? != "toml" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

fn parse(name: ImageName, entry_path: PathBuf, text: &str) -> Result<Image, ImageError> {
    let mut entry: ImageEntry = toml::from_str(text)
        .map_err(|error| ImageError::Entry { path: entry_path.clone(), why: in_toml(&error, text) })?;
    entry.validate().map_err(|why| ImageError::Entry { path: entry_path.clone(), why })?;
    if let Some(digest) = &mut entry.sha256 {
        // The digest is part of the names of copies on nodes.
        digest.make_ascii_lowercase();
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let why = "sha256 must be 64 hexadecimal digits, as sha256sum prints them".to_owned();
            return Err(ImageError::Entry { path: entry_path, why });
        }
    }
    let dir = entry_path.parent().unwrap_or(Path::new("/"));
    let disk = dir.join(&entry.disk);
    Ok(Image { name, entry, entry_path, disk })
}

#[cfg(test)]
mod tests;
