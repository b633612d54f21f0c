//! Which directories and files of the host a guest sees, where, and under which other names.
//!
//! For users the rules are in docs/files.md.

mod alias;
mod own;
mod resolve;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Fault, RunError, ensure};
use alias::{depth, through};
use node::layout::this_node;
use own::Found;
use request::ShareSpec;

pub use alias::Alias;
pub use own::{Own, Role};

/// The most of a VM: each has a thread in the guest. More than these are a mistake rather than a need.
const MOST: usize = 128;

/// A directory or a file of the host that is mounted in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Directory or file on the host.
    pub source: PathBuf,
    /// Absolute path in the guest.
    pub target: PathBuf,
    /// Writes are refused.
    pub read_only: bool,
    /// The source is a single file.
    pub is_file: bool,
}

impl Share {
    /// The directory that is served, and the name of the one file in it that is shared; an empty name is all of it.
    pub fn served(&self) -> (&Path, &OsStr) {
        match (self.source.parent(), self.source.file_name()) {
            (Some(parent), Some(name)) if self.is_file => (parent, name),
            _ => (&self.source, OsStr::new("")),
        }
    }
}

/// What the guests of a slot see of the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Parents come before what is below them.
    pub shares: Vec<Share>,
    /// Other names, in the order in which they must be made.
    pub aliases: Vec<Alias>,
    /// Directories of the user that are not there; one line each.
    pub warnings: Vec<String>,
}

/// What guests see of the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct View<'a> {
    /// Directories and files.
    pub shares: &'a [Share],
    /// Their other names.
    pub aliases: &'a [Alias],
}

impl View<'_> {
    /// Whether the guest sees the host's `path` at the same place.
    pub fn shows(&self, path: &Path) -> bool {
        let path = through(self.aliases, path);
        self.shares.iter().any(|share| share.source == share.target && path.starts_with(&share.target))
    }
}

/// Chooses the shares of a task: first those that were asked for and those of the site (for one place, the first
/// wins), then the user's own directories where no earlier share shows them.
///
/// # Errors
/// What was asked for cannot be shown, or the working directory cannot, and a command that writes there would lose it; or
/// there is too much.
pub fn choose(asked: &[ShareSpec], site: &[ShareSpec], own: &[Own]) -> Result<Chosen, RunError> {
    let mut choice = Choice::default();
    let mut found: Vec<Found> = Vec::new();
    for own in own {
        found.extend(own::find(own, &found, &mut choice.warnings)?);
    }
    choice.aliases = own::aliases(&found);
    for spec in asked {
        choice.ask(spec)?;
    }
    for spec in site {
        choice.offer(spec);
    }
    for found in &found {
        choice.add_own(found)?;
    }
    choice.check_places()?;
    let count = choice.list.len();
    ensure!(
        count <= MOST,
        Fault::User,
        "{count} places of the host are to be in the VM, and {MOST} can be: mount a directory above several"
    );
    Ok(choice.finish())
}

/// What was chosen so far.
#[derive(Debug, Default)]
struct Choice {
    list: Vec<Candidate>,
    aliases: Vec<Alias>,
    warnings: Vec<String>,
}

/// A share, and why it is one.
#[derive(Debug, Clone)]
struct Candidate {
    /// Its source has no links.
    spec: ShareSpec,
    is_file: bool,
    origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Asked,
    Site,
    Own,
}

impl Candidate {
    /// What the spec names, or why this user cannot have it.
    fn find(spec: &ShareSpec, aliases: &[Alias], origin: Origin) -> Result<Self, String> {
        let ShareSpec { source, target, read_only } = spec;
        let words =
            |error: std::io::Error| format!("{} on {}: {}", source.display(), this_node(), resolve::words(&error));
        let meta = fs::metadata(source).map_err(words)?;
        if !meta.is_dir() && !meta.is_file() {
            return Err(format!("{} is neither a directory nor a file on {}", source.display(), this_node()));
        }
        if !resolve::may_read(source, meta.is_dir()) {
            return Err(format!("you may not read {} on {}", source.display(), this_node()));
        }
        let source = fs::canonicalize(source).map_err(words)?;
        let spec = ShareSpec { source, target: through(aliases, target), read_only: *read_only };
        Ok(Self { spec, is_file: meta.is_file(), origin })
    }

    /// Where the guest's `path` is on the host, when it is in this share.
    fn on_host(&self, path: &Path) -> Option<PathBuf> {
        let rest = path.strip_prefix(&self.spec.target).ok().filter(|_| !self.is_file)?;
        Some(if rest.as_os_str().is_empty() { self.spec.source.clone() } else { self.spec.source.join(rest) })
    }
}

