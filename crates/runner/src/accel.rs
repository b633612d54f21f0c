//! KVM where it works, emulation where it does not.
//!
//! `/dev/kvm` may exist, open, create a VM, and still never run a stock guest. The only proof is a
//! boot, so under `auto` the first boot is the test: if it fails before the agent answers, the slot
//! starts again under emulation, and the node remembers.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::config::AccelChoice;
use crate::notice;
use qemu::Accel;

/// Name of the file in the state directory that says KVM was tried in vain.
const BROKEN_FILE: &str = "kvm-broken";

/// What a slot starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The accelerator to try.
    pub accel: Accel,
    /// A failed boot may be tried again under emulation.
    pub may_fall_back: bool,
}

/// Decides by the site's choice, the device's permissions and what the node remembers.
///
/// # Errors
/// When KVM is demanded and /dev/kvm cannot be opened.
pub fn decide(choice: AccelChoice, state_dir: &Path, qemu: &Path) -> anyhow::Result<Decision> {
    let emulate = Decision { accel: Accel::Tcg, may_fall_back: false };
    let device = || OpenOptions::new().read(true).write(true).open("/dev/kvm");
    match choice {
        AccelChoice::Tcg => Ok(emulate),
        AccelChoice::Kvm => match device() {
            Ok(_) => Ok(Decision { accel: Accel::Kvm, may_fall_back: false }),
            Err(error) => bail!(
                "accel = 'kvm', but /dev/kvm cannot be used: {error}; give the users access to it or set accel = 'auto'"
            ),
        },
        AccelChoice::Auto if device().is_err() => Ok(emulate),
        AccelChoice::Auto if is_known_broken(state_dir, qemu) => Ok(emulate),
        AccelChoice::Auto => Ok(Decision { accel: Accel::Kvm, may_fall_back: true }),
    }
}

/// Tells the user that a guest did not come up under KVM and that emulation follows.
pub fn warn_broken() {
    notice::line(
        "warning: KVM does not run guests on this node although /dev/kvm can be opened; using emulation, \
         which is slower (the administrator can set accel = 'tcg' to silence this)",
    );
}

/// Lets later slots of this node and boot skip the attempt. Works for root; for others the
/// knowledge is lost, since what one user wrote must not steer the jobs of another.
pub fn remember_broken(state_dir: &Path, qemu: &Path) {
    if let Err(error) = write_verdict(state_dir, qemu) {
        tracing::debug!("the verdict on KVM is not kept: {error:#}");
    }
}

fn write_verdict(state_dir: &Path, qemu: &Path) -> anyhow::Result<()> {
    let path = state_dir.join(BROKEN_FILE);
    // Users' runners read it there.
    node::dir::make_root(state_dir)
        .map_err(io::Error::other)
        .and_then(|()| {
            // O_EXCL after unlink: never through a link.
            let _ = std::fs::remove_file(&path);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
            io::Write::write_all(&mut file, circumstances(qemu)?.as_bytes())
        })
        .with_context(|| path.display().to_string())
}

fn is_known_broken(state_dir: &Path, qemu: &Path) -> bool {
    let path: PathBuf = state_dir.join(BROKEN_FILE);
    let Ok(meta) = std::fs::symlink_metadata(&path) else { return false };
    let trusted = meta.is_file() && meta.uid() == 0 && meta.mode() & 0o022 == 0;
    trusted && matches!((std::fs::read_to_string(&path), circumstances(qemu)), (Ok(then), Ok(now)) if then == now)
}

/// What the verdict holds for: this boot of the host and this QEMU.
fn circumstances(qemu: &Path) -> io::Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let meta = std::fs::metadata(qemu)?;
    Ok(format!("{} {} {} {}\n", boot.trim(), qemu.display(), meta.size(), meta.mtime()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulation_is_never_second_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let decision = decide(AccelChoice::Tcg, dir.path(), Path::new("/bin/sh")).unwrap();
        assert_eq!(decision, Decision { accel: Accel::Tcg, may_fall_back: false });
    }

    #[test]
    fn a_verdict_holds_for_one_qemu_and_only_from_a_file_of_root() {
        let dir = tempfile::tempdir().unwrap();
        let qemu = Path::new("/bin/sh");
        assert!(!is_known_broken(dir.path(), qemu));
        remember_broken(dir.path(), qemu);
        let by_root = nix::unistd::Uid::current().is_root();
        assert_eq!(is_known_broken(dir.path(), qemu), by_root);
        assert!(!is_known_broken(dir.path(), Path::new("/bin/cat")));
        let target = dir.path().join(BROKEN_FILE);
        std::fs::rename(&target, dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("other"), &target).unwrap();
        assert!(!is_known_broken(dir.path(), qemu), "a link is not believed");
    }
}
