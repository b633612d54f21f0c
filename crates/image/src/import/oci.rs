//! Container images: the OCI layout, as an archive or a directory, and what `docker save` writes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::layer::{Layer, Part};
use super::progress::Progress;
use crate::digest;
use archive::{Kind, Reader, shown};

/// Maximum size of a manifest or index, in bytes.
const MANIFEST_MAX: u64 = 16 << 20;

/// Maximum number of layers of an image.
const LAYERS_MAX: usize = 1000;

/// Maximum number of files in an archive of layers.
const FILES_MAX: usize = 100_000;

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// An index found in a place where a manifest is expected.
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Where tools write an image's tag, the most telling one first.
const TAGS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An entry of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The layers of the image in an archive, lowest first.
///
/// # Errors
/// There is no image for this processor, or there are several; or a part of it is missing or damaged.
pub fn of_archive(part: Part) -> anyhow::Result<Vec<Layer>> {
    let mut files = HashMap::new();
    let mut links = HashMap::new();
    let mut reader = Reader::new(part.reader(&Progress::none()));
    while let Some(entry) = reader.next_entry()? {
        let name = String::from_utf8_lossy(&entry.path).trim_start_matches("./").to_owned();
        ensure!(files.len() + links.len() < FILES_MAX, "the archive has too many files for a container image");
        match entry.kind {
            Kind::File(size) => _ = files.insert(name, (reader.position(), size)),
            // Old docker versions write a layer that another image also has as a link.
            Kind::Symlink(target) => _ = links.insert(name, String::from_utf8_lossy(&target).into_owned()),
            _ => {}
        }
    }
    Store::Archive { part, files, links }.layers()
}

/// The layers of the image in a directory.
///
/// # Errors
/// As [`of_archive`].
pub fn of_directory(dir: &Path) -> anyhow::Result<Vec<Layer>> {
    Store::Directory(dir.to_owned()).layers()
}

/// Where the files of a layout are.
#[derive(Debug)]
enum Store {
    Archive { part: Part, files: HashMap<String, (u64, u64)>, links: HashMap<String, String> },
    Directory(PathBuf),
}

impl Store {
    fn layers(&self) -> anyhow::Result<Vec<Layer>> {
        if self.get("index.json")?.is_some() {
            return self.oci_layers();
        }
        let mut images: Vec<DockerImage> = self.json("manifest.json").context("manifest.json")?;
        // Two names of one image.
        let first = images.first().map(|image| image.layers.clone());
        if images.iter().all(|image| Some(&image.layers) == first.as_ref()) {
            images.truncate(1);
        }
        let [image] = &images[..] else {
            let names: Vec<String> = images.iter().map(DockerImage::name).collect();
            bail!("the archive has {} images ({}): save one alone", images.len(), names.join(", "));
        };
        ensure!(image.layers.len() <= LAYERS_MAX, "the image has {} layers", image.layers.len());
        let layer = |(number, name): (usize, &String)| {
            let part = self.get(name)?.with_context(|| format!("layer '{name}' of the image is not in the archive"))?;
            // Such an archive has no digests of its content.
            Ok(Layer::new(part, layer_name(number), Some(String::new()))?)
        };
        image.layers.iter().enumerate().map(layer).collect()
    }

    fn oci_layers(&self) -> anyhow::Result<Vec<Layer>> {
        let index: Index = self.json("index.json").context("index.json")?;
        let mut chosen = choose(&index.manifests)?;
        // An index may name indexes.
        for _ in 0..4 {
            let manifest: Manifest = serde_json::from_slice(&self.blob(&chosen)?).context("the image's manifest")?;
            if !manifest.manifests.is_empty() {
                chosen = choose(&manifest.manifests)?;
                continue;
            }
            ensure!(!manifest.layers.is_empty(), "the image has no layers");
            ensure!(manifest.layers.len() <= LAYERS_MAX, "the image has {} layers", manifest.layers.len());
            return manifest.layers.iter().enumerate().map(|(number, layer)| self.layer(number, layer)).collect();
        }
        bail!("the image's index leads from one to the next")
    }

    fn layer(&self, number: usize, descriptor: &Descriptor) -> anyhow::Result<Layer> {
        let kind = &descriptor.media_type;
        ensure!(
            !kind.contains("encrypted"),
            "the image is encrypted: decrypt it first, e.g. with 'skopeo copy --decryption-key'"
        );
        let hex = sha256(&descriptor.digest)?;
        let part = self.get(&format!("blobs/sha256/{hex}"))?;
        let part = part.with_context(|| {
            format!("layer {} of the image is not in it: save it with all its layers", descriptor.digest)
        })?;
        Ok(Layer::new(part, layer_name(number), Some(hex.to_owned()))?)
    }

