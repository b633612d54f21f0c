//! Gets a kernel package and its content.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::tool;
use crate::digest;

/// Debian's name for "the current generic kernel".
const DEFAULT_PACKAGE: &str = "linux-image-amd64";

/// Where the kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// A `.deb` file that is here already.
    File(PathBuf),
    /// A package of the configured Debian sources, a meta package (`linux-image-amd64`) included.
    Package(String),
}

impl Default for KernelSource {
    fn default() -> Self {
        Self::Package(DEFAULT_PACKAGE.to_owned())
    }
}

impl From<&str> for KernelSource {
    /// A text that looks like a path or a `.deb` means a file; any other text is the name of a package.
    fn from(text: &str) -> Self {
        if text.contains('/') || text.ends_with(".deb") { Self::File(text.into()) } else { Self::Package(text.into()) }
    }
}

/// The parts of an unpacked kernel package.
#[derive(Debug)]
pub(super) struct Kernel {
    /// File name of the package.
    pub package: String,
    pub release: String,
    /// The bzImage.
    pub image: PathBuf,
    /// `…/lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// Gets the package, downloads it into `cache` if necessary, and unpacks it into `dir` without installing it.
pub(super) fn unpack(source: &KernelSource, cache: &Path, dir: &Path) -> anyhow::Result<Kernel> {
    let deb = match source {
        KernelSource::File(path) => path.clone(),
        KernelSource::Package(name) => download(name, cache)?,
    };
    tool::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(dir))
        .with_context(|| format!("cannot unpack the kernel package {}", deb.display()))?;
    let package = deb.file_name().unwrap_or(deb.as_os_str()).to_string_lossy().into_owned();
    find_kernel(dir, package)
}

fn find_kernel(dir: &Path, package: String) -> anyhow::Result<Kernel> {
    let images = fs::read_dir(dir.join("boot")).into_iter().flatten().flatten();
    let release = images
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned()))
        .next()
        .with_context(|| format!("{package} has no /boot/vmlinuz-*: is it a kernel package?"))?;
    // Releases with a merged /usr have their modules there.
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .map(|place| dir.join(place).join(&release))
        .find(|path| path.is_dir())
        .with_context(|| format!("{package} has no modules for its kernel {release}"))?;
    let image = dir.join("boot").join(format!("vmlinuz-{release}"));
    Ok(Kernel { package, release, image, modules })
}

/// Downloads a package unless `cache` has that very version.
fn download(name: &str, cache: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let name = resolve(name)?;
    let printed = tool::run(Command::new("apt-get").args(["download", "--print-uris", &name]))
        .with_context(|| format!("no package {name} can be downloaded; is 'apt-get update' due?"))?;
    let offer = Offer::parse(&String::from_utf8_lossy(&printed))
        .with_context(|| format!("apt-get offers no file for the package {name}"))?;
    let path = cache.join(&offer.file);
    if offer.is_here(&path) {
        return Ok(path);
    }
    tool::run(Command::new("apt-get").args(["download", "-qq", &name]).current_dir(cache))?;
    match offer.is_here(&path) {
        true => Ok(path),
        false => bail!("the downloaded {} is not what the package index announces", path.display()),
    }
}

/// The real package behind a meta package: the kernel it depends on.
fn resolve(name: &str) -> anyhow::Result<String> {
    let printed = tool::run(Command::new("apt-cache").args(["depends", "--important", name]))
        .with_context(|| format!("the package sources of this system have no '{name}'"))?;
    Ok(kernel_dependency(&String::from_utf8_lossy(&printed)).unwrap_or(name).to_owned())
}

/// The first `linux-image-*` that `apt-cache depends` lists.
fn kernel_dependency(text: &str) -> Option<&str> {
    let depends = text.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
    depends.map(str::trim).find(|name| name.starts_with("linux-image-"))
}

/// A line of `apt-get download --print-uris`: `'URI' FILE SIZE SHA256:DIGEST`.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    file: String,
    size: u64,
    sha256: Option<String>,
}

impl Offer {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.starts_with('\''))?;
        let mut words = line.split_whitespace().skip(1);
        // apt escapes the colon of an epoch in names of files.
        let file = words.next()?.to_owned();
        let size = words.next()?.parse().ok()?;
        let sha256 = words.next().and_then(|word| word.strip_prefix("SHA256:")).map(str::to_owned);
        (!file.contains('/')).then_some(Self { file, size, sha256 })
    }

    /// Whether `path` is the whole file and the right one.
    fn is_here(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|meta| meta.len() == self.size)
            && self.sha256.as_ref().is_none_or(|wanted| digest::of_file(path).is_ok_and(|found| found == *wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_leads_to_its_kernel_and_a_kernel_to_itself() {
        assert_eq!(
            kernel_dependency("linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n"),
            Some("linux-image-6.1.0-56-amd64")
        );
        assert_eq!(
            kernel_dependency("linux-image-6.1.0-56-amd64\n  Depends: kmod\n |Depends: initramfs-tools\n"),
            None
        );
    }

    #[test]
    fn an_offer_is_read_and_compared_with_what_is_in_the_cache() {
        let text = "WARNING: x\n'http://deb/linux_1_amd64.deb' linux_1_amd64.deb 3 SHA256:\
                    ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n";
        let offer = Offer::parse(text).unwrap();
        assert_eq!((offer.file.as_str(), offer.size), ("linux_1_amd64.deb", 3));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(!offer.is_here(&path));
        fs::write(&path, "abd").unwrap();
        assert!(!offer.is_here(&path));
        fs::write(&path, "abc").unwrap();
        assert!(offer.is_here(&path));
        assert_eq!(Offer::parse("'http://x' ../x 3"), None);
        assert_eq!(Offer::parse(""), None);
    }

    #[test]
    fn a_source_is_a_file_or_a_package_by_its_looks() {
        assert_eq!(KernelSource::from("./a"), KernelSource::File("./a".into()));
        assert_eq!(KernelSource::from("a.deb"), KernelSource::File("a.deb".into()));
        assert_eq!(KernelSource::from(DEFAULT_PACKAGE), KernelSource::default());
    }

    #[test]
    fn a_package_without_a_kernel_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = find_kernel(dir.path(), "bash_5.deb".to_owned()).unwrap_err().to_string();
        assert!(error.starts_with("bash_5.deb has no /boot/vmlinuz"), "{error}");
    }
}
