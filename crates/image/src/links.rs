//! The link map of an image: files of the guest that are links to a share.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a link would be lost or do harm: the guest's kernel and agent fill these directories, not the image.
const NOT_IN: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// Longest path in bytes: `PATH_MAX` of Linux without the NUL at its end.
const PATH_MOST: usize = 4095;

/// Links to be made in each VM: path in the guest → path on a share, both absolute.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<PathBuf, PathBuf>")]
pub struct Links(BTreeMap<PathBuf, PathBuf>);

impl Links {
    /// Each link with its target.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.0.iter().map(|(path, target)| (path.as_path(), target.as_path()))
    }

    /// Whether there are no links.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<PathBuf, PathBuf>> for Links {
    type Error = String;

    fn try_from(map: BTreeMap<PathBuf, PathBuf>) -> Result<Self, String> {
        let plain = |path: &Path| {
            path.is_absolute()
                && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        };
        for (path, target) in &map {
            if let Some(long) = [path, target].into_iter().find(|path| path.as_os_str().len() > PATH_MOST) {
                let begin: String = long.display().to_string().chars().take(40).collect();
                return Err(format!(
                    "links: '{begin}…' has more than {PATH_MOST} bytes, which no path on Linux can have"
                ));
            }
            let (link, to) = (path.display(), target.display());
            for path in [path, target] {
                if !plain(path) || path.parent().is_none() {
                    return Err(format!("link '{link}' = '{to}': '{}' is no absolute path of a file", path.display()));
                }
            }
            if let Some(directory) = NOT_IN.iter().find(|directory| path.starts_with(directory)) {
                return Err(format!("link '{link}' = '{to}': nothing of an image can be in {directory}"));
            }
        }
        Ok(Self(map))
    }
}

#[cfg(test)]
mod tests {
    use crate::ImageEntry;

    fn entry(links: &str) -> Result<ImageEntry, String> {
        let text = format!("disk = 'x'\nformat = 'squashfs'\n[links]\n{links}\n");
        toml::from_str(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn links_are_absolute_paths_and_survive_being_written() {
        let good = entry("'/usr/lib/libfftw3.so.3' = '/sw/fftw/lib/libfftw3.so.3'\n'/opt/x' = '/sw/x'").unwrap();
        assert_eq!(good.links.iter().count(), 2);
        assert_eq!(toml::from_str::<ImageEntry>(&toml::to_string(&good).unwrap()).unwrap(), good);
        for (bad, word) in [
            ("'usr/lib/x' = '/sw/x'", "'usr/lib/x'"),
            ("'/usr/lib/x' = 'sw/x'", "'sw/x'"),
            ("'/usr/../etc/x' = '/sw/x'", "'/usr/../etc/x'"),
            ("'/' = '/sw'", "'/'"),
            ("'/proc/x' = '/sw/x'", "/proc"),
            ("'/tmp' = '/sw/x'", "/tmp"),
        ] {
            let error = entry(bad).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn a_path_that_no_system_has_is_refused_here_and_not_where_it_is_sent() {
        let long = "x".repeat(4096);
        for links in [format!("'/{long}' = '/sw/x'"), format!("'/x' = '/{long}'")] {
            let error = entry(&links).unwrap_err();
            assert!(error.contains("has more than 4095 bytes"), "{error:.300}");
        }
        entry(&format!("'/x' = '/{}'", "x/".repeat(2040))).unwrap();
    }
}
