//! Bringing an image's disk to its VMs: from where it is, or from a copy on the node.
//!
//! ```text
//! image ─► open (may this user read it?) ─► a copy worth having? no ─► in place
//!       └─► the site's or the user's copy ─► there: done, without a lock
//!                                        └─► not there: lock ─► copy, digest compared meanwhile ─► publish
//! ```
//!
//! What must hold:
//! - The image's own file is read once per node and user, however many VMs start at once.
//! - A copy is believed only if nobody but root or this user can have written it, and not since it was compared
//!   with the entry's digest.
//! - It is a cache: where no copy can be kept, the image is read in place. Only a digest that is wrong is an error.
//! - VMs get an open descriptor: whatever happens to a name, they keep the file that was looked at.

mod copy;
mod local;
mod store;

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use super::lock::{self, Waited};
use super::signals::{Signal, Signals};
use crate::config::{Config, Delivery};
use crate::error::{Blame, Context, Fault, RunError};
use image::Image;

use copy::{Copied, CopyError};
use store::Failure;

pub use store::Shelf;

/// An image's disk, open, as QEMU gets it.
#[derive(Debug)]
pub struct Disk {
    file: File,
    identity: String,
    /// What it is for an explanation.
    place: String,
}

impl Disk {
    /// The file, open for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Tells its content from any other: a copy's digest, or which file it is and when it was written.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    fn in_place(image: &Image, file: File) -> Result<Self, RunError> {
        let identity =
            identity(&file.metadata().blame(Fault::Image).with_context(|| image.disk.display().to_string())?);
        Ok(Self { file, identity, place: format!("{}, in place", image.disk.display()) })
    }

    fn copied(digest: &str, file: File, shelf: &Shelf) -> Self {
        Self { file, identity: format!("sha256 {digest}"), place: format!("the copy in {}", shelf.dir.display()) }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// Tells a file from any that takes its place later.
pub fn identity(meta: &Metadata) -> String {
    format!("{} {} {} {} {}", meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())
}

/// What a VM of this image would read on this node, for people.
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

/// What came of asking for a disk.
#[derive(Debug)]
pub enum Delivered {
    /// Here it is.
    Disk(Disk),
    /// A signal came that ends the task.
    Interrupted(Signal),
}

/// The site's choice, the limits, and who wants to hear of it.
#[derive(Debug)]
pub struct Terms<'a> {
    /// Where to read from.
    pub delivery: Delivery,
    /// This node's directory for copies.
    pub cache_dir: PathBuf,
    /// What the copies of one owner may take of it, in bytes.
    pub most_bytes: u64,
    /// How long to wait for a copy.
    pub patience: Duration,
    /// Signals of this process.
    pub signals: &'a Signals,
    /// When to tell a waiting person, if there is one.
    pub notice_at: Option<Instant>,
}

impl<'a> Terms<'a> {
    /// As the site has configured.
    pub fn of(config: &Config, signals: &'a Signals, notice_at: Option<Instant>) -> Self {
        Self {
            delivery: config.delivery,
            cache_dir: config.image_cache_dir(),
            most_bytes: config.image_cache_mib << 20,
            patience: Duration::from_secs(config.image_copy_timeout_s),
            signals,
            notice_at,
        }
    }
}

/// Opens the image's disk, after copying it to this node where that is wanted.
///
/// # Errors
/// When this user may not read the disk, it is not fit for a VM, or it is not what its entry says.
pub fn deliver(image: &Image, terms: &Terms<'_>) -> Result<Delivered, RunError> {
    let central = image.open_disk()?;
    let disk = match (copy_worth_having(image, &central, terms.delivery), &image.entry.sha256) {
        (Ok(()), Some(digest)) => match obtain(image, &central, digest, terms)? {
            Obtained::Copy(file, shelf) => Disk::copied(digest, file, &shelf),
            Obtained::Interrupted(signal) => return Ok(Delivered::Interrupted(signal)),
            Obtained::None(why) => {
                tracing::warn!("image '{}' is read in place: {why}", image.name);
                Disk::in_place(image, central)?
            }
        },
        (Ok(()), None) => {
            tracing::debug!("image '{}' is read in place: its entry has no sha256", image.name);
            Disk::in_place(image, central)?
        }
        (Err(why), _) => {
            tracing::debug!("image '{}' is read in place: {why}", image.name);
            Disk::in_place(image, central)?
        }
    };
    image.check_disk(disk.file())?;
    Ok(Delivered::Disk(disk))
}

/// Whether VMs should read a copy; else why not.
fn copy_worth_having(image: &Image, central: &File, delivery: Delivery) -> Result<(), String> {
    match delivery {
        Delivery::InPlace => Err("delivery = 'in-place'".to_owned()),
        Delivery::Cache => Ok(()),
        Delivery::Auto if local::is_local(central) => Err(format!("{} is on this node", image.disk.display())),
        Delivery::Auto => Ok(()),
    }
}

enum Obtained {
    Copy(File, Shelf),
    /// There is none and none can be made; the text is for the administrator.
    None(String),
    Interrupted(Signal),
}