impl Choice {
    /// The innermost share in which the guest's `path` is.
    fn cover(&self, path: &Path) -> Option<&Candidate> {
        let covers = self.list.iter().filter(|share| share.on_host(path).is_some());
        covers.max_by_key(|share| depth(&share.spec.target))
    }

    /// Takes a share that the user asked for.
    fn ask(&mut self, asked: &ShareSpec) -> Result<(), RunError> {
        let refused = |why: String| RunError::user(format!("--vm-mount={asked}: {why}"));
        let new = Candidate::find(asked, &self.aliases, Origin::Asked).map_err(refused)?;
        match self.list.iter().find(|earlier| earlier.spec.target == new.spec.target) {
            Some(earlier) if earlier.spec == new.spec => {}
            Some(earlier) => {
                return Err(refused(format!("'{}' is already at this place in the guest", earlier.spec)));
            }
            None => self.list.push(new),
        }
        Ok(())
    }

    /// Takes a share of the site, if this node and this user have it.
    fn offer(&mut self, spec: &ShareSpec) {
        let found = Candidate::find(spec, &self.aliases, Origin::Site).ok();
        let is_taken = |new: &Candidate| self.list.iter().any(|earlier| earlier.spec.target == new.spec.target);
        self.list.extend(found.filter(|new| !is_taken(new)));
    }

    /// Takes a directory of the user, unless it is there already or something else was asked for in its place.
    fn add_own(&mut self, found: &Found) -> Result<(), RunError> {
        let Found { own, real, .. } = found;
        if let Some(cover) = self.cover(real) {
            let on_host = cover.on_host(real).unwrap_or_default();
            let is_there = fs::canonicalize(&on_host).is_ok_and(|there| there == *real);
            if is_there || cover.spec.target == *real {
                return Ok(());
            }
            if !on_host.is_dir() {
                let (cover, dir) = (&cover.spec, own.path.display());
                let why =
                    format!("'{cover}' hides {dir}, and {} is no directory on {}", on_host.display(), this_node());
                let remedy = format!("mkdir -p '{}'", on_host.display());
                return own.lost(&why, &format!("{remedy}, or choose another place"), &mut self.warnings);
            }
        }
        // A directory replaces those below it that came earlier.
        self.list.retain(|Candidate { spec, .. }| {
            !(spec.source == spec.target && !spec.read_only && spec.target.starts_with(real))
        });
        let spec = ShareSpec { source: real.clone(), target: real.clone(), read_only: false };
        self.list.push(Candidate { spec, is_file: false, origin: Origin::Own });
        Ok(())
    }

    /// A share within another needs a directory (or a file) of the other to be mounted on, and nothing is made on the
    /// host for it.
    fn check_places(&mut self) -> Result<(), RunError> {
        let mut homeless = Vec::new();
        for (number, share) in self.list.iter().enumerate().filter(|(_, share)| share.origin != Origin::Own) {
            let target = &share.spec.target;
            let outer = target.parent().and_then(|parent| self.cover(parent));
            let Some((outer, place)) = outer.and_then(|outer| Some((outer, outer.on_host(target)?))) else { continue };
            let fits = fs::metadata(&place).is_ok_and(|meta| meta.is_dir() != share.is_file);
            if fits {
                continue;
            }
            if share.origin == Origin::Site {
                homeless.push(number);
                continue;
            }
            let (what, make) = if share.is_file { ("file", "touch") } else { ("directory", "mkdir -p") };
            return Err(RunError::user(format!(
                "--vm-mount={}: {} is in the share {}, which has no such {what}, and nothing is made on the host: \
                 {make} '{}', or choose another place",
                share.spec,
                target.display(),
                outer.spec.target.display(),
                place.display()
            )));
        }
        for number in homeless.into_iter().rev() {
            self.list.remove(number);
        }
        Ok(())
    }

    fn finish(mut self) -> Chosen {
        // Parents are mounted before what is below them.
        self.list.sort_by_key(|share| depth(&share.spec.target));
        let share = |Candidate { spec, is_file, .. }: Candidate| Share {
            source: spec.source,
            target: spec.target,
            read_only: spec.read_only,
            is_file,
        };
        let shares = self.list.into_iter().map(share).collect();
        Chosen { shares, aliases: self.aliases, warnings: self.warnings }
    }
}
