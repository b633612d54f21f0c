//! What `spank-vm image` does with images that exist: list, show, check, verify, fetch, remove.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nix::unistd::{AccessFlags, Uid, User, access};

use super::output::{complain, print, print_line};
use image::digest;
use image::{Catalogue, Image, ImageError, Owner, runs_here};
use node::shelf::{ImageCopy, Shelf};
use node::text::printable;
use request::{ImageName, ImageRef};
use runner::config::Config;
use runner::error::chain;
use runner::{delivery, fetch};

/// Its result says whether this user can use the image, as far as that is known before there is a job. On a host
/// without the site's images, such as a login node, nothing is known: the nodes check.
pub fn check(config: &Config, image: &ImageRef) -> anyhow::Result<()> {
    let catalogue = config.catalogue();
    let image = match catalogue.resolve(image) {
        Err(ImageError::Directory { .. }) if !catalogue.is_here() => {
            return print_line(&format!("'{image}' is not checked: this host has none of the site's 'image_dirs'"));
        }
        found => found?,
    };
    image.check_disk(&image.open_disk()?)?;
    Ok(())
}

/// One line for every image: what it is, where it comes from, and whether this user can use it.
pub fn list(config: &Config) -> anyhow::Result<()> {
    let catalogue = config.catalogue();
    let names = catalogue.names()?;
    for (dir, error) in catalogue.unread() {
        complain(&format!("note: images in {} are not shown: {error}", dir.display()));
    }
    if names.is_empty() {
        return print("no images yet: 'spank-vm image import' makes one\n");
    }
    let mut rows = vec![["NAME", "SIZE", "FROM", "USABLE", "DESCRIPTION"].map(str::to_owned)];
    for name in &names {
        rows.push(match catalogue.find(name) {
            Ok(image) => {
                let opened = catalogue.permits(&image).and_then(|()| image.open_disk());
                let size = std::fs::metadata(&image.disk).map_or("-".to_owned(), |meta| human(meta.len()));
                let from = catalogue.owner_of(&image).map_or("", Owner::as_str).to_owned();
                let (usable, text) = match opened {
                    Ok(_) => ("yes", image.entry.description.clone()),
                    Err(why) => ("no", reason(&why)),
                };
                [name.to_string(), size, from, usable.to_owned(), text]
            }
            Err(error) => [name.to_string(), "-".into(), "-".into(), "no".into(), error.to_string()],
        });
    }
    let rows: Vec<[String; 5]> = rows.into_iter().map(|row| row.map(|cell| printable(&cell))).collect();
    let mut text = table(&rows);
    if catalogue.allows_paths() {
        text.push_str("or a disk file of your own: --vm-image=./my.qcow2\n");
    }
    print(&text)
}

/// A short text, for a table whose row already names the image.
fn reason(error: &ImageError) -> String {
    match error {
        ImageError::Disk { source, .. } => format!("its disk cannot be used: {source}"),
        ImageError::Refused { refusal, .. } => refusal.to_string(),
        other => other.to_string(),
    }
}

/// Each column is as wide as its widest word; the last one has no width.
fn table(rows: &[[String; 5]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..4).map(width).collect();
    let line = |[name, size, from, usable, text]: &[String; 5]| {
        let line = format!(
            "{name:<0$}  {size:>1$}  {from:<2$}  {usable:<3$}  {text}",
            widths[0], widths[1], widths[2], widths[3]
        );
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} K", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} M", bytes >> 20),
        _ => format!("{} G", bytes >> 30),
    }
}

/// Everything that is known of an image, as TOML.
pub fn show(config: &Config, image: &ImageRef) -> anyhow::Result<()> {
    let catalogue = config.catalogue();
    let image = match image {
        // Also an image that only others may use: "show" says who may use it.
        ImageRef::Name(name) => catalogue.find(name)?,
        path => catalogue.resolve(path)?,
    };
    let from = catalogue.owner_of(&image).map_or("path", Owner::as_str);
    let mut text = format!(
        "name = \"{}\"\nfrom = \"{from}\"\nentry = {:?}\ndisk_path = {:?}\n",
        image.name, image.entry_path, image.disk
    );
    match image.open_disk() {
        Ok(file) => {
            let bytes = file.metadata()?.len();
            text += &match image.check_disk(&file) {
                Ok(probe) => format!("disk_bytes = {bytes}\ncontent = \"{}\"\n", probe.content),
                Err(error) => format!("disk_bytes = {bytes}\nproblem = \"{}\"\n", printable(&error.to_string())),
            };
            let outlook = printable(&delivery::outlook(&image, &file, config));
            text += &format!("on_this_node = \"{outlook}\"\n");
        }
        Err(error) => text += &format!("problem = \"{}\"\n", printable(&error.to_string())),
    }
    print(&(text + &toml::to_string(&one_line_each(toml::Value::try_from(&image.entry)?))?))
}

/// The value with each text in it on one line. TOML would write a text with line ends on several lines, which could be
/// taken for keys.
fn one_line_each(value: toml::Value) -> toml::Value {
    use toml::Value::{Array, String, Table};
    match value {
        String(text) => String(printable(&text)),
        Array(values) => Array(values.into_iter().map(one_line_each).collect()),
        Table(table) => Table(table.into_iter().map(|(key, value)| (printable(&key), one_line_each(value))).collect()),
        other => other,
    }
}

