//! From the first instruction to a root that looks like an installed system.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, chown, chroot};

use proto::BootTimes;

use super::cmdline::BootOptions;
use super::devices::{Devices, virtio_id};
use super::error::{AgentError, Doing};
use super::kmsg;
use super::modules::Modules;
use super::rootfs::{FsType, SUPER_BLOCK_AREA};
use super::{derived, memory, net, oom, sys, walk};

/// Where the parts of the root are put together, in the initramfs.
const IMAGE: &str = "/image";
const SCRATCH: &str = "/scratch";
const ROOT: &str = "/root";
const ETC: &str = "/etc-upper";

/// Modules that every guest needs for the channel, disks, shares and the overlay, once its bus is known.
const BASE: &str = "base";

/// What a guest can do without, but programs expect: the kit's own choice and the site's.
const EXTRA: &str = "extra";

/// Devices that get their driver only when the VM has one, and the kit's group for it.
const BY_DEVICE: [(u32, &str); 2] = [(virtio_id::NET, "net"), (virtio_id::MEM, "mem")];

/// One mount: source, target, type, flags, options.
type Mount<'a> = (&'a str, &'a str, &'a str, MsFlags, &'a str);

const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

/// What the agent itself needs to see the machine. Moved into the root later.
const KERNEL_MOUNTS: [Mount; 3] = [
    ("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755"),
    ("proc", "/proc", "proc", QUIET.union(MsFlags::MS_NODEV), ""),
    ("sysfs", "/sys", "sysfs", QUIET.union(MsFlags::MS_NODEV), ""),
];

