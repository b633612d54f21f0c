//! Finding images by name in the site's image directories.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::ImageEntry;
use crate::request::ImageName;

/// An image whose entry was read.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name in the catalogue.
    pub name: ImageName,
    /// What the entry says.
    pub entry: ImageEntry,
    /// The entry's own path.
    pub entry_path: PathBuf,
    /// Absolute path of the disk file.
    pub disk: PathBuf,
}

impl Image {
    /// Opens the disk for reading: the check that it is there and that this user may use it.
    ///
    /// # Errors
    /// [`ImageError::Disk`].
    pub fn open_disk(&self) -> Result<File, ImageError> {
        let failed = |source| ImageError::Disk { name: self.name.clone(), disk: self.disk.clone(), source };
        let file = File::open(&self.disk).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() {
            return Err(failed(io::Error::other("not a regular file")));
        }
        Ok(file)
    }
}

/// Why an image cannot be had. Each text names the value and the remedy.
#[derive(Debug)]
pub enum ImageError {
    /// No directory has an entry of that name.
    Unknown {
        /// The name asked for.
        name: String,
        /// The most similar name there is.
        suggestion: Option<String>,
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
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, suggestion } => {
                write!(f, "no image '{name}'")?;
                if let Some(other) = suggestion {
                    write!(f, "; did you mean '{other}'?")?;
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
                "the disk of image '{name}', {}, cannot be used: {source}; the administrator must put it back or remove the entry",
                disk.display()
            ),
        }
    }
}

impl std::error::Error for ImageError {}

/// The images of a site.
#[derive(Debug, Clone)]
pub struct Catalogue<'a> {
    dirs: &'a [PathBuf],
}

impl<'a> Catalogue<'a> {
    /// The catalogue made of these directories, the first having precedence.
    pub fn new(dirs: &'a [PathBuf]) -> Self {
        Self { dirs }
    }

    /// The image of that name.
    ///
    /// # Errors
    /// Any [`ImageError`] but [`ImageError::Disk`]: the disk is not touched.
    pub fn find(&self, name: &ImageName) -> Result<Image, ImageError> {
        for dir in self.dirs {
            let path = dir.join(format!("{name}.toml"));
            match std::fs::read_to_string(&path) {
                Ok(text) => return parse(name.clone(), path, &text),
                // The directory itself may be what is missing or closed; only then is the name unknown for sure.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(ImageError::Entry { path, why: error.to_string() }),
            }
        }
        let names = self.names()?;
        let suggestion = names
            .into_iter()
            .map(|other| (strsim::damerau_levenshtein(name.as_str(), other.as_str()), other))
            .filter(|(distance, _)| *distance <= 1 + name.as_str().len() / 4)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, other)| other.to_string());
        Err(ImageError::Unknown { name: name.to_string(), suggestion })
    }

    /// All names, sorted. Directories that do not exist are skipped unless none exists.
    ///
    /// # Errors
    /// [`ImageError::Directory`].
    pub fn names(&self) -> Result<Vec<ImageName>, ImageError> {
        let mut names = Vec::new();
        let mut missing = None;
        let mut seen_any = false;
        for dir in self.dirs {
            let listing = match std::fs::read_dir(dir) {
                Ok(listing) => listing,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    missing.get_or_insert((dir, error));
                    continue;
                }
                Err(source) => return Err(ImageError::Directory { dir: dir.clone(), source }),
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

fn entry_name(path: &Path) -> Option<ImageName> {
    if path.extension()? != "toml" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

fn parse(name: ImageName, entry_path: PathBuf, text: &str) -> Result<Image, ImageError> {
    let entry: ImageEntry = toml::from_str(text)
        .map_err(|error| ImageError::Entry { path: entry_path.clone(), why: one_line(&error.to_string()) })?;
    entry.validate().map_err(|why| ImageError::Entry { path: entry_path.clone(), why })?;
    let dir = entry_path.parent().unwrap_or(Path::new("/"));
    let disk = dir.join(&entry.disk);
    Ok(Image { name, entry, entry_path, disk })
}

/// toml's errors draw the place over several lines; users get one.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.contains('|')).collect();
    lines.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_directory_wins_and_a_typing_error_gets_a_suggestion() {
        let (site, user) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let entry = |disk: &str| format!("disk = '{disk}'\nformat = 'squashfs'\n");
        std::fs::write(site.path().join("debian12.toml"), entry("site.sqfs")).unwrap();
        std::fs::write(user.path().join("debian12.toml"), entry("user.sqfs")).unwrap();
        std::fs::write(user.path().join("tiny.toml"), entry("/abs/tiny.sqfs")).unwrap();
        let dirs = [site.path().to_owned(), user.path().to_owned()];
        let catalogue = Catalogue::new(&dirs);
        assert_eq!(catalogue.find(&name("debian12")).unwrap().disk, site.path().join("site.sqfs"));
        assert_eq!(catalogue.find(&name("tiny")).unwrap().disk, Path::new("/abs/tiny.sqfs"));
        let error = catalogue.find(&name("debain12")).unwrap_err().to_string();
        assert_eq!(error, "no image 'debain12'; did you mean 'debian12'? (--vm-image=list shows all)");
        let error = catalogue.find(&name("windows")).unwrap_err().to_string();
        assert_eq!(error, "no image 'windows' (--vm-image=list shows all)");
    }

    #[test]
    fn a_broken_entry_is_one_line_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.toml"), "disk = 'a'\nformat = 'floppy'\n").unwrap();
        let dirs = [dir.path().to_owned()];
        let error = Catalogue::new(&dirs).find(&name("x")).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("floppy") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_catalogue_that_does_not_exist_is_not_an_empty_one() {
        let dirs = [PathBuf::from("/nonexistent/images")];
        let error = Catalogue::new(&dirs).find(&name("x")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/images"), "{error}");
    }
}
