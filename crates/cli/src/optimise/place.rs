//! The new image: made beside the old one, compared with it, and put in its place.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::output::{mib, print};
use image::{BootMode, Image, StagedDir};
use proto::ExitStatus;
use request::ImageName;
use runner::config::{Config, StartChoice};
use runner::{self, Slot};

/// Where the new image is made. The name is the same for everybody, so that two processes cannot optimise one image at once.
pub(super) fn staging_for(name: &ImageName, dir: &Path) -> anyhow::Result<StagedDir> {
    let staging = dir.join(format!(".{name}.optimise"));
    StagedDir::create(&staging)
        .with_context(|| format!("{} (if it was left by a process that was killed, remove it)", staging.display()))
}

pub(super) fn compare_starts(config: &Config, old: &Image, new: &Image, runs: u32) -> anyhow::Result<()> {
    if runs == 0 {
        return Ok(());
    }
    let before = Starts::measure(config, old, runs)?;
    print(&before.compared(&Starts::measure(config, new, runs)?, old.entry.boot))
}

pub(super) fn compare_sizes([before, after]: [u64; 2]) -> anyhow::Result<()> {
    print(&format!("{:<10} before {:>9}   after {:>9}\n", "disk", mib(before), mib(after)))
}

/// Puts disk and entry in their places. A start by the image's name finds either the old image or the new one.
pub(super) fn publish(old: &Image, new: &Image, dir: &Path) -> anyhow::Result<()> {
    let (disk, entry) = (dir.join(&new.entry.disk), dir.join(format!("{}.toml", new.name)));
    fs::rename(&new.disk, &disk).with_context(|| disk.display().to_string())?;
    if let Err(error) = fs::rename(&new.entry_path, &entry) {
        if disk != old.disk {
            let _ = fs::remove_file(&disk);
        }
        return Err(error).with_context(|| entry.display().to_string());
    }
    // VMs that run from the old disk have it open and keep it.
    if entry == old.entry_path && old.disk != disk && old.disk.parent() == Some(dir) {
        let _ = fs::remove_file(&old.disk);
    }
    print(&format!("image '{}' is ready: {}\n", new.name, disk.display()))
}

/// Median time that real VMs take from their start to the end of a command that does nothing.
struct Starts {
    boot: Duration,
    clone: Duration,
}

impl Starts {
    fn measure(config: &Config, image: &Image, runs: u32) -> anyhow::Result<Self> {
        let dir = image.entry_path.parent().unwrap_or(Path::new("/")).to_owned();
        let median = |start: StartChoice, warm_ups: u32| -> anyhow::Result<Duration> {
            let config = Config { start, image_dirs: vec![dir.clone()], ..config.clone() };
            let mut times = Vec::new();
            for run in 0..runs + warm_ups {
                let took = once(&config, &image.name)?;
                if run >= warm_ups {
                    times.push(took);
                }
            }
            times.sort_unstable();
            Ok(times[times.len() / 2])
        };
        // The first use makes the template.
        Ok(Self { boot: median(StartChoice::Boot, 0)?, clone: median(StartChoice::Clone, 1)? })
    }

    fn compared(&self, after: &Self, boot: BootMode) -> String {
        let line = |what: &str, before: Duration, after: Duration| {
            format!("{what:<10} before {:>7.2} s   after {:>7.2} s\n", before.as_secs_f64(), after.as_secs_f64())
        };
        let way = if boot == BootMode::Full { "full boot" } else { "kit boot" };
        line(way, self.boot, after.boot) + &line("clone", self.clone, after.clone)
    }
}

fn once(config: &Config, image: &ImageName) -> anyhow::Result<Duration> {
    let argv = ["/bin/sh", "-c", ":"].map(Into::into).to_vec();
    let slot = Slot::plain(config.clone(), image.clone().into(), argv);
    match runner::run(&slot)? {
        ExitStatus::Code(0) => Ok(slot.begin.elapsed()),
        status => bail!("a VM of image '{image}' ended with {status:?}"),
    }
}
