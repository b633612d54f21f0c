//! Templates: booted guests kept on the node's disk, from which VMs are cloned in a tenth of a second.
//!
//! ```text
//! recipe ─► key ─► the site's or the user's shelf ─► there: open it
//!                                                └─► not there: lock ─► build (boot, settle, save) ─► publish
//! ```
//!
//! What must hold:
//! - A template holds nothing of a job: it is saved before the agent gets any task.
//! - It is trusted only if nobody but root or this user can have written it.
//! - It is a cache: if anything is wrong with it, the VM boots instead, and the next start builds a new one.
//! - It is built once for any number of waiting tasks, under a lock that dies with its holder.

mod builder;
mod carry;
mod checksum;
mod key;
mod manifest;
mod processor;

use std::path::Path;
use std::time::Instant;

use nix::unistd::Uid;
use node::dir;
use node::lock::Waited;
use node::shelf::{Shelf, TemplateDir};
use node::trust::Readers;

use crate::error::{Blame, Context, Fault, RunError};
use crate::signals::Signal;

use builder::Built;

#[cfg(any(test, feature = "fuzzing"))]
pub use self::{builder::hear, manifest::Manifest};
pub use builder::Terms;
pub use key::{Key, Recipe};
pub use manifest::Template;

/// Result of asking for a template.
#[derive(Debug)]
pub enum Obtained<T = Template> {
    /// Here it is.
    Template(T),
    /// There is none and none can be made here; the VM boots. The text is for the administrator.
    Unavailable(String),
    /// Making one has failed, now or a short while ago; the VM boots, and its user should know why that is slow.
    Failed(String),
    /// The same, because the guest or its QEMU ended.
    NoGuest(String),
    /// The guest did not answer within its full time, so a second boot makes no sense; the text is for the
    /// user.
    NoBoot(String),
    /// A signal ends the task.
    Interrupted(Signal),
}

impl<T> Obtained<T> {
    /// The same with another type in place of a template.
    pub fn map<U>(self, with: impl FnOnce(T) -> U) -> Obtained<U> {
        match self {
            Self::Template(template) => Obtained::Template(with(template)),
            Self::Unavailable(why) => Obtained::Unavailable(why),
            Self::Failed(why) => Obtained::Failed(why),
            Self::NoGuest(why) => Obtained::NoGuest(why),
            Self::NoBoot(why) => Obtained::NoBoot(why),
            Self::Interrupted(signal) => Obtained::Interrupted(signal),
        }
    }
}

/// Finds the recipe's template or makes it for this user.
pub fn obtain(recipe: &Recipe<'_>, template_dir: &Path, cache_bytes: u64, terms: &Terms<'_>) -> Obtained {
    let own = Shelf::of_user(template_dir, Uid::effective().as_raw());
    let found = || -> Result<Obtained, RunError> {
        let anybodys = Recipe { introduction: &[], ..*recipe };
        if let Some(template) = find(&Shelf::of_site(template_dir), &anybodys.key().context("key")?) {
            return Ok(Obtained::Template(template));
        }
        obtain_from(&own, recipe, cache_bytes, terms)
    };
    found().unwrap_or_else(|error| match own.prepare() {
        Ok(()) if error.fault() == Fault::Guest => Obtained::NoGuest(format!("{error:#}")),
        Ok(()) => Obtained::Failed(format!("{error:#}")),
        // The site's matter, and the same at every start.
        Err(_) => Obtained::Unavailable(format!("no template in {}: {error:#}", own.dir.display())),
    })
}

/// Finds the recipe's template on the shelf of this user or makes it there.
///
/// # Errors
/// When the shelf cannot be used or the template cannot be kept.
pub fn obtain_from(
    shelf: &Shelf<TemplateDir>,
    recipe: &Recipe<'_>,
    cache_bytes: u64,
    terms: &Terms<'_>,
) -> Result<Obtained, RunError> {
    let key = recipe.key().context("key")?;
    if let Some(template) = find(shelf, &key) {
        return Ok(Obtained::Template(template));
    }
    if let Err(error) = shelf.prepare() {
        // The next start would fail in the same way, so the administrator must be told.
        tracing::warn!("VMs boot, no template can be kept: {error}");
        return Err(error).blame(Fault::Node);
    }
    if let Some(why) = shelf.recent_failure(key.as_str()) {
        return Err(failed_lately(&why));
    }
    make_once(shelf, recipe, &key, Readers::NOBODY, cache_bytes, terms)
}

