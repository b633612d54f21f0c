//! Bringing an image's disk to its VMs: from its own place, or from a copy on the node.
//!
//! ```text
//! image ─► open (may this user read it?) ─► a copy worth having? no ─► in place
//!       └─► the site's or the user's copy ─► there: done, without a lock
//!                                        └─► not there: lock ─► copy, digest compared meanwhile ─► publish
//! ```
//!
//! What must hold:
//! - The image's own file is read once per node and user, however many VMs start at once.
//! - A copy is trusted only if nobody but root or this user can have written it, and if it was not changed
//!   since it was compared with the entry's digest.
//! - It is a cache: where no copy can be kept, the image is read in place. Only a wrong digest is an error.
//! - VMs get an open descriptor: they keep the file that was checked, even if its name changes.

mod copy;
mod failure;
mod terms;

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use nix::unistd::Uid;

use node::lock::Waited;
use node::shelf::{ImageCopy, Shelf};
use node::space::{self, Medium};
use node::trust::{self, Readers};

use super::signals::Signal;
use crate::config::{Config, Delivery};
use crate::error::{Blame, Context, Fault, RunError};
use image::Image;

use copy::{CopyError, Pass};

pub use terms::CopyTerms;

use failure::Failure;

/// An image's disk, open, as QEMU gets it.
#[derive(Debug)]
pub struct Disk {
    file: File,
    identity: String,
    readers: Readers,
    /// What it is, for messages.
    place: String,
}

impl Disk {
    /// The file, open for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Identifies its content: a copy's digest, or which file it is and when it was written.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Who can read the image in its own place. Known only to root, who makes copies and templates for others.
    pub fn readers(&self) -> Readers {
        self.readers
    }

    fn in_place(image: &Image, file: File, readers: Readers) -> Result<Self, RunError> {
        let identity =
            identity(&file.metadata().blame(Fault::Image).with_context(|| image.disk.display().to_string())?);
        Ok(Self { file, identity, readers, place: format!("{}, in place", image.disk.display()) })
    }

    /// Any file as the disk of a test.
    #[cfg(test)]
    pub(crate) fn stand_in(file: File) -> Self {
        Self { file, identity: "stand-in".to_owned(), readers: Readers::NOBODY, place: String::new() }
    }

