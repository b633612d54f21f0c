//! Where a new image goes, and whether it can be made there.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nix::unistd::{AccessFlags, access};

use super::catalogue::Catalogue;
use request::{ImageName, SaveSpec};

/// A place that was checked: the directory exists and this user may write to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// Name of the image.
    pub name: ImageName,
    /// Directory for disk and entry.
    pub dir: PathBuf,
    /// Replace an image of that name.
    pub replace: bool,
}

impl NewImage {
    /// Finds the directory that `spec` means. For a name alone that is the catalogue's directory for new images of this
    /// person; it is made if it does not exist yet.
    ///
    /// # Errors
    /// When there is no such directory, or the name is taken or would not be found; the text is for the user.
    pub fn find(spec: &SaveSpec, catalogue: &Catalogue) -> anyhow::Result<Self> {
        let SaveSpec { name, dir, replace } = spec.clone();
        let dir = match dir {
            Some(dir) => dir,
            None => {
                let own = catalogue.dir_for_new().with_context(|| {
                    format!("'{name}': the catalogue has no directory of yours; give a path, as in /DIRECTORY/{name}")
                })?;
                catalogue.would_find(&name)?;
                std::fs::create_dir_all(own).with_context(|| format!("your image directory {}", own.display()))?;
                own.to_owned()
            }
        };
        writable(&dir)?;
        let entry = dir.join(format!("{name}.toml"));
        if !replace && entry.symlink_metadata().is_ok() {
            bail!("image '{name}' exists in {}; choose another name, or say that it shall be replaced", dir.display());
        }
        Ok(Self { name, dir, replace })
    }
}

fn writable(dir: &Path) -> anyhow::Result<()> {
    ensure!(dir.is_dir(), "{} is no directory", dir.display());
    let rights = AccessFlags::W_OK | AccessFlags::X_OK;
    access(dir, rights).with_context(|| format!("the directory {} cannot be written", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirs::Person;

    #[test]
    fn a_name_goes_to_the_persons_own_directory() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("not yet/images");
        let site = dir.path().join("site");
        let ada = Person { name: "ada".into(), home: Some(own.clone()), ..Person::default() };
        let catalogue = Catalogue::of(&[site.clone(), "~".into()], ada, true);
        let find = |text: &str| NewImage::find(&text.parse().unwrap(), &catalogue);
        assert_eq!(find("mine").unwrap().dir, own);
        std::fs::write(own.join("mine.toml"), "").unwrap();
        let error = find("mine").unwrap_err().to_string();
        assert!(error.contains("'mine' exists in"), "{error}");
        assert!(find("mine,replace").unwrap().replace);
        let error = find("/nonexistent/mine").unwrap_err().to_string();
        assert!(error.contains("/nonexistent is no directory"), "{error}");
        std::fs::create_dir(&site).unwrap();
        std::fs::write(site.join("debian12.toml"), "").unwrap();
        let error = find("debian12,replace").unwrap_err().to_string();
        assert_eq!(
            error,
            format!("'debian12': {} has an image of that name, which comes first: choose another name", site.display())
        );
        let error = NewImage::find(&"mine".parse().unwrap(), &Catalogue::new(&[])).unwrap_err().to_string();
        assert!(error.contains("give a path"), "{error}");
    }
}
