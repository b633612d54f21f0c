//! /dev/kvm: whether this process may use it, and if not, why and what helps.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Group, Uid};

use crate::config::AccelChoice;
use crate::error::RunError;
use node::has_acl;
use node::layout::this_node;

const DEVICE: &str = "/dev/kvm";

/// Id of a user and a group without special rights (nobody).
const NOBODY: u32 = 65534;

/// Why this process cannot use /dev/kvm; `Display` is one line with the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoKvm {
    /// Its permissions say no.
    Refused(Rights),
    /// The processor shows no virtualisation, and it is a virtual one.
    NotNested,
    /// The processor shows no virtualisation.
    NoVirtualisation,
    /// The processor could, but no module serves the device.
    NoModule(Vendor),
    /// Something else.
    Failed(String),
}

/// The vendor of a processor's virtualisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    Intel,
    Amd,
}

impl Vendor {
    fn module(self) -> &'static str {
        match self {
            Self::Intel => "kvm_intel",
            Self::Amd => "kvm_amd",
        }
    }
}

/// Who may open the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rights {
    mode: u32,
    group: String,
    /// It has an access control list, of which the group's bits of the mode are the upper limit.
    is_listed: bool,
}

impl Rights {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        let name = Group::from_gid(Gid::from_raw(meta.gid())).ok().flatten().map(|group| group.name);
        let group = name.unwrap_or_else(|| meta.gid().to_string());
        Ok(Self { mode: meta.mode() & 0o777, group, is_listed: has_acl(path) })
    }

    /// Whether the site has given the device to a group of users.
    fn is_for_a_group(&self) -> bool {
        self.mode & 0o060 == 0o060 && self.group != "root" && !self.is_listed
    }

    /// Whether the site has given the device to some of its users.
    fn is_for_some(&self) -> bool {
        self.is_for_a_group() || (self.is_listed && self.mode & 0o060 == 0o060)
    }

    /// What an administrator can do for a user without access.
    fn remedy(&self) -> String {
        const RULE: &str = "a udev rule 'KERNEL==\"kvm\", MODE=\"0666\"' opens it for all users";
        match (self.is_for_a_group(), self.is_for_some()) {
            (true, _) => format!("{RULE}, and membership of the group '{}' for one", self.group),
            (false, true) => format!("{RULE}, and 'setfacl -m u:NAME:rw {DEVICE}' for one until the node boots"),
            (false, false) => RULE.to_owned(),
        }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if self.is_listed { ", and an access control list" } else { "" };
        write!(f, "mode {:04o}, group {}{list}", self.mode, self.group)
    }
}

impl NoKvm {
    /// The error where VMs must not be emulated. A user who is not among those to whom the site has given the device would
    /// be refused on every node, so that is not this node's fault, and a job must not be tried again for it.
    pub(crate) fn under_a_site_that_demands_kvm(&self) -> RunError {
        let line = format!("accel = 'kvm', but {self}");
        match self {
            Self::Refused(rights) if rights.is_for_some() => RunError::user(line),
            _ => RunError::node(line),
        }
    }
}

impl fmt::Display for NoKvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = this_node();
        match self {
            Self::Refused(rights) => {
                write!(f, "you may not use {DEVICE} on {node} ({rights}): {}", rights.remedy())
            }
            Self::NotNested => write!(
                f,
                "{node} has no {DEVICE}: it is a virtual machine itself, and its host does not let it run others (nested \
                 virtualisation is off)"
            ),
            Self::NoVirtualisation => write!(
                f,
                "{node} has no {DEVICE}: its processor shows no virtualisation, which may be switched off in its firmware \
                 (VT-x, SVM)"
            ),
            Self::NoModule(vendor) => write!(
                f,
                "{node} has no {DEVICE} although its processor could: 'modprobe {}' loads what is missing, or says why not",
                vendor.module()
            ),
            Self::Failed(why) => write!(f, "{DEVICE} on {node} cannot be used: {why}"),
        }
    }
}

