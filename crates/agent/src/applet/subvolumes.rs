//! Finds the subvolumes of a btrfs that hold an installed system, whatever they are called.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Inode number of the first directory of every subvolume.
const FIRST_INODE: u64 = 256;

/// How many directories deep subvolumes are looked for, and how many names are looked at. A system's root is near the
/// top: SUSE has `@/.snapshots/1/snapshot`.
const DEPTH: usize = 5;
const NAMES_MAX: usize = 20_000;

/// The subvolumes below `top`, where the whole file system is mounted: paths without a first slash, sorted.
pub(super) fn below(top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = NAMES_MAX;
    look(top, Path::new(""), DEPTH, &mut left, &mut found);
    found.sort();
    found
}

fn look(top: &Path, dir: &Path, depth: usize, left: &mut usize, found: &mut Vec<String>) {
    let mut inner: Vec<(PathBuf, bool)> = Vec::new();
    for entry in fs::read_dir(top.join(dir)).into_iter().flatten().flatten() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let Some(meta) = entry.metadata().ok().filter(fs::Metadata::is_dir) else { continue };
        inner.push((dir.join(entry.file_name()), meta.ino() == FIRST_INODE));
    }
    for (path, is_subvolume) in &inner {
        // A comma cannot be a part of a mount option.
        if let (true, Some(name)) = (is_subvolume, path.to_str().filter(|name| !name.contains(','))) {
            found.push(name.to_owned());
        }
    }
    if depth > 0 {
        inner.iter().for_each(|(path, _)| look(top, path, depth - 1, left, found));
    }
}
