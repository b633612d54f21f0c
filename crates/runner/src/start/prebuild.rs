//! Making a template before anybody needs it.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use super::{Attempt, Policy, Ways, source, training};
use crate::config::Config;
use crate::delivery::{self, Delivered};
use crate::error::{Blame, Context, Fault, RunError};
use crate::limits;
use crate::plan::processors;
use crate::signals::{Signal, Signals, die_by};
use crate::task::Task;
use crate::template::{self, Obtained, Recipe, Template, Terms};
use node::shelf::Shelf;
use qemu::{Abilities, VmSize, Way};
use request::ImageName;

/// A template that is ready.
#[derive(Debug)]
pub struct Prebuilt {
    /// The template.
    pub template: Template,
    /// Whether it was there already.
    pub existed: bool,
}

/// Why templates that root makes on this node serve no user, if that is so. Then each user's first VM of an image makes
/// one.
///
/// # Errors
/// When there is no QEMU, or it does not say which one it is.
pub fn useless_for_users(config: &Config) -> Result<Option<&'static str>, RunError> {
    let abilities = Abilities::of(&config.qemu_path()?).blame(Fault::Node)?;
    // Root may write to his own.
    let serves_somebody = abilities.read_only_templates || config.allow_root || !Uid::effective().is_root();
    Ok((!serves_somebody).then_some(
        "this QEMU, older than 8.2, clones only what its user may write to, so no user could use root's templates; the first \
         VM of an image makes one for its user",
    ))
}

/// Makes the templates that VMs of this size, with a network device or without one, will clone, one for each way to start them that this
/// node has: for everybody if this process is root, else for this user.
///
/// # Errors
/// When there is none for the way that always works; the text says why.
pub fn prebuild(
    config: &Config,
    image: &ImageName,
    memory_mib: u64,
    cpus: u32,
    has_nic: bool,
) -> Result<Vec<Prebuilt>, RunError> {
    let begin = Instant::now();
    limits::raise();
    let image = config.catalogue().resolve(&image.clone().into())?;
    source::fits_processor(&image)?;
    let source = source::of(&image, config)?;
    let qemu = config.qemu_path()?;
    let signals = Signals::watch().context("signals")?;
    let notice_at = io::stderr().is_terminal().then_some(begin);
    let copying = delivery::CopyTerms::of(config, &signals, notice_at);
    let disk = match delivery::deliver(&image, &copying)? {
        Delivered::Disk(disk) => disk,
        Delivered::Interrupted(signal) => return Err(interrupted(signal)),
    };
    let (size, confinement) = (VmSize { memory_mib, cpus }, config.confinement());
    let introduction = match Uid::effective().is_root() {
        true => Vec::new(),
        false => Task::from_this_process(&vec!["true".into()].into())?.introduction(),
    };
    let make = |attempt: &Attempt<'_>, way: &Way| -> Result<Obtained, RunError> {
        let shape = source.shape(way.machine.plugs_memory(), size).ok_or_else(|| {
            RunError::user(format!("no template serves VMs with {memory_mib} MiB and {}", processors(cpus)))
        })?;
        let recipe = Recipe {
            image: &image,
            source: &source,
            disk: &disk,
            way,
            accel: attempt.accel(),
            cpu_model: &config.cpu_model,
            shape,
            has_nic,
            introduction: &introduction,
        };
        make_one(config, &recipe, size, &Terms { signals: &signals, attempt, confinement, notice_at })
    };
    let ways = Ways::of(config, &source, &qemu);
    let timeouts = source::timeouts(&source, config, 1);
    let mut made = Vec::new();
    let make_all = |attempt: &Attempt<'_>| {
        made.clear();
        let usable = ways.of_guest(attempt.accel(), size);
        let (last, faster) = usable.split_last().ok_or_else(|| RunError::new(Fault::System, "no way to start a VM"))?;
        for &way in faster {
            attempt.try_way(Some(timeouts.trial));
            match make(attempt, way) {
                Ok(Obtained::Template(template)) => made.push(template),
                Ok(Obtained::Interrupted(signal)) => return Err(interrupted(signal)),
                other => {
                    tracing::warn!("no template for {way}: {other:?}");
                    attempt.when_one_answers(ways.is_broken(way));
                }
            }
        }
        attempt.try_way(None);
        Ok(make(attempt, last))
    };
    // A guest that ends at once cannot become a template: that is an error, and may be KVM's fault too.
    let failed = |made: &Result<Obtained, RunError>| matches!(made, Err(_) | Ok(Obtained::NoBoot(_)));
    let made_last = Policy::of(config, &qemu).start(timeouts, make_all, failed)?.outcome;
    match made_last.with_context(|| format!("image '{}'", image.name))? {
        Obtained::Template(template) => made.push(template),
        Obtained::Unavailable(why) | Obtained::Failed(why) | Obtained::NoGuest(why) | Obtained::NoBoot(why) => {
            return Err(RunError::new(Fault::Image, format!("image '{}': {why}", image.name)));
        }
        Obtained::Interrupted(signal) => return Err(interrupted(signal)),
    }
    let existed = |template: &Template| Duration::from_millis(template.manifest.made_in_ms) > begin.elapsed();
    Ok(made.into_iter().map(|template| Prebuilt { existed: existed(&template), template }).collect())
}

/// Makes one template: for everybody, or for this user.
fn make_one(config: &Config, recipe: &Recipe<'_>, size: VmSize, terms: &Terms<'_>) -> Result<Obtained, RunError> {
    let cache_bytes = config.template_cache_mib << 20;
    let made = match Uid::effective().is_root() {
        true => template::make_for_site(recipe, &config.template_dir, cache_bytes, terms).map(|made| match made {
            Obtained::Template(template) => match training::train(&template, recipe, size, config, terms) {
                Some(signal) => Obtained::Interrupted(signal),
                None => Obtained::Template(template),
            },
            other => other,
        }),
        false => {
            let shelf = Shelf::of_user(&config.template_dir, Uid::effective().as_raw());
            template::obtain_from(&shelf, recipe, cache_bytes, terms)
        }
    };
    if let Ok(Obtained::Template(_)) = made {
        terms.attempt.found_template();
    }
    made
}

/// Ends this process by the signal; it survives only a signal that it ignores.
fn interrupted(signal: Signal) -> RunError {
    die_by(signal);
    RunError::new(Fault::System, format!("interrupted by {signal}"))
}