/// Whether this process may use KVM.
///
/// # Errors
/// Why not.
pub(crate) fn usable() -> Result<(), NoKvm> {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE).map(drop);
    let cpuinfo = || fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    judge(opened, || Rights::of(Path::new(DEVICE)), cpuinfo)
}

fn judge(
    opened: io::Result<()>,
    rights: impl FnOnce() -> io::Result<Rights>,
    cpuinfo: impl FnOnce() -> String,
) -> Result<(), NoKvm> {
    let Err(error) = opened else { return Ok(()) };
    Err(match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            rights().map_or_else(|error| NoKvm::Failed(error.to_string()), NoKvm::Refused)
        }
        // It is missing, or a device node whose module was unloaded.
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            let cpuinfo = cpuinfo();
            let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
            let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
            match () {
                () if has("vmx") => NoKvm::NoModule(Vendor::Intel),
                () if has("svm") => NoKvm::NoModule(Vendor::Amd),
                () if has("hypervisor") => NoKvm::NotNested,
                () => NoKvm::NoVirtualisation,
            }
        }
        _ => NoKvm::Failed(error.to_string()),
    })
}

/// KVM_CHECK_EXTENSION, and KVM_CAP_MAX_VCPUS to ask it for.
const CHECK_EXTENSION: libc::c_ulong = 0xae03;
const MAX_VCPUS: libc::c_int = 66;

/// The most processors of a guest, if KVM says so: its kernel was built with a limit.
pub(crate) fn most_cpus() -> Option<u32> {
    nix::ioctl_write_int_bad!(check_extension, CHECK_EXTENSION);
    let device = OpenOptions::new().read(true).write(true).open(DEVICE).ok()?;
    // SAFETY: the descriptor is open for as long as the call takes, and the argument is a number, not a pointer.
    let most = unsafe { check_extension(device.as_raw_fd(), MAX_VCPUS) }.ok()?;
    u32::try_from(most).ok().filter(|&most| most > 0)
}

/// Whether the VMs of this node's users can have KVM, as far as that is the node's: root, who may open everything, looks whether
/// anybody else may too. An access control list shows in the bits of the group.
///
/// # Errors
/// Why not.
pub(crate) fn usable_for_users() -> Result<(), NoKvm> {
    usable()?;
    match Rights::of(Path::new(DEVICE)) {
        Ok(rights) if Uid::effective().is_root() && rights.mode & 0o066 == 0 => Err(NoKvm::Refused(rights)),
        _ => Ok(()),
    }
}

/// Who beside root may use KVM on this node, if that is not everybody; the text is for an administrator.
/// What is asked is the kernel, so access control lists count.
pub fn limits_of_users(accel: AccelChoice) -> Option<String> {
    let rights = Rights::of(Path::new(DEVICE)).ok()?;
    if !Uid::effective().is_root() || anybody_may() != Some(false) {
        return None;
    }
    let who = match (rights.is_for_a_group(), rights.is_for_some()) {
        (true, _) => format!("the group '{}'", rights.group),
        (false, true) => "those in its access control list".to_owned(),
        (false, false) => "root".to_owned(),
    };
    let others = match accel {
        AccelChoice::Kvm => "other users get no VM",
        AccelChoice::Auto | AccelChoice::Tcg => "the VMs of other users are emulated",
    };
    Some(format!("{DEVICE} is for {who} alone ({rights}), {others}; {}", rights.remedy()))
}

