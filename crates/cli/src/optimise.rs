//! `spank-vm image optimise`: what a kit boot never uses is left out, the rest packed for a fast start. What a whole
//! system does not need in a VM is taken away from a copy of its disk (`whole.rs`).

mod place;
mod whole;

use std::fs::File;
use std::io::Seek;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use clap::builder::RangedI64ValueParser;

use self::place::{compare_sizes, compare_starts, publish, staging_for};
use super::output::{mib, print};
use image::slim::{Findings, slim};
use image::{BootMode, DEFAULT_MAX_BYTES, Image, ImportOptions, clean_up_on_signals, import, unnamed_file};
use qemu::HelperDisk;
use request::ImageName;
use runner::DiskOptions;
use runner::config::Config;
use runner::helper;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the image
    name: ImageName,
    /// Only say what would be left out
    #[arg(long)]
    dry_run: bool,
    /// Leave out manuals, documents and translations too
    #[arg(long)]
    drop_docs: bool,
    /// How often a start is measured before and after; 0 is not at all
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
    /// Keep the image as it is and give the optimised one this name
    #[arg(long = "as", value_name = "OTHER")]
    other: Option<ImageName>,
    /// With boot = "full": a unit of systemd that is not masked (repeatable)
    #[arg(long, value_name = "UNIT")]
    keep: Vec<String>,
    /// With boot = "full": partition that holds the root, where there are several systems
    #[arg(long, value_name = "N", value_parser = partition())]
    partition: Option<u32>,
    /// With boot = "full": btrfs subvolume that holds the root, where there are several systems
    #[arg(long, value_name = "NAME")]
    subvolume: Option<String>,
}

/// The number of a partition.
pub fn partition() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=128)
}

/// Optimises the image; one that fails any check is not published, and the old one stays.
pub fn run(config: &Config, arguments: &Arguments) -> anyhow::Result<()> {
    let image = config.catalogue().find(&arguments.name)?;
    let dir = image.entry_path.parent().unwrap_or(Path::new("/")).to_owned();
    let name = arguments.other.as_ref().unwrap_or(&image.name).clone();
    if let Some(other) = arguments.other.as_ref().filter(|other| dir.join(format!("{other}.toml")).exists()) {
        bail!("image '{other}' exists in {}: remove it or choose another name", dir.display());
    }
    // From here on, files without their final name are removed when a signal ends this process.
    clean_up_on_signals()?;
    if image.entry.boot == BootMode::Full {
        let options = DiskOptions {
            partition: arguments.partition,
            subvolume: arguments.subvolume.clone(),
            documents: arguments.drop_docs,
            keep: arguments.keep.clone(),
        };
        return match arguments.dry_run {
            true => whole::look(config, &image, &options),
            false => whole::run(config, &image, &name, &dir, &options, arguments.runs),
        };
    }
    ensure!(
        arguments.keep.is_empty() && arguments.partition.is_none() && arguments.subvolume.is_none(),
        "--keep, --partition and --subvolume are for images with boot = \"full\"; '{}' has no units that start",
        image.name
    );
    let root = export(config, &image)?;
    if arguments.dry_run {
        let found = slim(&root, arguments.drop_docs, None)?;
        return print(&format!("{}nothing was changed\n", report(&image, &found)));
    }
    let slimmed = unnamed(&config.scratch_dir)?;
    let found = slim(&root, arguments.drop_docs, Some(&slimmed))?;
    drop(root);
    print(&report(&image, &found))?;

    let staging = staging_for(&name, &dir)?;
    let optimised = pack(slimmed, &image, &name, staging.path())?;
    let after = slim(&export(config, &optimised)?, false, None)?;
    ensure!(
        after.libraries == found.libraries && after.kept == found.kept,
        "the packed image differs from what was meant to be in it; '{}' stays as it was",
        image.name
    );
    print(&format!("{:<10} libraries unchanged: {}\n", "verified", found.libraries.len()))?;
    compare_starts(config, &image, &optimised, arguments.runs)?;
    compare_sizes([&image, &optimised].map(|image| image.disk.metadata().map_or(0, |meta| meta.len())))?;
    publish(&image, &optimised, &dir)
}

/// The image's root as an archive, read in a helper VM: the host mounts nothing.
fn export(config: &Config, image: &Image) -> anyhow::Result<File> {
    let root = unnamed(&config.scratch_dir)?;
    let disk = HelperDisk {
        serial: "source".to_owned(),
        file: image.open_disk()?,
        format: image.entry.format,
        part: None,
        writable: false,
    };
    let finished = helper::run(config, vec![disk], &["disk", "export", "source"], root.as_fd())?;
    finished.warnings().with_context(|| format!("the root of image '{}' cannot be read", image.name))?;
    Ok(root)
}

fn unnamed(dir: &Path) -> anyhow::Result<File> {
    unnamed_file(dir)
        .with_context(|| format!("no file for the image's root can be made in {} ('scratch_dir')", dir.display()))
}

/// An image of these files, with the entry of the old one in all that is not its disk.
fn pack(mut files: File, old: &Image, name: &ImageName, staging: &Path) -> anyhow::Result<Image> {
    files.rewind()?;
    let options = ImportOptions {
        name: name.clone(),
        dir: staging.to_owned(),
        description: old.entry.description.clone(),
        append: old.entry.append.clone(),
        replace: false,
        max_bytes: DEFAULT_MAX_BYTES,
        inherits: Some(old.entry.clone()),
        arch: Some(old.entry.arch.clone()),
    };
    Ok(import(&mut files, &options)?.image)
}

fn report(image: &Image, found: &Findings) -> String {
    let line = |what: &str, which: &str, files: u64, bytes: u64| {
        format!("{what:<10} {which:<28} {files:>7} files {:>11}\n", mib(bytes))
    };
    let mut text = format!("image '{}'\n", image.name);
    for (what, amount) in &found.dropped {
        text += &line("left out", what, amount.files, amount.bytes);
    }
    text + &line("kept", "everything else", found.kept.files, found.kept.bytes)
}
