//! `--vm-image`: the image, by its name in the catalogue or as a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::RequestError;
use crate::values::shown;
use crate::vm_option::{About, VmOption};

/// As a value: turns an inherited image off.
pub const NONE: &str = "none";

/// As a value: prints the catalogue and submits nothing.
pub const LIST: &str = "list";

/// `--vm-image`.
#[derive(Debug)]
pub struct VmImage;

impl VmOption for VmImage {
    const ABOUT: About = About {
        name: "vm-image",
        argument: Some("NAME|PATH"),
        is_list: false,
        help: "[vm] run in a virtual machine with this image, by its name or as a file (./my.qcow2); 'list' prints \
               the images, 'none' switches an inherited value off",
        readme: "run the step in this image; `list` prints all, `none` switches an inherited image off",
        run_name: "image",
        run_help: "Image to run the command in: a name ('spank-vm image list' shows all) or a path with a slash",
    };

    type Value = ImageRef;

    fn parse(text: &str) -> Result<ImageRef, RequestError> {
        text.parse()
    }

    fn text(value: &ImageRef) -> String {
        value.to_string()
    }
}

/// Longest image name or path in bytes.
const MAX_IMAGE: usize = 1024;

/// The name of an image in the catalogue.
///
/// Letters, digits, `.`, `_`, `+` and `-`, starting with a letter or digit: a name can be a file
/// name, an option value and a word in a message without quoting. `none` and `list` are taken: as
/// values of `--vm-image` they have a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageName(String);

impl ImageName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for the image in this file: the file's name, with characters that are not allowed in names replaced.
    pub fn of_file(path: &Path) -> Self {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name: String = stem.chars().map(|c| if is_legal(c) { c } else { '_' }).collect();
        let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        name.parse().unwrap_or_else(|_| Self("image".to_owned()))
    }
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._+-".contains(c)
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageName {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        if text.is_empty() {
            return Err(RequestError("--vm-image needs a name (--vm-image=list shows all)".into()));
        }
        if [NONE, LIST].contains(&text) {
            return Err(RequestError(format!("--vm-image={text} is a word of its own and cannot name an image")));
        }
        let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if text.len() > MAX_IMAGE || !text.chars().all(is_legal) || !begins_well {
            return Err(RequestError(format!(
                "--vm-image='{}': an image name is letters, digits, '.', '_', '+' and '-' (--vm-image=list shows \
                 all); a path has a slash",
                shown(text)
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The value of `--vm-image`: a name, or with a slash in it a path, of a disk or of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// An image of the catalogue.
    Name(ImageName),
    /// A file of the user's choice.
    Path(PathBuf),
}

impl ImageRef {
    /// Name or path as it was given.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Name(name) => name.as_str(),
            Self::Path(path) => path.to_str().unwrap_or_default(),
        }
    }

    /// The path, if it is a relative one, which needs a directory to start in.
    pub fn relative_path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) if path.is_relative() => Some(path),
            _ => None,
        }
    }

    /// The same with a relative path starting at `dir`.
    #[must_use]
    pub fn seen_from(self, dir: &Path) -> Self {
        match self {
            Self::Path(path) => {
                // A leading "./" would only be noise in messages.
                let path = path.strip_prefix(".").map(Path::to_owned).unwrap_or(path);
                Self::Path(dir.join(path))
            }
            name => name,
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<ImageName> for ImageRef {
    fn from(name: ImageName) -> Self {
        Self::Name(name)
    }
}

impl FromStr for ImageRef {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        if !text.contains('/') {
            return Ok(Self::Name(text.parse()?));
        }
        // Such a path could be opened, but not shown in one line.
        if text.len() > MAX_IMAGE || text.chars().any(char::is_control) {
            return Err(RequestError(format!(
                "--vm-image='{}': a path has at most {MAX_IMAGE} bytes and no control characters",
                shown(text)
            )));
        }
        Ok(Self::Path(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_that_could_be_paths_or_options_are_refused() {
        for good in ["debian12", "a", "CentOS-7.9_x+1"] {
            assert!(good.parse::<ImageName>().is_ok(), "{good}");
        }
        for bad in ["", "none", "list", "../x", "a/b", "-x", ".hidden", "a b", "a,b", "a\n", "é", &"x".repeat(2000)] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slash_makes_a_path() {
        for (text, from_dir) in
            [("./my.qcow2", "/work/my.qcow2"), ("a/../b", "/work/a/../b"), ("/abs/x y,z.img", "/abs/x y,z.img")]
        {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!((image.as_str(), image.relative_path().is_some()), (text, !text.starts_with('/')));
            assert_eq!(image.seen_from(Path::new("/work")).as_str(), from_dir);
        }
        assert_eq!("tiny".parse(), Ok(ImageRef::Name(ImageName("tiny".into()))));
        for bad in ["", "none", "tiny;id", "a\n/b", &format!("/{}", "x".repeat(2000))] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_file_gives_a_name() {
        for (path, name) in
            [("/a/my disk.qcow2", "my_disk"), ("/a/.hidden", "hidden"), ("/none", "image"), ("/é", "image")]
        {
            assert_eq!(ImageName::of_file(Path::new(path)).as_str(), name);
        }
    }
}