/// Whether a user without any group may open the device; `None` if that cannot be tested.
fn anybody_may() -> Option<bool> {
    use std::os::unix::process::CommandExt;
    let mut test = Command::new("/usr/bin/test");
    test.args(["-r", DEVICE, "-a", "-w", DEVICE]).uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
    match test.status().ok()?.code()? {
        0 => Some(true),
        1 => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    fn rights(mode: u32, group: &str) -> Rights {
        Rights { mode, group: group.into(), is_listed: false }
    }

    fn judged(errno: i32, flags: &str) -> NoKvm {
        let rights = || Ok(rights(0o660, "kvm"));
        let cpuinfo = || format!("processor\t: 0\nflags\t\t: fpu {flags}\n");
        judge(Err(io::Error::from_raw_os_error(errno)), rights, cpuinfo).unwrap_err()
    }

    #[test]
    fn a_device_that_opens_is_usable() {
        assert_eq!(judge(Ok(()), || unreachable!(), || unreachable!()), Ok(()));
    }

    #[test]
    fn each_reason_is_one_line_with_its_remedy() {
        let node = this_node();
        let cases = [
            (
                judged(libc::EACCES, "vmx"),
                format!(
                    "you may not use /dev/kvm on {node} (mode 0660, group kvm): a udev rule 'KERNEL==\"kvm\", MODE=\"0666\"' \
                     opens it for all users, and membership of the group 'kvm' for one"
                ),
            ),
            (judged(libc::ENOENT, "hypervisor"), "(nested virtualisation is off)".into()),
            (judged(libc::ENOENT, "sse"), "switched off in its firmware".into()),
            (judged(libc::ENOENT, "vmx hypervisor"), "modprobe kvm_intel".into()),
            (judged(libc::ENODEV, "svm"), "modprobe kvm_amd".into()),
            (judged(libc::EBUSY, "svm"), "cannot be used: Device or resource busy".into()),
        ];
        for (judged, expected) in cases {
            let line = judged.to_string();
            assert!(line.contains(&expected) && line.contains(&node) && !line.contains('\n'), "{expected}: {line}");
        }
    }

    #[test]
    fn a_group_that_is_roots_is_no_remedy() {
        for rights in [rights(0o600, "kvm"), rights(0o660, "root")] {
            assert!(!rights.remedy().contains("membership"), "{rights}");
        }
    }

    #[test]
    fn a_user_outside_the_devices_group_is_refused_everywhere_and_anything_else_is_this_nodes_fault() {
        let refused = |mode, group: &str| NoKvm::Refused(rights(mode, group));
        let code = |why: NoKvm| why.under_a_site_that_demands_kvm().exit_code();
        assert_eq!(code(refused(0o660, "kvm")), 125);
        for why in [refused(0o600, "kvm"), refused(0o660, "root"), NoKvm::NotNested, NoKvm::NoModule(Vendor::Amd)] {
            assert_eq!(code(why), 75);
        }
    }
    #[test]
    fn who_is_not_in_the_devices_access_control_list_is_told_of_it_and_no_node_is_blamed() {
        let listed = |mode| Rights { is_listed: true, ..rights(mode, "root") };
        let line = NoKvm::Refused(listed(0o660)).to_string();
        assert!(line.contains("(mode 0660, group root, and an access control list)"), "{line}");
        assert!(line.contains("'setfacl -m u:NAME:rw /dev/kvm' for one") && !line.contains("membership"), "{line}");
        assert_eq!(NoKvm::Refused(listed(0o660)).under_a_site_that_demands_kvm().exit_code(), 125);
        // The mask of the list lets nobody in.
        assert_eq!(NoKvm::Refused(listed(0o600)).under_a_site_that_demands_kvm().exit_code(), 75);
    }

    #[test]
    fn a_file_s_access_control_list_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!has_acl(file.path()) && !has_acl(Path::new("/nonexistent")));
        // Version 2 (linux/posix_acl_xattr.h), then tag, rights and id of: owner, user 1, group, mask, others.
        let entries: [(u16, u16, u32); 5] = [(1, 6, !0), (2, 6, 1), (4, 0, !0), (16, 6, !0), (32, 0, !0)];
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend([&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat());
        }
        let path = CString::new(file.path().as_os_str().as_bytes()).unwrap();
        let name = c"system.posix_acl_access";
        // SAFETY: both strings end with a zero byte, and the list is read only for its length.
        let set = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), list.as_ptr().cast(), list.len(), 0) };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        let rights = Rights::of(file.path()).unwrap();
        assert!(rights.is_listed && rights.mode == 0o660, "{rights}");
    }
}
