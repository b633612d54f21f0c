//! QEMU's command line as a pure function of the VM's description.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, RawFd};

use crate::abilities::Abilities;
use crate::boot::{BootSource, FullBoot};
use crate::cpu_model::CpuModel;
use crate::descriptors::{DISK_SET, FIRST_DISK_SET, ImageFds, SCRATCH_SET, STATE_SET};
use crate::helper_disk::HelperDisk;
use crate::machine::{Accel, MachineType};
use crate::monitor::MEMORY_DEVICE;
use crate::nic::Nic;
use crate::process::Inherited;
use crate::shape::{BLOCK_MIB, PLAIN_CPUS, Shape, VmSize};
use image::{DiskBus, Image};
use proto::{PORT_NAME, files};

/// How a VM comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Its kernel boots on exactly the hardware that was asked for, by a QEMU that can do this.
    Boot(VmSize, Abilities),
    /// The same on a template's hardware, with its memory in a file that is kept.
    Template(Shape, TemplateFds),
    /// It continues where its template was stopped, with a private mapping of the template's memory.
    Clone(Shape, TemplateFds),
}

/// How QEMU works with the files of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateFds {
    /// The guest's memory.
    pub ram: RawFd,
    /// The state of its devices.
    pub state: RawFd,
    /// What this QEMU can do.
    pub abilities: Abilities,
}

/// A disk that fails stops the VM, and the runner ends it: otherwise the guest would go on with data that was not
/// written.
const ON_ERROR: &str = "werror=stop,rerror=stop";

/// Keeps the guest's memory out of all core dumps.
const NO_DUMP: &str = ",dump-guest-core=off";

/// What a guest works on.
#[derive(Debug, Clone, Copy)]
pub enum System<'a> {
    /// An image's disk, which becomes the root, under a private one.
    Image(&'a Image, ImageFds),
    /// No image: the agent of the kit alone, and these disks with their descriptors.
    Helper(&'a [HelperDisk], &'a [RawFd]),
}

/// What kind of machine a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardware<'a> {
    /// Virtual hardware.
    pub machine: MachineType,
    /// Who executes it.
    pub accel: Accel,
    /// The processor it sees.
    pub cpu_model: &'a CpuModel,
}

/// QEMU's ends of what every VM has, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// Of the channel.
    pub channel: RawFd,
    /// Of the console.
    pub console: RawFd,
    /// Of its monitor.
    pub monitor: RawFd,
    /// Of the port to its file server; a helper has none.
    pub files: Option<RawFd>,
}

impl Ends {
    /// Those that QEMU inherits.
    pub fn of(inherited: &Inherited) -> Self {
        let [channel, console, monitor] =
            [&inherited.channel, &inherited.console, &inherited.monitor].map(AsRawFd::as_raw_fd);
        Self { channel, console, monitor, files: inherited.files.file_port.as_ref().map(AsRawFd::as_raw_fd) }
    }
}

/// Everything the command line says.
#[derive(Debug)]
pub struct VmSpec<'a> {
    /// Machine and processor.
    pub hardware: Hardware<'a>,
    /// Counts of its time stamp counter in a ms, for a kernel that should not measure that itself.
    pub tsc_khz: Option<u32>,
    /// How it starts, with which memory and processors.
    pub start: Start,
    /// What the guest boots from.
    pub source: &'a BootSource,
    /// What the guest is for.
    pub system: System<'a>,
    /// Channel, console, monitor and port.
    pub ends: Ends,
    /// Its network device, if it has one.
    pub nic: Option<Nic<'a>>,
}

impl<'a> VmSpec<'a> {
    /// A VM without a network, whose kernel measures its counter itself if it boots.
    pub fn new(hardware: Hardware<'a>, start: Start, source: &'a BootSource, system: System<'a>, ends: Ends) -> Self {
        Self { hardware, tsc_khz: None, start, source, system, ends, nic: None }
    }

    /// The arguments after the program's name.
    pub fn args(&self) -> Vec<OsString> {
        let mut args = Args::default();
        args.words("-no-user-config -nodefaults -display none -monitor none -parallel none -no-reboot");
        args.pair("-name", "spank-vm,debug-threads=off");
        args.pair("-accel", self.hardware.accel.option());
        args.pair("-cpu", self.hardware.cpu_model.option(self.hardware.accel));
        self.processors_and_memory(&mut args);
        // A clone's kernel is in its memory, and none is ever loaded again: a reset ends the VM.
        if !matches!((self.start, self.source), (Start::Clone(..), BootSource::Kit(_))) {
            self.kernel(&mut args);
        }
        self.console_and_channel(&mut args);
        match (self.system, self.source) {
            (System::Image(image, fds), BootSource::Kit(_)) => self.image_and_scratch(image, fds, &mut args),
            (System::Image(image, fds), BootSource::Image(full)) => own_disk(full, image, fds, &mut args),
            (System::Helper(disks, fds), _) => self.helper_disks(&mut args, disks, fds),
        }
        if let Some(nic) = self.nic {
            let [peer, device] = nic.options(self.hardware.machine.bus());
            args.pair("-netdev", peer);
            args.pair("-device", device);
        }
        args.0
    }