/// What programs expect to find in a running system. A kernel that lacks one is no reason to stop.
const SYSTEM_MOUNTS: [Mount; 5] = [
    ("devpts", "/dev/pts", "devpts", QUIET, "gid=5,mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "tmpfs", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), "mode=1777"),
    ("mqueue", "/dev/mqueue", "mqueue", QUIET.union(MsFlags::MS_NODEV), ""),
    ("tmpfs", "/run", "tmpfs", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), "mode=0755"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", QUIET.union(MsFlags::MS_NODEV), ""),
];

/// Names that udev makes on other systems; devtmpfs does not make them.
const DEV_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Devices that udev opens to everybody: their drivers check by themselves who may do what.
const OPEN_DEVICES: [&str; 2] = ["/dev/fuse", "/dev/net/tun"];

/// Mounts `/dev`, `/proc` and `/sys`: without them the agent cannot even say what is wrong.
pub(super) fn mount_kernel_file_systems() -> Result<(), AgentError> {
    KERNEL_MOUNTS.into_iter().try_for_each(mount_one)
}

/// Loads the drivers, mounts the image under a writable overlay and makes it the root.
pub(super) fn bring_up(devices: &Devices, times: &mut BootTimes) -> Result<(), AgentError> {
    // The drivers come first, before anything can go wrong: without the channel nobody would learn of an error.
    let mut modules = Modules::open()?;
    let buses = [("pci", devices.has_pci()), ("mmio", devices.has_mmio())];
    let mut groups: Vec<_> = buses.into_iter().filter_map(|(group, there)| there.then_some(group)).collect();
    groups.push(BASE);
    modules.load(&groups)?;

    let cmdline = fs::read_to_string("/proc/cmdline").doing(|| "read /proc/cmdline".to_owned())?;
    let options = BootOptions::parse(&cmdline)?;
    memory::check_held(options.held_mib << 20)?;
    if options.without_image {
        times.modules_ms = sys::uptime_ms();
        furnish();
        return Ok(());
    }
    let image = devices.wait_for_disk("root")?;
    let scratch = devices.disk("scratch");
    let kind = match options.rootfs {
        Some(kind) => kind,
        None => recognise(&image)?,
    };
    for disk in [Some(&image), scratch.as_ref()].into_iter().flatten() {
        leave_order_to_host(disk);
    }
    load_for_this_machine(&mut modules, devices, kind, scratch.is_some())?;
    modules.load_what_works(&[EXTRA]);
    times.modules_ms = sys::uptime_ms();
    modules.delete_files();

    mount_root(&image, kind, scratch.as_deref())?;
    switch_root()?;
    furnish();
    Ok(())
}

fn recognise(disk: &Path) -> Result<FsType, AgentError> {
    let mut start = Vec::with_capacity(SUPER_BLOCK_AREA);
    let read = File::open(disk).and_then(|file| file.take(SUPER_BLOCK_AREA as u64).read_to_end(&mut start));
    read.doing(|| format!("read {}", disk.display()))?;
    FsType::detect(&start).ok_or_else(|| {
        AgentError::Unfit(
            "the image's root is none of squashfs, erofs, ext4, xfs, btrfs (a disk with a partition table needs a full boot)"
                .to_owned(),
        )
    })
}

fn load_for_this_machine(
    modules: &mut Modules,
    devices: &Devices,
    kind: FsType,
    scratch: bool,
) -> Result<(), AgentError> {
    let root_group = format!("fs:{}", kind.name());
    if !modules.has(&root_group) {
        return Err(AgentError::Unfit(format!("the boot kit has no {} module, which this image needs", kind.name())));
    }
    modules.load(&[&root_group])?;
    if scratch {
        modules.load(&["fs:ext4"])?;
    }
    let present = devices.virtio_ids();
    let groups: Vec<_> = BY_DEVICE.iter().filter(|(id, _)| present.contains(id)).map(|(_, group)| *group).collect();
    modules.load(&groups)
}

/// Requests go to the disk as they come, for the host orders its own; and nothing measures how long they take. The kernel's
/// usual ways only cost a guest time.
fn leave_order_to_host(disk: &Path) {
    let Some(name) = disk.file_name() else { return };
    let queue = Path::new("/sys/block").join(name).join("queue");
    for (setting, value) in [("scheduler", "none"), ("wbt_lat_usec", "0")] {
        // A kernel without the setting has no such costs.
        let _ = fs::write(queue.join(setting), value);
    }
}

/// Puts image and scratch together at [`ROOT`], then detaches the parts: the overlay keeps what it
/// needs, and the parts do not appear in the guest's `/proc/mounts`.
fn mount_root(image: &Path, kind: FsType, scratch: Option<&Path>) -> Result<(), AgentError> {
    for directory in [IMAGE, SCRATCH, ROOT] {
        fs::create_dir_all(directory).doing(|| format!("create {directory}"))?;
    }
    mount(Some(image), IMAGE, Some(kind.name()), MsFlags::MS_RDONLY, kind.read_only_options())
        .doing(|| format!("mount the image as {}", kind.name()))?;
    match scratch {
        Some(disk) => {
            // The disk ends with the VM. So: no barriers, no access times, no early writes against a crash, and
            // no kernel thread that fills in inode tables and so makes a sparse file grow for nothing.
            let options = Some("nobarrier,noinit_itable,noauto_da_alloc");
            mount(Some(disk), SCRATCH, Some("ext4"), MsFlags::MS_NOATIME, options)
                .doing(|| "mount the scratch disk as ext4".to_owned())?;
        }
        None => {
            mount(Some("tmpfs"), SCRATCH, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .doing(|| "mount a tmpfs for the VM's own files".to_owned())?;
        }
    }
    for directory in ["upper", "work"] {
        let path = Path::new(SCRATCH).join(directory);
        fs::create_dir_all(&path).doing(|| format!("create {}", path.display()))?;
    }
    // volatile: fsync need not reach the disk, because nobody reads it after a crash.
    // redirect_dir: renaming a directory of the image works instead of failing with EXDEV.
    let layers = format!("lowerdir={IMAGE},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work,redirect_dir=on,volatile");
    mount(Some("overlay"), ROOT, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
        .doing(|| "mount the overlay over the image".to_owned())?;
    cover_etc()?;
    cover_tmp()?;
    for part in [IMAGE, SCRATCH] {
        umount2(part, MntFlags::MNT_DETACH).doing(|| format!("detach {part}"))?;
    }
    Ok(())
}

/// Gives `/etc` an overlay of its own whose upper layer is memory: every session changes some small files
/// there, and a disk's file system is ten times slower. A file that is renamed out of `/etc` is copied,
/// as between any two file systems.
fn cover_etc() -> Result<(), AgentError> {
    let lower = format!("{IMAGE}/etc");
    let Some(meta) = fs::symlink_metadata(&lower).ok().filter(fs::Metadata::is_dir) else { return Ok(()) };
    fs::create_dir_all(ETC).doing(|| format!("create {ETC}"))?;
    mount(Some("tmpfs"), ETC, Some("tmpfs"), MsFlags::empty(), Some("mode=0700,size=25%"))
        .doing(|| "mount a tmpfs for /etc".to_owned())?;
    let (upper, work) = (format!("{ETC}/upper"), format!("{ETC}/work"));
    for directory in [&upper, &work] {
        fs::create_dir(directory).doing(|| format!("create {directory}"))?;
    }
    // The merged directory takes owner and mode from the upper one.
    fs::set_permissions(&upper, meta.permissions()).doing(|| format!("open {upper}"))?;
    give_to_owner_of(&meta, &upper)?;
    let layers = format!("lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=on,volatile");
    mount(Some("overlay"), format!("{ROOT}/etc").as_str(), Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
        .doing(|| "mount the overlay over /etc".to_owned())?;
    // It stays mounted, in the initramfs, where no path of the new root leads: its size changes with the memory.
    let tmpfs = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(ETC);
    derived::remember_etc(tmpfs.doing(|| format!("open {ETC}"))?.into());
    Ok(())
}

/// Gives `/tmp` a directory of the scratch disk: an overlay of some kernels cannot do all that programs want of a
/// directory for their own files (`O_TMPFILE`), and passes every change through two file systems. An image that keeps
/// something in its `/tmp` goes on to show that.
fn cover_tmp() -> Result<(), AgentError> {
    let (lower, target, own) = (format!("{IMAGE}/tmp"), format!("{ROOT}/tmp"), format!("{SCRATCH}/tmp"));
    let is_empty = |path: &str| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let Some(meta) = fs::symlink_metadata(&lower).ok().filter(fs::Metadata::is_dir) else { return Ok(()) };
    if !is_empty(&lower) {
        return Ok(());
    }
    fs::create_dir(&own).doing(|| format!("create {own}"))?;
    fs::set_permissions(&own, fs::Permissions::from_mode(0o1777)).doing(|| format!("open {own} to everybody"))?;
    give_to_owner_of(&meta, &own)?;
    mount(Some(own.as_str()), target.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(|| "mount a directory of the scratch disk on /tmp".to_owned())
}

fn give_to_owner_of(meta: &fs::Metadata, path: &str) -> Result<(), AgentError> {
    chown(path, Some(meta.uid().into()), Some(meta.gid().into())).doing(|| format!("give {path} to its owner"))
}

/// Makes [`ROOT`] the root the way switch_root does: the overlay is moved onto `/`, so that the
/// process's root is the root of its mount namespace. A plain chroot would forbid user namespaces.
fn switch_root() -> Result<(), AgentError> {
    for (_, target, ..) in KERNEL_MOUNTS {
        let inside = format!("{ROOT}{target}");
        fs::create_dir_all(&inside).doing(|| format!("create the mount point {target} in the image"))?;
        mount(Some(target), inside.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .doing(|| format!("move {target} into the image"))?;
    }
    // After this, only the agent's own binary is left in the initramfs.
    let _ = fs::remove_file("/init");
    chdir(ROOT).doing(|| "enter the new root".to_owned())?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .doing(|| "move the new root to /".to_owned())?;
    chroot(".").and_then(|()| chdir("/")).doing(|| "change into the new root".to_owned())
}

/// Everything that programs expect but can do without: a failure is only a line in the log.
fn furnish() {
    let complain = |result: Result<(), AgentError>| {
        if let Err(error) = result {
            kmsg::note(&error.to_string());
        }
    };
    for entry in SYSTEM_MOUNTS {
        complain(mount_one(entry));
    }
    for (target, link) in DEV_LINKS {
        complain(symlink(target, link).doing(|| format!("make {link}")));
    }
    for device in OPEN_DEVICES.into_iter().filter(|device| Path::new(device).exists()) {
        let opened = fs::set_permissions(device, fs::Permissions::from_mode(0o666));
        complain(opened.doing(|| format!("open {device} to everybody")));
    }
    complain(open_tmp());
    complain(net::loopback_up());
    complain(oom::set_policy());
    // Memory that the runner plugs after a clone is used without further steps. It is never
    // unplugged, so it need not be movable: the kernel may keep its own data there.
    let policy = "/sys/devices/system/memory/auto_online_blocks";
    complain(fs::write(policy, "online_kernel").doing(|| format!("write {policy}")));
    // As systemd does on every machine of 64 bits: the kernel's own choice for few processors is 32768.
    let most = "/proc/sys/kernel/pid_max";
    complain(fs::write(most, "4194304").doing(|| format!("write {most}")));
}

fn open_tmp() -> Result<(), AgentError> {
    // In some images it is a link, and not always to something that is there.
    walk::make_directory(Path::new("/tmp"))?;
    let mode = fs::metadata("/tmp").doing(|| "look at /tmp".to_owned())?.permissions().mode();
    if mode & 0o7777 == 0o1777 {
        return Ok(());
    }
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777)).doing(|| "open /tmp to everybody".to_owned())
}

fn mount_one((source, target, kind, flags, options): Mount) -> Result<(), AgentError> {
    fs::create_dir_all(target).doing(|| format!("create {target}"))?;
    match mount(Some(source), target, Some(kind), flags, Some(options)) {
        // EBUSY: the kernel mounted it before us (CONFIG_DEVTMPFS_MOUNT).
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno).doing(|| format!("mount {target}")),
    }
}