/// Compares the disk, and its copies on this node that this user may see, with the entry's digest.
pub fn verify(config: &Config, image: &ImageRef) -> anyhow::Result<()> {
    let image = config.catalogue().resolve(image)?;
    let disk = image.open_disk()?;
    image.check_disk(&disk)?;
    let of = |mut file: File| digest::of_reader(&mut file);
    let found = of(disk).with_context(|| image.disk.display().to_string())?;
    let Some(expected) = &image.entry.sha256 else {
        return print_line(&format!(
            "{}: its entry has no digest to compare with; this line in {} adds it: sha256 = \"{found}\"",
            image.name,
            image.entry_path.display()
        ));
    };
    ensure!(found == *expected, delivery::wrong_digest(&image, expected, &found));
    print_line(&format!("{}: ok, {}", image.name, image.disk.display()))?;
    for (shelf, copy) in delivery::copies(&config.image_cache_dir(), expected) {
        let path = shelf.dir.join(expected);
        let found = of(copy).with_context(|| path.display().to_string())?;
        ensure!(
            found == *expected,
            "the copy {} of image '{}' on this node is damaged: its SHA-256 is {found}, and the entry says {expected}; \
             remove the file, and the next job makes another",
            path.display(),
            image.name
        );
        print_line(&format!("{}: ok, {}", image.name, path.display()))?;
    }
    Ok(())
}

/// Copies images to this node: as root for everybody, else for this user.
pub fn fetch_all(config: &Config, images: &[ImageRef], all: bool) -> anyhow::Result<()> {
    let names = match all {
        true => {
            let catalogue = config.catalogue();
            let names = that_run_here(&catalogue, site_images(&catalogue)?)?;
            names.into_iter().map(ImageRef::from).collect()
        }
        false => images.to_vec(),
    };
    let fetch_one = |image: &ImageRef| print_line(&format!("{image}: {}", fetch(config, image)?));
    for_each(&names, all, "not on this node", fetch_one)
}

/// Does the work for each image. Of all images, one that fails keeps no other from it.
pub fn for_each<T: Display>(
    images: &[T],
    all: bool,
    otherwise: &str,
    work: impl Fn(&T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut failed = 0;
    for image in images {
        match work(image) {
            Err(error) if all => {
                failed += 1;
                print_line(&format!("{image}: FAILED: {}", chain(error.as_ref())))?;
            }
            other => other?,
        }
    }
    let are = if failed == 1 { "is" } else { "are" };
    ensure!(failed == 0, "{failed} of {} images {are} {otherwise}", images.len());
    Ok(())
}

/// What belongs on every node: the site's images, not those of users and groups.
fn site_images(catalogue: &Catalogue) -> anyhow::Result<Vec<ImageName>> {
    let images = catalogue.list()?.into_iter().filter_map(Result::ok);
    let of_site = images.filter(|image| catalogue.owner_of(image) == Some(Owner::Site));
    Ok(of_site.map(|image| image.name).collect())
}

/// Those of all images whose programs this node's processor runs; a cluster may have nodes of several kinds. An entry
/// that cannot be read stays: what is done with it says why.
pub fn that_run_here(catalogue: &Catalogue, names: Vec<ImageName>) -> anyhow::Result<Vec<ImageName>> {
    let mut fit = Vec::new();
    for name in names {
        match catalogue.find(&name) {
            Ok(Image { entry, .. }) if !runs_here(&entry.arch) => {
                let here = std::env::consts::ARCH;
                print_line(&format!("{name}: left out: it is for {}, this node is {here}", entry.arch))?;
            }
            _ => fit.push(name),
        }
    }
    Ok(fit)
}

/// Removes the entry, and the disk beside it unless another entry there needs it.
pub fn remove(config: &Config, image: &ImageRef) -> anyhow::Result<()> {
    let catalogue = config.catalogue();
    let image = match image {
        ImageRef::Name(name) => catalogue.find(name)?,
        path => catalogue.resolve(path)?,
    };
    let dir = image.entry_path.parent().unwrap_or(Path::new("/")).to_owned();
    may_change(&image, &dir)?;
    // The entry is removed first, so that no new job finds the image. Running jobs have the disk open and keep it.
    std::fs::remove_file(&image.entry_path).with_context(|| image.entry_path.display().to_string())?;
    if image.disk != image.entry_path && image.disk.parent() == Some(&dir) && !is_needed(&image.disk, &dir) {
        std::fs::remove_file(&image.disk).with_context(|| image.disk.display().to_string())?;
    }
    if let Some(digest) = &image.entry.sha256 {
        let _ = Shelf::<ImageCopy>::for_process(&config.image_cache_dir()).remove(digest);
    }
    Ok(())
}

fn may_change(image: &Image, dir: &Path) -> anyhow::Result<()> {
    if access(dir, AccessFlags::W_OK).is_ok() {
        return Ok(());
    }
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir)?);
    let owner = User::from_uid(Uid::from_raw(owner)).ok().flatten().map_or(owner.to_string(), |user| user.name);
    bail!("image '{}' is not yours to remove: it is in {}, which belongs to {owner}", image.name, dir.display())
}

/// Whether another entry in `dir` has this disk.
fn is_needed(disk: &Path, dir: &Path) -> bool {
    let others = Catalogue::new(&[PathBuf::from(dir)]).list().unwrap_or_default();
    others.into_iter().flatten().any(|image| image.disk == disk)
}
