//! What this process may believe of what it finds on the node's disk: templates and copies of images.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, ensure};
use nix::unistd::Uid;

/// Whether what is behind the descriptor can have been put there by `owner` alone.
///
/// # Errors
/// Who else can have.
pub fn believe(file: &File, owner: Uid) -> anyhow::Result<()> {
    let meta = file.metadata()?;
    ensure!(meta.uid() == owner.as_raw(), "belongs to user {} and not to {owner}", meta.uid());
    ensure!(meta.mode() & 0o022 == 0, "others may write to it (mode {:o})", meta.mode() & 0o7777);
    Ok(())
}

/// Makes the directory where this process may, and checks that nobody but `owner` can write to it.
///
/// # Errors
/// When it is not there, or not fit to hold what this user will run.
pub fn make_private(dir: &Path, owner: Uid, mode: u32) -> anyhow::Result<()> {
    if dir.symlink_metadata().is_err() && Uid::effective().is_root() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir.parent().unwrap_or(Path::new("/")))?;
        DirBuilder::new().mode(mode).create(dir).or_else(exists)?;
    }
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(dir);
    believe(&opened.with_context(|| dir.display().to_string())?, owner).with_context(|| dir.display().to_string())
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}