    fn copied(digest: &str, copy: ImageCopy, shelf: &Shelf<ImageCopy>, readers: Readers) -> Self {
        let place = format!("the copy in {}", shelf.dir.display());
        Self { file: copy.into_file(), identity: format!("sha256 {digest}"), readers, place }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// Distinguishes a file from any that replaces it later.
pub fn identity(meta: &Metadata) -> String {
    format!("{} {} {} {} {}", meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())
}

/// From where a VM of this image would read it on this node, for people.
pub fn outlook(image: &Image, central: &File, config: &Config) -> String {
    if let Err(why) = copy_worth_having(image, central, config.delivery) {
        return format!("read in place: {why}");
    }
    let Some(digest) = &image.entry.sha256 else {
        return "read in place: its entry has no sha256".to_owned();
    };
    match copies(&config.image_cache_dir(), digest).first() {
        Some((shelf, _)) => format!("copied: {}", shelf.dir.join(digest).display()),
        None => "not yet copied".to_owned(),
    }
}

/// Result of asking for a disk.
#[derive(Debug)]
pub enum Delivered {
    /// Here it is.
    Disk(Disk),
    /// A signal ends the task.
    Interrupted(Signal),
}

/// Opens the image's disk, after copying it to this node if that is wanted.
///
/// # Errors
/// When this user has no permission to read the disk, it is not suitable for a VM, or it is not what its entry says.
pub fn deliver(image: &Image, terms: &CopyTerms<'_>) -> Result<Delivered, RunError> {
    let central = image.open_disk()?;
    let readers = if Uid::effective().is_root() { trust::readers(&central, &image.disk) } else { Readers::NOBODY };
    let disk = match (copy_worth_having(image, &central, terms.delivery), &image.entry.sha256) {
        (Ok(()), Some(digest)) => match copy_of(image, &central, digest, readers, terms)? {
            Copied::Copy(copy, shelf) => Disk::copied(digest, copy, &shelf, readers),
            Copied::Interrupted(signal) => return Ok(Delivered::Interrupted(signal)),
            Copied::None(why) => {
                tracing::warn!("image '{}' is read in place: {why}", image.name);
                Disk::in_place(image, central, readers)?
            }
        },
        (Ok(()), None) => {
            tracing::debug!("image '{}' is read in place: its entry has no sha256", image.name);
            Disk::in_place(image, central, readers)?
        }
        (Err(why), _) => {
            tracing::debug!("image '{}' is read in place: {why}", image.name);
            Disk::in_place(image, central, readers)?
        }
    };
    image.check_disk(disk.file())?;
    Ok(Delivered::Disk(disk))
}

/// Whether VMs should read a copy; else the reason against it.
fn copy_worth_having(image: &Image, central: &File, delivery: Delivery) -> Result<(), String> {
    match delivery {
        Delivery::InPlace => Err("delivery = 'in-place'".to_owned()),
        Delivery::Cache => Ok(()),
        Delivery::Auto if space::medium(central).is_ok_and(|medium| medium != Medium::Network) => {
            Err(format!("{} is on this node", image.disk.display()))
        }
        Delivery::Auto => Ok(()),
    }
}

/// Result of asking for a copy.
enum Copied {
    Copy(ImageCopy, Shelf<ImageCopy>),
    /// There is none and none can be made; the text is for the administrator.
    None(String),
    Interrupted(Signal),
}

/// Finds the copy or makes it: root makes it for everybody, a user for that user only.
fn copy_of(
    image: &Image,
    central: &File,
    digest: &str,
    readers: Readers,
    terms: &CopyTerms<'_>,
) -> Result<Copied, RunError> {
    let own = Shelf::for_process(&terms.cache_dir);
    for shelf in [Shelf::of_site(&terms.cache_dir), own.clone()] {
        if let Some(copy) = find(&shelf, digest) {
            return Ok(Copied::Copy(copy, shelf));
        }
    }
    if let Err(error) = own.prepare() {
        return Ok(Copied::None(format!("no copy can be kept: {error}")));
    }
    let source = identity(&central.metadata()?);
    match Failure::recent(&own, digest, &source) {
        Some(Failure { fatal: true, why }) => return Err(RunError::new(Fault::Image, why)),
        Some(Failure { fatal: false, why }) => {
            return Ok(Copied::None(format!("copying it failed a short while ago: {why}")));
        }
        None => {}
    }
    let deadline = Instant::now() + terms.patience;
    match own.lock(digest, deadline, terms.signals, || find(&own, digest)) {
        Ok(Waited::Found(copy)) => Ok(Copied::Copy(copy, own)),
        Ok(Waited::Interrupted(signal)) => Ok(Copied::Interrupted(signal)),
        Ok(Waited::TimedOut(why)) => {
            Ok(Copied::None(format!("another process did not finish copying it in time: {why}")))
        }
        Ok(Waited::Locked(_lock)) => match Failure::recent(&own, digest, &source) {
            // Its maker had the lock until now.
            Some(Failure { fatal: true, why }) => Err(RunError::new(Fault::Image, why)),
            Some(Failure { fatal: false, why }) => Ok(Copied::None(why)),
            None => Filling { image, central, digest, shelf: &own, readers, deadline, terms }.fill(),
        },
        Err(error) => Ok(Copied::None(format!("no lock in {}: {error}", own.dir.display()))),
    }
}

/// A copy that is being made on the shelf, whose lock this process holds.
struct Filling<'a> {
    image: &'a Image,
    central: &'a File,
    digest: &'a str,
    shelf: &'a Shelf<ImageCopy>,
    readers: Readers,
    deadline: Instant,
    terms: &'a CopyTerms<'a>,
}

impl Filling<'_> {
    fn fill(&self) -> Result<Copied, RunError> {
        let Self { image, central, digest, shelf, .. } = self;
        let source = identity(&central.metadata()?);
        let failed = |fatal: bool, why: String| {
            Failure { fatal, why: why.clone() }.note(shelf, digest, &source);
            why
        };
        let not_kept = |why: String| Ok(Copied::None(failed(false, why)));
        let here = |error: &dyn fmt::Display| format!("{}: {error}", shelf.dir.display());
        if let Err(why) = shelf.make_room(central.metadata()?.len(), self.terms.most_bytes) {
            return not_kept(why.to_string());
        }
        let draft = match shelf.begin(digest).and_then(|draft| draft.file().map(|file| (draft, file))) {
            Ok(draft) => draft,
            Err(error) => return not_kept(here(&error)),
        };
        let (draft, file) = draft;
        let begin = Instant::now();
        match copy::copy(central, &file, self.deadline, self.terms, image.name.as_str()) {
            Ok(Pass::Complete { sha256, bytes }) if sha256 == *digest => match draft.publish(self.readers) {
                Ok(copy) => {
                    let ms = begin.elapsed().as_millis() as u64;
                    let dir = shelf.dir.display();
                    tracing::info!(image = %image.name, bytes, ms, %dir, "image copied to this node");
                    Ok(Copied::Copy(copy, (*shelf).clone()))
                }
                Err(error) => not_kept(here(&error)),
            },
            Ok(Pass::Complete { sha256, .. }) => {
                Err(RunError::new(Fault::Image, failed(true, wrong_digest(image, digest, &sha256))))
            }
            Ok(Pass::Interrupted(signal)) => Ok(Copied::Interrupted(signal)),
            Ok(Pass::TooSlow) => {
                let seconds = self.terms.patience.as_secs();
                not_kept(format!("copying it takes longer than {seconds} s ('image_copy_timeout_s')"))
            }
            Err(CopyError::Source(source)) => {
                let why = format!("the disk of image '{}', {}: {source}", image.name, image.disk.display());
                Err(RunError::new(Fault::Image, why))
            }
            Err(CopyError::Target(error)) => not_kept(here(&error)),
        }
    }
}

/// The error for a disk whose content is not what its entry says.
pub fn wrong_digest(image: &Image, expected: &str, found: &str) -> String {
    format!(
        "the disk of image '{}', {}, was changed or damaged: its SHA-256 is {found}, and its entry says {expected}; \
         whoever made the image must put the right disk back, or import it again",
        image.name,
        image.disk.display()
    )
}

/// The copies of an image on this node that this process may read, with their shelves.
pub fn copies(cache_dir: &Path, digest: &str) -> Vec<(Shelf<ImageCopy>, File)> {
    let shelves: [Shelf<ImageCopy>; 2] =
        [Shelf::of_site(cache_dir), Shelf::of_user(cache_dir, Uid::effective().as_raw())];
    let found = shelves.into_iter().filter_map(|shelf| {
        let copy = shelf.look(digest).ok().flatten()?;
        Some((shelf, copy.into_file()))
    });
    found.collect()
}

/// The copy with that digest, to be used. One that others could have written is ignored, with a line for the
/// administrator.
fn find(shelf: &Shelf<ImageCopy>, digest: &str) -> Option<ImageCopy> {
    shelf.find(digest).unwrap_or_else(|error| {
        tracing::warn!("the copy {} is not used: {error}", shelf.dir.join(digest).display());
        None
    })
}

#[cfg(test)]
mod tests;
