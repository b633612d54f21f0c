//! Templates: booted guests kept on the node's disk, from which VMs are cloned in a tenth of a second.
//!
//! ```text
//! recipe ─► key ─► the site's or the user's shelf ─► there: open it
//!                                                └─► not there: lock ─► build (boot, settle, save) ─► publish
//! ```
//!
//! What must hold:
//! - A template holds nothing of a job: it is saved before the agent is told of any task.
//! - It is believed only if nobody but root or this user can have written it.
//! - It is a cache: whatever is wrong with it, the VM boots instead, and the next start builds it anew.
//! - Building happens once however many want it, under a lock that dies with its holder.

mod builder;
mod digest;
mod key;
mod store;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use nix::unistd::Uid;

use crate::error::{Blame, Context, Fault, RunError};
use crate::lock::{self, Waited};
use crate::signals::Signal;

use builder::Built;

#[cfg(any(test, feature = "fuzzing"))]
pub use self::{builder::hear, store::Manifest};
pub use builder::Terms;
pub use key::{Key, Recipe};
pub use store::{FileMode, Shelf, Template, remove, shelves};

/// What came of asking for a template.
#[derive(Debug)]
pub enum Obtained<T = Template> {
    /// Here it is.
    Template(T),
    /// There is none and none can be made here; the VM boots. The text is for the administrator.
    Unavailable(String),
    /// The guest did not answer in all the time it may take, so booting it once more makes no sense; the text
    /// is for the user.
    NoBoot(String),
    /// A signal came that ends the task.
    Interrupted(Signal),
}

impl<T> Obtained<T> {
    /// The same with something else for a template.
    pub fn map<U>(self, with: impl FnOnce(T) -> U) -> Obtained<U> {
        match self {
            Self::Template(template) => Obtained::Template(with(template)),
            Self::Unavailable(why) => Obtained::Unavailable(why),
            Self::NoBoot(why) => Obtained::NoBoot(why),
            Self::Interrupted(signal) => Obtained::Interrupted(signal),
        }
    }
}

/// Finds the recipe's template or makes it for this user.
pub fn obtain(recipe: &Recipe<'_>, template_dir: &Path, cache_bytes: u64, terms: &Terms<'_>) -> Obtained {
    let own = Shelf::of_user(template_dir, Uid::effective());
    let found = || -> Result<Obtained, RunError> {
        let anybodys = Recipe { introduction: &[], ..*recipe };
        if let Some(template) = Shelf::of_site(template_dir).find(&anybodys.key().context("key")?) {
            return Ok(Obtained::Template(template));
        }
        obtain_from(&own, recipe, cache_bytes, terms)
    };
    found().unwrap_or_else(|error| Obtained::Unavailable(format!("no template in {}: {error:#}", own.dir.display())))
}

/// Finds the recipe's template on the shelf of this user or makes it there.
///
/// # Errors
/// When the shelf cannot be used or the template cannot be kept.
pub fn obtain_from(
    shelf: &Shelf,
    recipe: &Recipe<'_>,
    cache_bytes: u64,
    terms: &Terms<'_>,
) -> Result<Obtained, RunError> {
    let key = recipe.key().context("key")?;
    if let Some(template) = shelf.find(&key) {
        template.touch();
        return Ok(Obtained::Template(template));
    }
    shelf.prepare(0o700).blame(Fault::Node)?;
    if let Some(why) = shelf.recent_failure(&key) {
        return Err(failed_lately(&why));
    }
    let files = FileMode { mode: 0o600, group: None };
    let obtained = make_once(shelf, recipe, &key, files, terms)?;
    shelf.evict(cache_bytes, Some(&shelf.dir.join(key.as_str())));
    Ok(obtained)
}

/// Makes the recipe's template for the whole site, readable by whoever may read the image's disk.
///
/// # Errors
/// When this is not root, or the template cannot be made.
pub fn make_for_site(recipe: &Recipe<'_>, template_dir: &Path, terms: &Terms<'_>) -> Result<Obtained, RunError> {
    let shelf = Shelf::of_site(template_dir);
    shelf.prepare(0o755).blame(Fault::Node).with_context(|| shelf.dir.display().to_string())?;
    let key = recipe.key().context("key")?;
    // Memory holds what was read from the disk: who may not read that must not read this.
    let disk = recipe.disk.file().metadata()?;
    let files = FileMode { mode: 0o600 | (disk.mode() & 0o044), group: Some(disk.gid()) };
    make_once(&shelf, recipe, &key, files, terms)
}

fn failed_lately(why: &str) -> RunError {
    RunError::new(Fault::Node, format!("making it failed a short while ago: {why}"))
}

/// Makes the template under its lock, unless another process does.
fn make_once(
    shelf: &Shelf,
    recipe: &Recipe<'_>,
    key: &Key,
    files: FileMode,
    terms: &Terms<'_>,
) -> Result<Obtained, RunError> {
    let deadline = Instant::now() + terms.attempt.patience();
    let failed_before = shelf.recent_failure(key);
    match lock::wait(&shelf.lock_path(key), deadline, terms.signals, || shelf.find(key)).context("lock")? {
        Waited::Found(template) => Ok(Obtained::Template(template)),
        Waited::Interrupted(signal) => Ok(Obtained::Interrupted(signal)),
        Waited::TimedOut => Err(RunError::new(Fault::Node, "another process did not finish building it in time")),
        Waited::Locked(_lock) => {
            if let (None, Some(why)) = (failed_before, shelf.recent_failure(key)) {
                // Its maker had the lock until now.
                return Err(failed_lately(&why));
            }
            let draft = shelf.begin(key)?;
            let on_trial = terms.attempt.is_on_trial();
            let outcome = make(shelf, recipe, key, &draft, files, terms);
            if let Err(error) = &outcome {
                tracing::warn!("no template of image '{}' can be made: {error:#}", recipe.image.name);
                shelf.note_failure(key, &format!("{error:#}"));
            }
            if let (true, Ok(Obtained::NoBoot(why))) = (on_trial, &outcome) {
                // Who waited for it would wait as long once more, one after the other.
                shelf.note_failure(key, why);
            }
            let _ = std::fs::remove_dir_all(&draft);
            outcome
        }
    }
}

/// Builds the template and puts it on the shelf, whose lock the caller holds.
fn make(
    shelf: &Shelf,
    recipe: &Recipe<'_>,
    key: &Key,
    draft: &Path,
    files: FileMode,
    terms: &Terms<'_>,
) -> Result<Obtained, RunError> {
    match builder::build(recipe, draft, terms)? {
        Built::Complete => {}
        Built::NoBoot(why) => return Ok(Obtained::NoBoot(why)),
        Built::Interrupted(signal) => return Ok(Obtained::Interrupted(signal)),
    }
    let dir = shelf.publish(draft, key, files).context("publish")?;
    let template = Template::open(&dir, shelf.owner).blame(Fault::Node)?;
    let ms = template.manifest.made_in_ms;
    tracing::info!(image = %recipe.image.name, dir = %dir.display(), ms, "template made");
    Ok(Obtained::Template(template))
}
