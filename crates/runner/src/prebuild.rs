//! Making a template before anybody needs it.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::unistd::Uid;

use super::accel;
use super::delivery::{self, Delivered};
use super::signals::{Signals, die_by};
use super::source;
use super::task::Task;
use super::template::{self, Obtained, Recipe, Template, Terms};
use crate::config::Config;
use node::shelf::Shelf;
use qemu::VmSize;
use qemu::{Accel, MachineType};
use request::ImageName;

/// A template that is ready.
#[derive(Debug)]
pub struct Prebuilt {
    /// The template.
    pub template: Template,
    /// Whether it was there already.
    pub existed: bool,
}

/// Makes the template that VMs of this size and number of shares will clone: for everybody if this
/// process is root, else for this user.
///
/// # Errors
/// When no template can be made; the text says why.
pub fn prebuild(
    config: &Config,
    image: &ImageName,
    memory_mib: u64,
    cpus: u32,
    shares: usize,
) -> anyhow::Result<Prebuilt> {
    let begin = Instant::now();
    let image = config.catalogue().resolve(&image.clone().into())?;
    let source = source::of(&image, config)?;
    let machine = source::machine(&source, config.machine);
    if machine == MachineType::Microvm {
        bail!("machine = 'microvm' cannot plug memory, so its VMs always boot");
    }
    let qemu = config.qemu_path()?;
    let signals = Signals::watch().context("signals")?;
    let copying = delivery::CopyTerms::of(config, &signals, io::stderr().is_terminal().then_some(begin));
    let disk = match delivery::deliver(&image, &copying)? {
        Delivered::Disk(disk) => disk,
        Delivered::Interrupted(signal) => {
            die_by(signal);
            bail!("interrupted by {signal}")
        }
    };
    let shape = source
        .shape(VmSize { memory_mib, cpus }, shares)
        .with_context(|| format!("no template serves VMs with {memory_mib} MiB and {cpus} processors"))?;
    let for_everybody = Uid::effective().is_root();
    let introduction = match for_everybody {
        true => Vec::new(),
        false => Task::from_this_process(&vec!["true".into()].into())?.introduction(),
    };
    let decision = accel::decide(config.accel, &config.state_dir, &qemu)?;
    let make = |accel: Accel, boot_timeout: Duration| {
        let recipe = Recipe {
            image: &image,
            source: &source,
            disk: &disk,
            qemu: &qemu,
            machine,
            accel,
            shape,
            introduction: &introduction,
        };
        let notice_at = io::stderr().is_terminal().then_some(begin);
        let terms = Terms { signals: &signals, boot_timeout, notice_at };
        let cache_bytes = config.template_cache_mib << 20;
        match for_everybody {
            true => template::make_for_site(&recipe, &config.template_dir, cache_bytes, &terms),
            false => {
                let shelf = Shelf::of_user(&config.template_dir, Uid::effective().as_raw());
                template::obtain_from(&shelf, &recipe, cache_bytes, &terms)
            }
        }
    };
    let trial = decision.may_fall_back.then(|| source::kvm_trial(&source, config));
    let mut obtained = make(decision.accel, trial.unwrap_or_else(|| source::boot_timeout(&source, config)))?;
    if decision.may_fall_back && matches!(obtained, Obtained::NoBoot(_)) {
        obtained = make(Accel::Tcg, source::boot_timeout(&source, config))?;
    }
    match obtained {
        Obtained::Template(template) => {
            let existed = Duration::from_millis(template.manifest.made_in_ms) > begin.elapsed();
            Ok(Prebuilt { template, existed })
        }
        Obtained::Unavailable(why) | Obtained::NoBoot(why) => bail!("image '{}': {why}", image.name),
        Obtained::Interrupted(signal) => {
            die_by(signal);
            bail!("interrupted by {signal}")
        }
    }
}
