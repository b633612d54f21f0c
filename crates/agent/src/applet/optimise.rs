//! Takes away from a system that boots its own kernel what no VM needs: the host says which files and which units.
//!
//! Everything happens with the system's root as the root of this process (`inside.rs`).

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::super::sys;
use super::disk::{Access, Choice, Root};
use super::failure::{Failure, warn};
use super::inside::inside;

/// Where systemd looks for units, the administrator's own first.
const OWN_UNITS: &str = "/etc/systemd/system";
const UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];

/// Package managers expect this directory in their caches.
const STAYS: &str = "partial";

/// What the caller asks for.
#[derive(Debug)]
pub(super) struct Options {
    /// The partition and subvolume with the root, if there are several.
    pub choice: Choice,
    /// Only look.
    pub dry_run: bool,
    /// Directories whose content goes.
    pub drop: Vec<PathBuf>,
    /// Units of systemd that shall not start.
    pub mask: Vec<String>,
}

/// Files and bytes below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Amount {
    files: u64,
    bytes: u64,
}

/// Returns lines of `key=value`: `masked=UNIT`, `dropped=FILES BYTES DIRECTORY`.
pub(super) fn optimise(serial: &str, options: &Options) -> Result<String, Failure> {
    let access = if options.dry_run { Access::ReadOnly } else { Access::ReadWrite };
    let root = Root::find(serial, &options.choice, access)?;
    let answer = inside(&root, || work(Path::new("/"), options))?;
    if !options.dry_run {
        // What the file system has freed shall not take space in the disk's file either.
        nix::unistd::sync();
        for place in root.places() {
            if let Err(errno) = File::open(place).map_err(errno_of).and_then(|dir| sys::trim(&dir)) {
                warn(&format!("the disk's file does not get smaller: {}", errno.desc()));
            }
        }
    }
    root.unmount()?;
    Ok(answer)
}

fn errno_of(error: io::Error) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

fn work(root: &Path, options: &Options) -> Result<String, Failure> {
    let mut answer = String::new();
    for directory in &options.drop {
        let place = root.join(directory);
        // Where a part of it is a link, it is dropped by its other name, or belongs to something else.
        if !place.canonicalize().is_ok_and(|real| real == place) || !place.is_dir() {
            continue;
        }
        let gone = empty(&place, options.dry_run).map_err(|error| format!("/{}: {error}", directory.display()))?;
        if gone.files > 0 {
            let _ = writeln!(answer, "dropped={} {} {}", gone.files, gone.bytes, directory.display());
        }
    }
    for unit in &options.mask {
        if mask(root, unit, options.dry_run).map_err(|error| format!("{unit}: {error}"))? {
            let _ = writeln!(answer, "masked={unit}");
        }
    }
    Ok(answer + "done=true\n")
}

/// Removes what is in the directory, not the directory. No link is followed.
fn empty(directory: &Path, dry_run: bool) -> io::Result<Amount> {
    let mut gone = Amount::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            let below = empty(&entry.path(), dry_run)?;
            gone = Amount { files: gone.files + below.files, bytes: gone.bytes + below.bytes };
            if !dry_run && entry.file_name() != STAYS {
                // One that is not empty is a parent of such a directory.
                let _ = fs::remove_dir(entry.path());
            }
            continue;
        }
        gone = Amount { files: gone.files + 1, bytes: gone.bytes + meta.len() };
        if !dry_run {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(gone)
}

