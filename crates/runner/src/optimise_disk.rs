//! Takes away from an image that boots its own kernel what no VM needs: files, and units of its init.

use std::path::Path;

use super::draft::{Draft, with_absolute_files};
use super::error::{Fault, RunError, ensure};
use super::rework::{self, Answer, SERIAL};
use crate::config::Config;
use image::Image;
use image::whole::{self, Dropped};
use qemu::HelperDisk;
use request::ImageName;

/// What to take away.
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    /// The partition with the root, if there are several.
    pub partition: Option<u32>,
    /// The btrfs subvolume with the root, if there are several.
    pub subvolume: Option<String>,
    /// Manuals and translations go too.
    pub documents: bool,
    /// Units that stay as they are.
    pub keep: Vec<String>,
}

/// What was found, and done unless it was only looked for.
#[derive(Debug, Clone)]
pub struct DiskFindings {
    /// Files by kind.
    pub dropped: Vec<Dropped>,
    /// Units that do not start any more.
    pub masked: Vec<String>,
    /// The helper's warnings.
    pub warnings: Vec<String>,
}

/// What could be taken away; nothing changes.
///
/// # Errors
/// When the image's disk cannot be read.
pub fn look_at_disk(config: &Config, image: &Image, options: &DiskOptions) -> Result<DiskFindings, RunError> {
    let (file, format) = (image.open_disk()?, image.entry.format);
    let disk = HelperDisk { serial: SERIAL.to_owned(), file, format, part: None, writable: false };
    let answer = rework::ask_about(config, disk, &words(&arguments(options, &["--only", "look"])))?;
    findings(answer, options)
}

/// Makes an image `name` in the directory `dir`: a copy of the image's disk, changed, with the same entry otherwise.
///
/// # Errors
/// When the disk cannot be read or `dir` not be written. Then nothing was made.
pub fn optimise_disk(
    config: &Config,
    image: &Image,
    name: &ImageName,
    dir: &Path,
    options: &DiskOptions,
) -> Result<(Image, DiskFindings), RunError> {
    let draft = Draft::copy(image, dir)?;
    let answer = rework::ask(config, draft.file()?, image.entry.format, &words(&arguments(options, &[])))?;
    let found = findings(answer, options)?;
    let entry_path = dir.join(format!("{name}.toml"));
    let mut entry = image.entry.clone();
    // The new entry is elsewhere until it is published.
    with_absolute_files(&mut entry, image);
    let (entry, disk) = draft.publish(entry, name, &entry_path, true)?;
    Ok((Image { name: name.clone(), entry, entry_path, disk }, found))
}

fn arguments(options: &DiskOptions, more: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = ["disk", "optimise", SERIAL, "--partition"].map(str::to_owned).to_vec();
    all.push(options.partition.unwrap_or(0).to_string());
    all.extend(more.iter().map(|&word| word.to_owned()));
    if let Some(name) = &options.subvolume {
        all.extend(["--subvolume".to_owned(), name.clone()]);
    }
    for directory in whole::directories(options.documents) {
        all.extend(["--drop", directory].map(str::to_owned));
    }
    for unit in whole::UNITS.iter().filter(|unit| !options.keep.iter().any(|kept| kept == *unit)) {
        all.extend(["--mask", unit].map(str::to_owned));
    }
    all
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn findings(answer: Answer, options: &DiskOptions) -> Result<DiskFindings, RunError> {
    ensure!(
        answer.is_true("done"),
        Fault::Guest,
        "the helper VM gave no answer: is the boot kit's agent older than this program? 'spank-vm kit build' makes a new one"
    );
    // The guest is believed only what was asked for.
    let masked = answer.all("masked").filter(|unit| whole::UNITS.contains(unit)).map(str::to_owned).collect();
    let dropped = whole::sums(answer.all("dropped"), options.documents);
    Ok(DiskFindings { dropped, masked, warnings: answer.warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_is_to_stay_is_not_asked_for() {
        let unit = whole::UNITS[0];
        let asked = |keep: &[&str]| {
            let keep = keep.iter().map(|&unit| unit.to_owned()).collect();
            arguments(&DiskOptions { keep, ..DiskOptions::default() }, &[]).iter().any(|word| word == unit)
        };
        assert!(asked(&[]) && !asked(&[unit]));
    }

    #[test]
    fn an_answer_of_a_guest_is_believed_for_what_was_asked() {
        let text = format!(
            "masked={}\nmasked=evil.service\ndropped=2 300 usr/lib/firmware\ndropped=9 9 etc\ndone=true\n",
            whole::UNITS[0]
        );
        let found = findings(Answer::parse(&text), &DiskOptions::default()).unwrap();
        assert_eq!(found.masked, [whole::UNITS[0]]);
        assert_eq!(found.dropped.len(), 1);
        assert_eq!((found.dropped[0].files, found.dropped[0].bytes), (2, 300));
        let none = findings(Answer::parse("masked=x\n"), &DiskOptions::default()).unwrap_err().to_string();
        assert!(none.contains("kit build"), "{none}");
    }
}