    fn processors_and_memory(&self, args: &mut Args) {
        let abilities = match self.start {
            Start::Boot(_, abilities) => abilities,
            Start::Template(_, fds) | Start::Clone(_, fds) => fds.abilities,
        };
        let machine = self.hardware.machine.option(self.source, abilities);
        let (shape, fds, private) = match self.start {
            Start::Boot(size, _) => {
                let interrupts = self.interrupts(size.cpus);
                args.pair("-machine", format!("{machine}{}{NO_DUMP}", interrupts.map_or("", |(option, _)| option)));
                args.pair("-smp", size.cpus.to_string());
                if let Some((_, device)) = interrupts {
                    args.pair("-device", device);
                }
                args.pair("-m", format!("{}M", size.memory_mib));
                return;
            }
            Start::Template(shape, fds) => (shape, fds, "share=on"),
            Start::Clone(shape, fds) if fds.abilities.read_only_templates => {
                (shape, fds, "share=off,readonly=on,rom=off")
            }
            Start::Clone(shape, fds) => (shape, fds, "share=off"),
        };
        let Shape { base_mib, pluggable_mib, cpus, .. } = shape;
        args.pair("-machine", format!("{machine}{NO_DUMP},memory-backend=ram"));
        args.pair("-smp", cpus.to_string());
        args.pair(
            "-m",
            match pluggable_mib {
                0 => format!("{base_mib}M"),
                more => format!("{base_mib}M,slots=1,maxmem={}M", base_mib + more),
            },
        );
        // By descriptor: this is the file that was checked, even if it has lost its name meanwhile.
        let ram = format!("memory-backend-file,id=ram,size={base_mib}M,mem-path=/proc/self/fd/{},{private}", fds.ram);
        args.pair("-object", ram);
        if pluggable_mib > 0 {
            args.pair("-object", format!("memory-backend-ram,id=plug-ram,size={pluggable_mib}M,reserve=off"));
            let bus = self.hardware.machine.bus();
            args.pair(
                "-device",
                format!("virtio-mem-{bus},id={MEMORY_DEVICE},memdev=plug-ram,requested-size=0,block-size={BLOCK_MIB}M"),
            );
        }
        if fds.abilities.read_only_templates {
            args.pair("-add-fd", format!("fd={},set={STATE_SET}", fds.state));
        }
        // A template is stopped when it is saved. Without that in its state, a clone runs as soon as it is loaded.
        args.pair("-global", "migration.store-global-state=off");
        // Said here and not by the monitor, which QEMU reads byte by byte.
        args.pair("-global", "migration.x-events=on");
        if let Start::Clone(..) = self.start {
            args.pair("-incoming", "defer");
        }
    }

    /// What processors with numbers of more than eight bits take to get interrupts of devices: the machine's option, and
    /// a device, which must come before all others.
    fn interrupts(&self, cpus: u32) -> Option<(&'static str, &'static str)> {
        let device = "intel-iommu,intremap=on,eim=on";
        match self.hardware.accel {
            _ if cpus <= PLAIN_CPUS => None,
            // The part of the interrupt controller that remaps is QEMU's.
            Accel::Kvm => Some((",kernel-irqchip=split", device)),
            Accel::Tcg => Some(("", device)),
        }
    }

    fn console_and_channel(&self, args: &mut Args) {
        args.pair("-chardev", format!("socket,id=monitor,fd={}", self.ends.monitor));
        args.pair("-mon", "chardev=monitor,mode=control");
        args.pair("-chardev", format!("socket,id=console,fd={}", self.ends.console));
        args.pair("-serial", "chardev:console");
        args.pair("-chardev", format!("socket,id=channel,fd={}", self.ends.channel));
        // Port 0 is the console's, which is not used.
        let ports = 2 + u32::from(self.ends.files.is_some());
        args.pair("-device", format!("virtio-serial-{},max_ports={ports}", self.hardware.machine.bus()));
        args.pair("-device", format!("virtserialport,chardev=channel,name={PORT_NAME}"));
        if let Some(fd) = self.ends.files {
            args.pair("-chardev", format!("socket,id=files,fd={fd}"));
            args.pair("-device", format!("virtserialport,chardev=files,name={}", files::PORT_NAME));
        }
    }

    /// The kernel that QEMU itself loads; without one the firmware starts the disk's boot loader.
    fn kernel(&self, args: &mut Args) {
        let (kernel, initrd) = match self.source {
            BootSource::Kit(kit) => (&kit.kernel, Some(&kit.initramfs)),
            BootSource::Image(FullBoot { kernel: Some(kernel), initrd, .. }) => (kernel, initrd.as_ref()),
            BootSource::Image(FullBoot { kernel: None, .. }) => return,
        };
        args.pair("-kernel", kernel);
        if let Some(initrd) = initrd {
            args.pair("-initrd", initrd);
        }
        args.pair("-append", self.kernel_command_line());
    }