/// Masks the unit if the system has it and nobody changed or masked it. Returns whether it was masked now.
fn mask(root: &Path, unit: &str, dry_run: bool) -> io::Result<bool> {
    // A file for each name is that of the template: getty@.service for getty@tty1.service.
    let file = match unit.split_once('@') {
        Some((template, rest)) => format!("{template}@.{}", rest.rsplit('.').next().unwrap_or_default()),
        None => unit.to_owned(),
    };
    let at = |directory: &str| root.join(directory.trim_start_matches('/'));
    if !UNITS.iter().any(|directory| at(directory).join(&file).exists()) {
        return Ok(false);
    }
    let own = at(OWN_UNITS).join(unit);
    match fs::symlink_metadata(&own) {
        Ok(meta) if meta.is_symlink() && fs::read_link(&own)? != Path::new("/dev/null") => {}
        Ok(_) => return Ok(false),
        Err(_) => {}
    }
    if !dry_run {
        fs::create_dir_all(at(OWN_UNITS))?;
        let _ = fs::remove_file(&own);
        symlink("/dev/null", &own)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for directory in
            ["usr/lib/systemd/system", "etc/systemd/system", "usr/lib/firmware/amd", "var/lib/apt/lists/partial"]
        {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        symlink("usr/lib", root.join("lib")).unwrap();
        for unit in ["apt-daily.timer", "own.service", "linked.service", "getty@.service", "masked.service"] {
            fs::write(root.join("usr/lib/systemd/system").join(unit), "[Unit]\n").unwrap();
        }
        let own = root.join("etc/systemd/system");
        fs::write(own.join("own.service"), "[Unit]\n").unwrap();
        symlink("/usr/lib/systemd/system/linked.service", own.join("linked.service")).unwrap();
        symlink("/dev/null", own.join("masked.service")).unwrap();
        fs::write(root.join("usr/lib/firmware/amd/big.bin"), [0; 1000]).unwrap();
        fs::write(root.join("var/lib/apt/lists/index"), [0; 10]).unwrap();
        // A link out of the directory: it goes, what it leads to stays.
        fs::write(root.join("usr/lib/kept"), "x").unwrap();
        symlink("../kept", root.join("usr/lib/firmware/link")).unwrap();
        dir
    }

    fn options(dry_run: bool) -> Options {
        let drop = ["lib/firmware", "usr/lib/firmware", "var/lib/apt/lists", "no/such"].map(PathBuf::from).to_vec();
        let mask =
            ["apt-daily.timer", "own.service", "linked.service", "getty@tty1.service", "masked.service", "none.timer"]
                .map(str::to_owned)
                .to_vec();
        Options { choice: Choice::default(), dry_run, drop, mask }
    }

    #[test]
    fn what_no_vm_needs_goes_and_what_somebody_changed_stays() {
        let dir = system();
        let root = dir.path().canonicalize().unwrap();
        let answer = work(&root, &options(false)).unwrap();
        let lines: Vec<&str> = answer.lines().collect();
        assert_eq!(
            lines,
            [
                "dropped=2 1007 usr/lib/firmware",
                "dropped=1 10 var/lib/apt/lists",
                "masked=apt-daily.timer",
                "masked=linked.service",
                "masked=getty@tty1.service",
                "done=true"
            ]
        );
        assert_eq!(fs::read_dir(root.join("usr/lib/firmware")).unwrap().count(), 0);
        assert!(root.join("var/lib/apt/lists/partial").is_dir() && root.join("usr/lib/kept").exists());
        let own = root.join("etc/systemd/system");
        assert_eq!(fs::read_link(own.join("linked.service")).unwrap(), Path::new("/dev/null"));
        assert!(fs::read_link(own.join("own.service")).is_err(), "the administrator's own unit is a file still");
        assert_eq!(work(&root, &options(false)).unwrap(), "done=true\n", "there is nothing left to do");
    }

    #[test]
    fn a_dry_run_finds_the_same_and_changes_nothing() {
        let dir = system();
        let root = dir.path().canonicalize().unwrap();
        let told = work(&root, &options(true)).unwrap();
        assert!(root.join("usr/lib/firmware/amd/big.bin").exists());
        assert!(!root.join("etc/systemd/system/apt-daily.timer").exists());
        assert_eq!(work(&root, &options(false)).unwrap(), told);
    }
}
