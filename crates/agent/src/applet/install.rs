//! Installs the agent into a system that boots its own kernel, as a service of its init.
//!
//! Everything below runs with the system's root as the root of this process (`inside.rs`).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::super::devices::disk_with_serial;
use super::contents::start_of;
use super::disk::{Access, Choice, Root};
use super::failure::{Failure, warn};
use super::grub;
use super::inside::inside;
use super::kernels::{self, Kernel};

const BINARY: &str = "/usr/lib/spank-vm/spank-vm-agent";
const UNIT_NAME: &str = "spank-vm-agent.service";
const UNIT: &str = include_str!("spank-vm-agent.service");
const SCRIPT_NAME: &str = "spank-vm-agent";
const SCRIPT: &str = include_str!("spank-vm-agent.init");

/// Code of a master boot record; the disk's signature and table follow.
const BOOT_CODE: usize = 440;

/// What the caller knows.
#[derive(Debug)]
pub(super) struct Options {
    /// The partition and subvolume with the root, if there are several.
    pub choice: Choice,
    /// QEMU loads the kernel, so that no boot loader is needed.
    pub loads_kernel: bool,
    /// A kernel that cannot mount shares is accepted.
    pub without_shares: bool,
}

/// Installs this program itself on the disk with that serial number. Returns lines of `key=value`.
pub(super) fn install(serial: &str, options: &Options) -> Result<String, Failure> {
    let own = File::open("/proc/self/exe").map_err(|error| format!("cannot read the agent itself: {error}"))?;
    let disk = disk_with_serial(serial).ok_or_else(|| format!("the VM has no disk '{serial}'"))?;
    let start = start_of(&disk).map_err(|error| format!("cannot read the disk: {error}"))?;
    if !options.loads_kernel && !has_boot_loader(&start) {
        return Err(
            "the disk has no boot loader that a BIOS would start (UEFI only?): give full.kernel and full.initrd \
                    in the entry, or use boot = \"kit\""
                .to_owned(),
        );
    }
    let root = Root::find(serial, &options.choice, Access::ReadWrite)?;
    let answer = inside(&root, || work(own, options))?;
    root.unmount()?;
    Ok(answer)
}

fn has_boot_loader(start: &[u8]) -> bool {
    start.get(510..512) == Some(&[0x55, 0xaa]) && start[..BOOT_CODE].iter().any(|&byte| byte != 0)
}

fn work(own: File, options: &Options) -> Result<String, Failure> {
    let kernel = kernels::newest(Path::new("/"))?;
    kernel.fits_agent()?;
    let can_share = kernel.has("fuse");
    if !can_share && !options.without_shares {
        return Err(format!(
            "its kernel {} has no FUSE, so that no host directory would be there: --without-shares accepts that, boot = \
             \"kit\" avoids it",
            kernel.release
        ));
    }
    copy(own).map_err(|error| format!("cannot write {BINARY}: {error}"))?;
    let init = enable().map_err(|error| format!("cannot add the service: {error}"))?;
    let init = init.ok_or("its init is neither systemd nor one with /etc/init.d and /etc/rc2.d or rc3.d")?;
    if !options.loads_kernel {
        grub::adapt().map_err(|error| format!("cannot change the boot menu: {error}"))?;
    }
    if selinux_enforces() {
        warn(
            "the system enforces SELinux, which does not know the agent: set SELINUX=permissive in /etc/selinux/config",
        );
    }
    let Kernel { release, .. } = &kernel;
    let hotplug = kernel.takes_memory();
    Ok(format!("kernel={release}\ninit={init}\nshares={can_share}\nmemory_hotplug={hotplug}\n"))
}

fn copy(mut own: File) -> io::Result<()> {
    let path = Path::new(BINARY);
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
    io::copy(&mut own, &mut file)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}

/// Adds the service to the system's init. Returns the name of the init; `None` if it is not known.
fn enable() -> io::Result<Option<&'static str>> {
    let exists = |path: &str| fs::symlink_metadata(path).is_ok();
    if exists("/usr/lib/systemd/systemd") || exists("/lib/systemd/systemd") {
        let units = Path::new("/etc/systemd/system");
        write(&units.join(UNIT_NAME), UNIT, 0o644)?;
        link(&format!("../{UNIT_NAME}"), &units.join("multi-user.target.wants").join(UNIT_NAME))?;
        return Ok(Some("systemd"));
    }
    let levels: Vec<PathBuf> =
        (2..=5).map(|level| PathBuf::from(format!("/etc/rc{level}.d"))).filter(|dir| dir.is_dir()).collect();
    if !exists("/etc/init.d") || levels.is_empty() {
        return Ok(None);
    }
    write(&Path::new("/etc/init.d").join(SCRIPT_NAME), SCRIPT, 0o755)?;
    for level in levels {
        link(&format!("../init.d/{SCRIPT_NAME}"), &level.join(format!("S99{SCRIPT_NAME}")))?;
    }
    Ok(Some("sysvinit"))
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(Permissions::from_mode(mode))
}

fn link(target: &str, path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = fs::remove_file(path);
    symlink(target, path)
}

fn selinux_enforces() -> bool {
    let text = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    text.lines().any(|line| line.trim() == "SELINUX=enforcing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_code_in_its_first_sector_is_not_for_a_bios() {
        let mut start = vec![0; 4096];
        assert!(!has_boot_loader(&start));
        // A protective table of a GPT disk that boots by UEFI.
        start[446..462].fill(0xee);
        start[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(!has_boot_loader(&start));
        start[0] = 0xeb;
        assert!(has_boot_loader(&start));
        assert!(!has_boot_loader(&[]));
    }
}
