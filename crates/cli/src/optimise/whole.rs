//! A whole system: units that wait for what a VM does not have are masked, files that it does not use are removed. The
//! image that comes of it must boot before it takes the place of the old one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::place::{compare_sizes, compare_starts, publish, staging_for};
use crate::output::{mib, print};
use image::Image;
use image::whole::Dropped;
use request::ImageName;
use runner::config::Config;
use runner::{DiskFindings, DiskOptions, look_at_disk, notice, optimise_disk};

/// Units on one line of the report.
const UNITS_IN_A_LINE: usize = 3;

/// Bytes of one block in `st_blocks`.
const BLOCK: u64 = 512;

/// Only says what would change.
pub(super) fn look(config: &Config, image: &Image, options: &DiskOptions) -> anyhow::Result<()> {
    let found = look_at_disk(config, image, options)?;
    warn(&found);
    print(&format!("{}nothing was changed\n", report(image, &found)))
}

/// Makes the image `name` in `dir`, and measures `runs` starts before and after.
pub(super) fn run(
    config: &Config,
    image: &Image,
    name: &ImageName,
    dir: &Path,
    options: &DiskOptions,
    runs: u32,
) -> anyhow::Result<()> {
    let staging = staging_for(name, dir)?;
    let (optimised, found) = optimise_disk(config, image, name, staging.path(), options)?;
    warn(&found);
    print(&report(image, &found))?;
    // One that does not boot any more ends here, and the old one stays.
    compare_starts(config, image, &optimised, runs)?;
    compare_sizes([image, &optimised].map(|image| image.disk.metadata().map_or(0, |meta| meta.blocks() * BLOCK)))?;
    publish(image, &optimised, dir)
}

fn warn(found: &DiskFindings) {
    for warning in &found.warnings {
        notice::line(&format!("warning: {warning}"));
    }
}

fn report(image: &Image, found: &DiskFindings) -> String {
    let mut text = format!("image '{}'\n", image.name);
    for Dropped { what, files, bytes } in &found.dropped {
        text += &format!("{:<10} {what:<28} {files:>7} files {:>11}\n", "removed", mib(*bytes));
    }
    for units in found.masked.chunks(UNITS_IN_A_LINE) {
        text += &format!("{:<10} {}\n", "masked", units.join(", "));
    }
    if found.dropped.is_empty() && found.masked.is_empty() {
        text += "nothing of it can be left out\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_what_was_removed_and_masked() {
        let entry = toml::from_str("disk = 'x'\nformat = 'raw'\nboot = 'full'\n").unwrap();
        let image = Image { name: "x".parse().unwrap(), entry, entry_path: "/i/x.toml".into(), disk: "/i/x".into() };
        let found = |masked: &[&str]| DiskFindings {
            dropped: vec![Dropped { what: "firmware", files: 2, bytes: 3 << 20 }],
            masked: masked.iter().map(|&unit| unit.to_owned()).collect(),
            warnings: Vec::new(),
        };
        let text = report(&image, &found(&["a.timer", "b.timer", "c.timer", "d.timer"]));
        assert!(text.contains("2 files     3.0 MiB"), "{text}");
        assert!(text.ends_with("masked     a.timer, b.timer, c.timer\nmasked     d.timer\n"), "{text}");
    }
}