    /// Two disks, which the agent puts together.
    fn image_and_scratch(&self, image: &Image, fds: ImageFds, args: &mut Args) {
        let bus = self.hardware.machine.bus();
        image_node("root", image, fds.image, args);
        args.pair("-device", format!("virtio-blk-{bus},drive=root,serial=root,{ON_ERROR}"));
        scratch_file(fds.scratch, args);
        args.pair("-blockdev", "driver=raw,node-name=scratch,discard=unmap,cache.no-flush=on,file=scratch-file");
        args.pair("-device", format!("virtio-blk-{bus},drive=scratch,serial=scratch,{ON_ERROR}"));
    }

    fn helper_disks(&self, args: &mut Args, disks: &[HelperDisk], fds: &[RawFd]) {
        let bus = self.hardware.machine.bus();
        for (number, (disk, fd)) in disks.iter().zip(fds).enumerate() {
            let (set, serial) = (FIRST_DISK_SET + number as u32, &disk.serial);
            args.pair("-add-fd", format!("fd={fd},set={set}"));
            for node in disk.nodes(&format!("/dev/fdset/{set}")) {
                args.pair("-blockdev", node.to_string());
            }
            args.pair("-device", format!("virtio-blk-{bus},drive={serial},serial={serial}"));
        }
    }

    fn kernel_command_line(&self) -> String {
        if let (System::Image(image, _), BootSource::Image(_)) = (self.system, self.source) {
            // Kernel and init are the image's. These options name the console, and make a panic end the VM instead of
            // hanging.
            return format!("console=ttyS0 panic=-1 {}", image.entry.append).trim_end().to_owned();
        }
        // cryptomgr.notests: half a second of self-tests of ciphers that no guest uses.
        let mut words = vec!["console=ttyS0 quiet loglevel=1 panic=-1 8250.nr_uarts=1 cryptomgr.notests=1".to_owned()];
        words.push(self.hardware.machine.kernel_words().to_owned());
        words.push(self.hardware.accel.kernel_words().to_owned());
        words.extend(self.tsc_khz.map(|khz| format!("tsc_early_khz={khz}")));
        if !matches!(self.start, Start::Boot(..)) {
            // No device here needs bounce buffers. The kernel would make them if memory might reach beyond 4 GiB, and
            // they would take a quarter of the memory.
            words.push("swiotlb=noforce".to_owned());
        }
        if let Start::Template(shape, _) | Start::Clone(shape, _) = self.start
            && shape.held_mib > 0
        {
            // Set aside as for a crash kernel, that is never loaded: a single write gives any part of it back, and neither
            // that nor the memory needs a device.
            words.push(format!("crashkernel={0}M spank_vm.held={0}", shape.held_mib));
        }
        match self.system {
            System::Image(image, _) => {
                words.push(format!("spank_vm.rootfs={}", image.entry.format.root_fs()));
                words.push(image.entry.append.clone());
            }
            System::Helper(..) => words.push("spank_vm.root=none".to_owned()),
        }
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

/// The image's file: read-only as this node.
fn image_node(node: &str, image: &Image, fd: RawFd, args: &mut Args) {
    // locking=off: the image may lie on a file system without locks, and nobody ever writes to it.
    // By descriptor: the VM keeps the file that was checked, even if its name changes.
    args.pair("-add-fd", format!("fd={fd},set={DISK_SET}"));
    let file = format!("driver=file,node-name={node}-file,read-only=on,locking=off");
    args.pair("-blockdev", format!("{file},filename=/dev/fdset/{DISK_SET}"));
    let driver = image.entry.format.block_driver();
    args.pair("-blockdev", format!("driver={driver},node-name={node},read-only=on,file={node}-file"));
}

/// The file of the private disk. It dies with the VM: flushing it to the host's disk would be useless work.
fn scratch_file(scratch: RawFd, args: &mut Args) {
    args.pair("-add-fd", format!("fd={scratch},set={SCRATCH_SET}"));
    let file = "driver=file,node-name=scratch-file,locking=off,discard=unmap,cache.no-flush=on";
    args.pair("-blockdev", format!("{file},filename=/dev/fdset/{SCRATCH_SET}"));
}

/// One disk that the guest may write: QEMU stores its writes in the private file and reads the rest from the image.
fn own_disk(full: &FullBoot, image: &Image, fds: ImageFds, args: &mut Args) {
    image_node("image", image, fds.image, args);
    scratch_file(fds.scratch, args);
    let overlay = "driver=qcow2,node-name=root,discard=unmap,cache.no-flush=on";
    args.pair("-blockdev", format!("{overlay},file=scratch-file,backing=image"));
    if full.disk_bus == DiskBus::Sata {
        args.pair("-device", "ich9-ahci,id=sata");
    }
    let device = match full.disk_bus {
        DiskBus::Virtio => "virtio-blk-pci",
        DiskBus::Sata => "ide-hd,bus=sata.0",
        DiskBus::Ide => "ide-hd,bus=ide.0",
    };
    args.pair("-device", format!("{device},drive=root,serial=root,bootindex=1,{ON_ERROR}"));
}

/// A growing argument list.
#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn words(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: impl AsRef<OsStr>) {
        self.0.push(option.into());
        self.0.push(value.as_ref().to_owned());
    }
}

#[cfg(test)]
mod tests;