    /// The content of a small blob; it must match its digest.
    fn blob(&self, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
        let hex = sha256(&descriptor.digest)?;
        let bytes = self.read(&format!("blobs/sha256/{hex}"))?;
        ensure!(digest::of_bytes(&bytes) == hex, "the manifest {} is damaged: copy the file again", descriptor.digest);
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_slice(&self.read(name)?)?)
    }

    fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let part = self.get(name)?.with_context(|| format!("the image has no '{name}'"))?;
        ensure!(part.len <= MANIFEST_MAX, "'{name}' has {} bytes", part.len);
        let mut bytes = Vec::new();
        part.reader(&Progress::none()).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn get(&self, name: &str) -> anyhow::Result<Option<Part>> {
        match self {
            Self::Archive { part, files, links } => {
                let name = links.get(name).map_or_else(|| name.to_owned(), |target| beside(name, target));
                Ok(files.get(&name).and_then(|&(offset, len)| part.range(offset, len)))
            }
            Self::Directory(dir) => {
                let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
                ensure!(plain, "the image names the file '{name}', which leads out of it");
                match File::open(dir.join(name)) {
                    Ok(file) => Ok(Some(Part::of_file(file)?)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error).with_context(|| dir.join(name).display().to_string()),
                }
            }
        }
    }
}

impl DockerImage {
    fn name(&self) -> String {
        self.repo_tags.iter().flatten().next().cloned().unwrap_or_else(|| "nameless".to_owned())
    }
}

impl Descriptor {
    /// What people call it.
    fn name(&self) -> String {
        let tag = TAGS.iter().find_map(|tag| self.annotations.get(*tag));
        tag.map_or_else(|| self.digest.chars().take(19).collect(), |tag| shown(tag.as_bytes()))
    }
}

/// The image for this processor.
fn choose(manifests: &[Descriptor]) -> anyhow::Result<Descriptor> {
    // Attestations are not images, and two tags may name one image.
    let mut images: Vec<&Descriptor> = Vec::new();
    for manifest in manifests {
        let is_image = manifest.platform.as_ref().is_none_or(|p| p.architecture != "unknown");
        if is_image && images.iter().all(|other| other.digest != manifest.digest) {
            images.push(manifest);
        }
    }
    if let [only] = images[..] {
        return Ok(only.clone());
    }
    let list = |images: &[&Descriptor]| images.iter().map(|image| image.name()).collect::<Vec<_>>().join(", ");
    if images.iter().all(|image| image.platform.is_none()) {
        bail!("there are {} images in it ({}): save one alone", images.len(), list(&images));
    }
    let wanted: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["amd64", "386"],
        "aarch64" => &["arm64"],
        other => &[other],
    };
    let is =
        |m: &Descriptor, arch: &str| m.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == arch);
    for arch in wanted {
        let found: Vec<&Descriptor> = images.iter().copied().filter(|m| is(m, arch)).collect();
        match found[..] {
            [] => {}
            [only] => return Ok(only.clone()),
            _ => bail!("there are {} images for {arch} in it ({}): save one alone", found.len(), list(&found)),
        }
    }
    let names =
        |m: &&Descriptor| m.platform.as_ref().map_or("unnamed".to_owned(), |p| format!("{}/{}", p.os, p.architecture));
    let there: Vec<String> = images.iter().map(names).collect();
    bail!("there is no image for linux/{} in it, but for {}", wanted[0], there.join(", "))
}

fn sha256(digest: &str) -> anyhow::Result<&str> {
    let hex =
        digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    hex.with_context(|| format!("'{digest}' is no digest of sha256"))
}

/// The path that a link `target` in the directory of `name` means.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            other => parts.push(other),
        }
    }
    parts.join("/")
}

fn layer_name(number: usize) -> String {
    format!("layer {}", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(platform: Option<(&str, &str)>) -> Descriptor {
        let platform = platform.map(|(os, arch)| Platform { os: os.to_owned(), architecture: arch.to_owned() });
        let annotations = HashMap::new();
        Descriptor { media_type: String::new(), digest: format!("{platform:?}"), platform, annotations }
    }

    fn tagged(digest: &str, tag: &str) -> Descriptor {
        let annotations = [(TAGS[1].to_owned(), tag.to_owned())].into();
        Descriptor { digest: digest.to_owned(), annotations, ..manifest(None) }
    }

    #[test]
    fn two_tags_of_one_image_are_one_image_and_two_images_are_named_by_their_tags() {
        let one = [tagged("sha256:aa", "latest"), tagged("sha256:aa", "12")];
        assert_eq!(choose(&one).unwrap().digest, "sha256:aa");
        let two = [tagged("sha256:aa", "11"), tagged("sha256:bb", "12"), tagged("sha256:bb", "latest")];
        let error = choose(&two).unwrap_err().to_string();
        assert_eq!(error, "there are 2 images in it (11, 12): save one alone");
        assert!(choose(&[]).unwrap_err().to_string().contains("0 images"));
    }

    #[test]
    fn of_many_images_this_processor_s_is_taken_and_otherwise_all_are_named() {
        let own = if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" };
        let many = [Some(("linux", "s390x")), Some(("linux", own)), Some(("unknown", "unknown"))].map(manifest);
        assert_eq!(choose(&many).unwrap().digest, many[1].digest);
        assert_eq!(choose(&[manifest(None)]).unwrap().digest, "None");
        let others = [Some(("linux", "s390x")), Some(("windows", own))].map(manifest);
        let error = choose(&others).unwrap_err().to_string();
        assert!(error.contains(&format!("linux/{own}")) && error.contains("linux/s390x, windows/"), "{error}");
    }

    #[test]
    fn links_of_an_archive_stay_in_it() {
        assert_eq!(beside("b/layer.tar", "../a/layer.tar"), "a/layer.tar");
        assert_eq!(beside("b/layer.tar", "../../../etc/passwd"), "etc/passwd");
        assert!(sha256("sha256:../../etc/passwd").is_err());
    }
}