/// Makes the recipe's template for the whole site, readable by all users who can read the image's disk.
///
/// # Errors
/// When this is not root, or the template cannot be made.
pub fn make_for_site(
    recipe: &Recipe<'_>,
    template_dir: &Path,
    cache_bytes: u64,
    terms: &Terms<'_>,
) -> Result<Obtained, RunError> {
    let shelf = Shelf::of_site(template_dir);
    shelf.prepare().blame(Fault::Node)?;
    // After a reboot a node makes its templates first; the old ones are useless.
    shelf.remove_of_other_boots();
    let key = recipe.key().context("key")?;
    // The memory contains data from the disk, so only readers of the disk may read the template.
    make_once(&shelf, recipe, &key, recipe.disk.readers(), cache_bytes, terms)
}

fn failed_lately(why: &str) -> RunError {
    RunError::new(Fault::Node, format!("making it failed a short while ago: {why}"))
}

/// The template of that key. A damaged one is ignored, with a line for the administrator.
fn find(shelf: &Shelf<TemplateDir>, key: &Key) -> Option<Template> {
    let opened = || -> Result<Option<Template>, RunError> {
        let Some(dir) = shelf.find(key.as_str())? else { return Ok(None) };
        Template::open(shelf, key.as_str(), &dir).map(Some)
    };
    opened().unwrap_or_else(|error| {
        tracing::warn!("the template {} is not used: {error:#}", shelf.dir.join(key.as_str()).display());
        None
    })
}

/// Makes the template under its lock, unless another process does, and keeps the shelf within its limit.
fn make_once(
    shelf: &Shelf<TemplateDir>,
    recipe: &Recipe<'_>,
    key: &Key,
    readers: Readers,
    cache_bytes: u64,
    terms: &Terms<'_>,
) -> Result<Obtained, RunError> {
    let deadline = Instant::now() + terms.attempt.patience();
    let failed_before = shelf.recent_failure(key.as_str());
    match shelf.lock(key.as_str(), deadline, terms.signals, || find(shelf, key)).context("lock")? {
        Waited::Found(template) => Ok(Obtained::Template(template)),
        Waited::Interrupted(signal) => Ok(Obtained::Interrupted(signal)),
        Waited::TimedOut(why) => {
            let why = format!("another process did not finish building it in time: {why}");
            Err(RunError::new(Fault::Node, why))
        }
        Waited::Locked(_lock) => {
            if let (None, Some(why)) = (failed_before, shelf.recent_failure(key.as_str())) {
                // Its maker had the lock until now.
                return Err(failed_lately(&why));
            }
            let on_trial = terms.attempt.is_on_trial();
            let outcome = make(shelf, recipe, key, readers, terms).inspect_err(|error| {
                tracing::warn!("no template of image '{}' can be made: {error:#}", recipe.image.name);
                shelf.note_failure(key.as_str(), &format!("{error:#}"));
            })?;
            if let (true, Obtained::NoBoot(why)) = (on_trial, &outcome) {
                // Otherwise the waiters would try again one after the other, each for the same time.
                shelf.note_failure(key.as_str(), why);
            }
            for removed in shelf.evict(cache_bytes, Some(key.as_str())) {
                tracing::info!("template {} removed: over the limit", removed.display());
            }
            Ok(outcome)
        }
    }
}

/// Builds the template and puts it on the shelf, whose lock the caller holds.
fn make(
    shelf: &Shelf<TemplateDir>,
    recipe: &Recipe<'_>,
    key: &Key,
    readers: Readers,
    terms: &Terms<'_>,
) -> Result<Obtained, RunError> {
    // Its maximum size; most of a fresh guest's memory is never written.
    shelf.make_room(recipe.shape.base_mib << 20, u64::MAX).blame(Fault::Node)?;
    let draft = shelf.begin(key.as_str())?;
    dir::make_one(&draft.path().join(manifest::EMPTY), 0o755)?;
    match builder::build(recipe, draft.path(), terms)? {
        Built::Complete => {}
        Built::NoBoot(why) => return Ok(Obtained::NoBoot(why)),
        // No note is made of it: the next start makes a new try.
        Built::Killed(why) => return Ok(Obtained::Failed(why)),
        Built::Interrupted(signal) => return Ok(Obtained::Interrupted(signal)),
    }
    let dir = draft.publish(readers).context("publish")?;
    let template = Template::open(shelf, key.as_str(), &dir)?;
    let ms = template.manifest.made_in_ms;
    tracing::info!(image = %recipe.image.name, dir = %template.dir().display(), ms, "template made");
    Ok(Obtained::Template(template))
}