/// Finds the copy or makes it: root's for everybody, others' for themselves.
fn obtain(image: &Image, central: &File, digest: &str, terms: &Terms<'_>) -> Result<Obtained, RunError> {
    let own = Shelf::for_process(&terms.cache_dir);
    for shelf in [Shelf::of_site(&terms.cache_dir), own.clone()] {
        if let Some(file) = shelf.find(digest) {
            return Ok(Obtained::Copy(file, shelf));
        }
    }
    if let Err(error) = own.prepare() {
        return Ok(Obtained::None(format!("no copy can be kept: {error:#}")));
    }
    let source = identity(&central.metadata()?);
    match own.recent_failure(digest, &source) {
        Some(Failure { fatal: true, why }) => return Err(RunError::new(Fault::Image, why)),
        Some(Failure { fatal: false, why }) => {
            return Ok(Obtained::None(format!("copying it failed a short while ago: {why}")));
        }
        None => {}
    }
    let deadline = Instant::now() + terms.patience;
    let waited = lock::wait(&own.lock_path(digest), deadline, terms.signals, || own.find(digest));
    match waited {
        Ok(Waited::Found(file)) => Ok(Obtained::Copy(file, own)),
        Ok(Waited::Interrupted(signal)) => Ok(Obtained::Interrupted(signal)),
        Ok(Waited::TimedOut) => Ok(Obtained::None("another process did not finish copying it in time".to_owned())),
        Ok(Waited::Locked(_lock)) => match own.recent_failure(digest, &source) {
            // Its maker had the lock until now.
            Some(Failure { fatal: true, why }) => Err(RunError::new(Fault::Image, why)),
            Some(Failure { fatal: false, why }) => Ok(Obtained::None(why)),
            None => fill(image, central, digest, &own, deadline, terms),
        },
        Err(error) => Ok(Obtained::None(format!("no lock in {}: {error}", own.dir.display()))),
    }
}

/// Copies the disk onto the shelf, whose lock the caller holds.
fn fill(
    image: &Image,
    central: &File,
    digest: &str,
    shelf: &Shelf,
    deadline: Instant,
    terms: &Terms<'_>,
) -> Result<Obtained, RunError> {
    let begin = Instant::now();
    let meta = central.metadata()?;
    let failed = |fatal: bool, why: String| {
        shelf.note_failure(digest, &identity(&meta), &Failure { fatal, why: why.clone() });
        why
    };
    if let Err(why) = shelf.make_room(meta.len(), terms.most_bytes) {
        return Ok(Obtained::None(failed(false, why)));
    }
    let draft = match shelf.begin(digest) {
        Ok(draft) => draft,
        Err(error) => return Ok(Obtained::None(failed(false, format!("{}: {error}", shelf.dir.display())))),
    };
    match copy::copy(central, draft.file(), deadline, terms, image.name.as_str()) {
        Ok(Copied::Complete { sha256, bytes }) if sha256 == digest => {
            let file = match draft.publish(&meta) {
                Ok(file) => file,
                Err(error) => return Ok(Obtained::None(failed(false, format!("{}: {error}", shelf.dir.display())))),
            };
            let ms = begin.elapsed().as_millis() as u64;
            tracing::info!(image = %image.name, bytes, ms, dir = %shelf.dir.display(), "image copied to this node");
            Ok(Obtained::Copy(file, shelf.clone()))
        }
        Ok(Copied::Complete { sha256, .. }) => {
            Err(RunError::new(Fault::Image, failed(true, wrong_digest(image, digest, &sha256))))
        }
        Ok(Copied::Interrupted(signal)) => Ok(Obtained::Interrupted(signal)),
        Ok(Copied::TooSlow) => {
            let why = format!("copying it takes longer than {} s ('image_copy_timeout_s')", terms.patience.as_secs());
            Ok(Obtained::None(failed(false, why)))
        }
        Err(CopyError::Source(source)) => {
            let why = format!("the disk of image '{}', {}: {source}", image.name, image.disk.display());
            Err(RunError::new(Fault::Image, why))
        }
        Err(CopyError::Target(error)) => Ok(Obtained::None(failed(false, format!("{}: {error}", shelf.dir.display())))),
    }
}

/// Why a disk is not used whose content is not what its entry says.
pub fn wrong_digest(image: &Image, expected: &str, found: &str) -> String {
    format!(
        "the disk of image '{}', {}, was changed or damaged: its SHA-256 is {found}, and its entry says {expected}; \
         whoever made the image must put the right disk back, or import it again",
        image.name,
        image.disk.display()
    )
}

/// The copies of an image on this node that this process may look into, with their shelves.
pub fn copies(cache_dir: &Path, digest: &str) -> Vec<(Shelf, File)> {
    let shelves = [Shelf::of_site(cache_dir), Shelf::of_user(cache_dir, Uid::effective())];
    shelves.into_iter().filter_map(|shelf| shelf.find(digest).map(|file| (shelf, file))).collect()
}

#[cfg(test)]
mod tests;
