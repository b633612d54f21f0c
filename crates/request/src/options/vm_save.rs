//! `--vm-save`: where a VM's disk is kept.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::vm_image::ImageName;
use crate::error::RequestError;
use crate::values::shown;
use crate::vm_option::{About, VmOption};

/// After the place: an image of that name is replaced.
const REPLACE: &str = ",replace";

/// An image may be named by the file of its entry.
const ENTRY_ENDING: &str = ".toml";

/// `--vm-save`.
#[derive(Debug)]
pub struct VmSave;

impl VmOption for VmSave {
    const ABOUT: About = About {
        name: "vm-save",
        argument: Some("NAME|/PATH[,replace]"),
        is_list: false,
        help: "[vm] if the command succeeds, keep the disk of the first virtual machine as a new image",
        readme: "if the command succeeds, keep the disk of the first VM as a new image",
        run_name: "save",
        run_help: "Keep the first VM's disk as an image if its command succeeds",
    };

    type Value = SaveSpec;

    fn parse(text: &str) -> Result<SaveSpec, RequestError> {
        text.parse()
    }

    fn text(value: &SaveSpec) -> String {
        value.to_string()
    }
}

/// The value of `--vm-save`: `NAME[,replace]` or `/DIRECTORY/NAME[,replace]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveSpec {
    /// Name of the new image.
    pub name: ImageName,
    /// The directory for entry and disk; `None` is the first one in the catalogue that the user may write to.
    pub dir: Option<PathBuf>,
    /// Replace an image of that name.
    pub replace: bool,
}

impl FromStr for SaveSpec {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let wrong = |why: &str| RequestError(format!("--vm-save='{}': {why}", shown(text)));
        let place = text.strip_suffix(REPLACE).unwrap_or(text);
        let replace = place.len() < text.len();
        // Slurm splits nothing here: any other comma is a mistake.
        if place.contains(',') {
            return Err(wrong("the only word behind a comma is 'replace'"));
        }
        let name = |text: &str| {
            let name = text.strip_suffix(ENTRY_ENDING).unwrap_or(text);
            name.parse().map_err(|_| wrong("an image name is letters, digits, '.', '_', '+' and '-'"))
        };
        if !place.contains('/') {
            return Ok(Self { name: name(place)?, dir: None, replace });
        }
        let path = Path::new(place);
        if place.ends_with('/') {
            return Err(wrong("the path must end with the name of the new image"));
        }
        if !path.is_absolute() {
            return Err(wrong("the name of an image or an absolute path is needed (say \"$PWD/NAME\")"));
        }
        let (Some(dir), Some(last)) = (path.parent(), path.file_name().and_then(|last| last.to_str())) else {
            return Err(wrong("the path must end with the name of the new image"));
        };
        Ok(Self { name: name(last)?, dir: Some(dir.to_owned()), replace })
    }
}

impl fmt::Display for SaveSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(dir) = &self.dir {
            write!(f, "{}/", dir.display().to_string().trim_end_matches('/'))?;
        }
        // The reader removes one ending.
        let ending = if self.name.as_str().ends_with(ENTRY_ENDING) { ENTRY_ENDING } else { "" };
        write!(f, "{}{ending}{}", self.name, if self.replace { REPLACE } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_name_or_an_absolute_path() {
        let save: SaveSpec = "mine".parse().unwrap();
        assert_eq!((save.name.as_str(), save.dir, save.replace), ("mine", None, false));
        let save: SaveSpec = "/proj/x y/mine.toml,replace".parse().unwrap();
        assert_eq!((save.name.as_str(), save.dir, save.replace), ("mine", Some("/proj/x y".into()), true));
        for text in ["mine", "mine,replace", "/a/b", "/b", "/a b/c,replace"] {
            let save: SaveSpec = text.parse().unwrap();
            assert_eq!(save.to_string(), text);
        }
    }

    #[test]
    fn the_node_makes_the_image_that_the_submission_checked() {
        for text in ["mine.toml", "mine.toml.toml", "/a/b.toml.toml,replace", "//a//b", "/a/./b.toml"] {
            let save: SaveSpec = text.parse().unwrap();
            assert_eq!(VmSave::parse(&VmSave::text(&save)), Ok(save), "{text}");
        }
    }

    #[test]
    fn other_values_are_refused_with_their_reason() {
        for (bad, word) in [
            ("", "letters"),
            ("./mine", "absolute"),
            ("a/b", "absolute"),
            ("/proj/", "must end"),
            ("/", "must end"),
            ("/proj/..", "must end"),
            ("/proj/.hidden", "letters"),
            ("none", "letters"),
            ("mine,overwrite", "'replace'"),
            (",replace", "letters"),
        ] {
            let error = bad.parse::<SaveSpec>().unwrap_err().to_string();
            assert!(error.contains("--vm-save=") && error.contains(word), "{bad}: {error}");
        }
    }
}
