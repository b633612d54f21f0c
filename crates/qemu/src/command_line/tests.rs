use std::path::Path;

use super::*;
use crate::boot::KitFiles;
use crate::monitor::StateUri;
use image::{BootMode, ImageEntry};

const ENDS: Ends = Ends { channel: 8, console: 9, monitor: 10, files: Some(11) };

const ABLE: Abilities = Abilities::ALL;

fn image() -> Image {
    let entry: ImageEntry = toml::from_str("disk = 'x'\nformat = 'squashfs'\nappend = 'vsyscall=emulate'\n").unwrap();
    Image {
        name: "debian12".parse().unwrap(),
        entry,
        entry_path: "/images/debian12.toml".into(),
        disk: "/images/a,b.squashfs".into(),
    }
}

fn boot(image: &Image, machine: MachineType, accel: Accel) -> String {
    spec(image, machine, accel, Start::Boot(VmSize { memory_mib: 512, cpus: 2 }, ABLE))
}

fn kit() -> BootSource {
    BootSource::Kit(KitFiles {
        kernel: "/kit/vmlinux".into(),
        initramfs: "/kit/initramfs.cpio".into(),
        scratch: "/kit/scratch.ext4".into(),
        digest: String::new(),
    })
}

fn spec(image: &Image, machine: MachineType, accel: Accel, start: Start) -> String {
    let source = match image.entry.boot {
        BootMode::Kit => kit(),
        BootMode::Full => {
            let full = image.entry.full_boot();
            BootSource::Image(FullBoot {
                disk_bus: full.disk_bus,
                format: image.entry.format,
                kernel: full.kernel.map(|file| Path::new("/images").join(file)),
                initrd: full.initrd.map(|file| Path::new("/images").join(file)),
                memory_hotplug: full.memory_hotplug,
            })
        }
    };
    let model = CpuModel::default();
    let hardware = Hardware { machine, accel, cpu_model: &model };
    let system = System::Image(image, ImageFds { image: 6, scratch: 7 });
    VmSpec::new(hardware, start, &source, system, ENDS)
        .args()
        .iter()
        .map(|arg| arg.to_str().unwrap().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_whole_command_line_of_a_microvm_under_emulation() {
    let expected = "\
-no-user-config
-nodefaults
-display
none
-monitor
none
-parallel
none
-no-reboot
-name
spank-vm,debug-threads=off
-accel
tcg,thread=multi,tb-size=64
-cpu
max,erms=off,fsrm=off
-machine
microvm,acpi=on,pic=off,pit=on,rtc=on,usb=off,isa-serial=on,dump-guest-core=off
-smp
2
-m
512M
-kernel
/kit/vmlinux
-initrd
/kit/initramfs.cpio
-append
console=ttyS0 quiet loglevel=1 panic=-1 8250.nr_uarts=1 cryptomgr.notests=1 pci=off tsc=reliable no_timer_check \
mitigations=off rodata=off init_on_alloc=0 nosmap nosmep no5lvl lsm=landlock,yama psi=0 \
spank_vm.rootfs=squashfs vsyscall=emulate
-chardev
socket,id=monitor,fd=10
-mon
chardev=monitor,mode=control
-chardev
socket,id=console,fd=9
-serial
chardev:console
-chardev
socket,id=channel,fd=8
-device
virtio-serial-device,max_ports=3
-device
virtserialport,chardev=channel,name=org.spank-vm.agent
-chardev
socket,id=files,fd=11
-device
virtserialport,chardev=files,name=org.spank-vm.files
-add-fd
fd=6,set=3
-blockdev
driver=file,node-name=root-file,read-only=on,locking=off,filename=/dev/fdset/3
-blockdev
driver=raw,node-name=root,read-only=on,file=root-file
-device
virtio-blk-device,drive=root,serial=root,werror=stop,rerror=stop
-add-fd
fd=7,set=1
-blockdev
driver=file,node-name=scratch-file,locking=off,discard=unmap,cache.no-flush=on,filename=/dev/fdset/1
-blockdev
driver=raw,node-name=scratch,discard=unmap,cache.no-flush=on,file=scratch-file
-device
virtio-blk-device,drive=scratch,serial=scratch,werror=stop,rerror=stop";
    assert_eq!(boot(&image(), MachineType::Microvm, Accel::Tcg), expected);
}

#[test]
fn kvm_on_q35_differs_in_machine_bus_and_processor_only() {
    let line = boot(&image(), MachineType::Q35, Accel::Kvm);
    for expected in
        ["\nkvm\n", "\nhost,pmu=off\n", "\nq35,", "virtio-blk-pci,drive=root", "virtio-serial-pci,max_ports=3"]
    {
        assert!(line.contains(expected), "{expected} in {line}");
    }
    assert!(!line.contains("tsc=reliable") && !line.contains("pci=off"), "{line}");
}

#[test]
fn a_clone_has_its_templates_hardware_and_a_private_view_of_its_memory() {
    let shape = Shape::of(VmSize { memory_mib: 1000, cpus: 2 }).unwrap();
    let fds = TemplateFds { ram: 11, state: 12, abilities: ABLE };
    let template = spec(&image(), MachineType::Q35, Accel::Kvm, Start::Template(shape, fds));
    let clone = spec(&image(), MachineType::Q35, Accel::Kvm, Start::Clone(shape, fds));
    for line in [&template, &clone] {
        for expected in ["\n2\n", "\n254M,slots=1,maxmem=8446M\n", "memory-backend=ram\n"] {
            assert!(line.contains(expected), "{expected} in {line}");
        }
    }
    let (before, loaded) = template.split_once("-kernel\n").unwrap();
    let (loaded, after) = loaded.split_once("\n-chardev").unwrap();
    assert!(loaded.contains(" swiotlb=noforce "), "{loaded}");
    let common = |text: &str| {
        text.replace("share=on", "MODE")
            .replace("share=off,readonly=on,rom=off", "MODE")
            .replace("\n-incoming\ndefer", "")
    };
    // The kernel is in the clone's memory.
    let template = format!("{before}-chardev{after}");
    assert_eq!(common(&template), common(&clone), "a difference would make the state unreadable");
    let old = TemplateFds { abilities: Abilities { read_only_templates: false, ..ABLE }, ..fds };
    let line = spec(&image(), MachineType::Q35, Accel::Tcg, Start::Clone(shape, old));
    assert!(line.contains("mem-path=/proc/self/fd/11,share=off\n") && !line.contains("fd=12,"), "{line}");
    assert_eq!(fds.abilities.state_uri(&12), StateUri::FdSet(2));
    assert_eq!(old.abilities.state_uri(&12), StateUri::Fd(12));
}

#[test]
fn a_qemu_before_7_0_is_not_told_of_an_option_that_it_does_not_know() {
    let shape = Shape::of(VmSize { memory_mib: 1000, cpus: 2 }).unwrap();
    let line = |abilities| {
        let fds = TemplateFds { ram: 11, state: 12, abilities };
        [
            Start::Boot(VmSize { memory_mib: 512, cpus: 2 }, abilities),
            Start::Template(shape, fds),
            Start::Clone(shape, fds),
        ]
        .map(|start| spec(&image(), MachineType::Q35, Accel::Tcg, start))
    };
    for (new, old) in line(ABLE).into_iter().zip(line(Abilities { without_keyboard: false, ..ABLE })) {
        assert!(new.contains("i8042=off") && !old.contains("i8042"), "{new}\n{old}");
        assert_eq!(new.replace(",i8042=off", ""), old);
    }
}

#[test]
fn the_kernel_of_a_template_without_a_device_for_memory_holds_some_back() {
    let shape = Shape::without_plug(VmSize { memory_mib: 370, cpus: 1 }).unwrap();
    let fds = TemplateFds { ram: 11, state: 12, abilities: ABLE };
    let line = spec(&image(), MachineType::Microvm, Accel::Kvm, Start::Template(shape, fds));
    for expected in ["\n512M\n", "size=512M,", " crashkernel=256M spank_vm.held=256 "] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
    assert!(
        !line.contains("virtio-mem") && !boot(&image(), MachineType::Microvm, Accel::Kvm).contains("held"),
        "{line}"
    );
}

fn full(keys: &str) -> Image {
    let text = format!("disk = 'x'\nformat = 'raw'\nboot = 'full'\n{keys}");
    Image { entry: toml::from_str(&text).unwrap(), disk: "/images/x.raw".into(), ..image() }
}

#[test]
fn a_full_boot_gets_the_firmware_and_one_disk_whose_changes_are_private() {
    let line = boot(&full(""), MachineType::Q35, Accel::Tcg);
    for expected in [
        "driver=file,node-name=image-file,read-only=on,locking=off,filename=/dev/fdset/3",
        "driver=raw,node-name=image,read-only=on,file=image-file",
        "driver=qcow2,node-name=root,discard=unmap,cache.no-flush=on,file=scratch-file,backing=image",
        "virtio-blk-pci,drive=root,",
        "graphics=off",
    ] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
    for absent in ["-kernel", "-append", "spank_vm.", "drive=scratch"] {
        assert!(!line.contains(absent), "{absent} in {line}");
    }
}

#[test]
fn a_full_boot_may_have_another_controller_and_a_kernel_that_qemu_loads() {
    let sata = boot(&full("[full]\ndisk_bus = 'sata'\n"), MachineType::Q35, Accel::Kvm);
    assert!(sata.contains("ich9-ahci,id=sata\n") && sata.contains("ide-hd,bus=sata.0,drive=root"), "{sata}");
    let ide = boot(&full("[full]\ndisk_bus = 'ide'\n"), MachineType::Pc, Accel::Kvm);
    assert!(ide.contains("\npc,usb=off") && ide.contains("ide-hd,bus=ide.0,drive=root"), "{ide}");
    let direct = full("append = 'root=/dev/vda1 ro'\n[full]\nkernel = 'k'\ninitrd = 'i'\n");
    let line = boot(&direct, MachineType::Q35, Accel::Tcg);
    let expected = "-kernel\n/images/k\n-initrd\n/images/i\n-append\nconsole=ttyS0 panic=-1 root=/dev/vda1 ro\n";
    assert!(line.contains(expected), "{line}");
}

#[test]
fn a_template_of_a_kernel_that_takes_no_memory_has_no_device_for_it() {
    let shape = Shape::of_full_boot(VmSize { memory_mib: 1000, cpus: 1 }, false).unwrap();
    let fds = TemplateFds { ram: 11, state: 12, abilities: ABLE };
    let line = spec(&full(""), MachineType::Q35, Accel::Tcg, Start::Template(shape, fds));
    assert!(line.contains("-m\n1000M\n") && !line.contains("virtio-mem"), "{line}");
}

#[test]
fn a_helper_has_no_image_and_its_disks_by_descriptor_and_format() {
    use image::DiskFormat;
    let disk = HelperDisk {
        serial: "disk".into(),
        file: std::fs::File::open("/dev/null").unwrap(),
        format: DiskFormat::Vmdk,
        part: Some((1536, 65536)),
        writable: false,
    };
    let disks = [disk];
    let (model, kit) = (CpuModel::default(), kit());
    let hardware = Hardware { machine: MachineType::Q35, accel: Accel::Tcg, cpu_model: &model };
    let start = Start::Boot(VmSize { memory_mib: 256, cpus: 1 }, ABLE);
    let system = System::Helper(&disks, &[7]);
    let ends = Ends { files: None, ..ENDS };
    let spec = VmSpec { tsc_khz: Some(2_600_001), ..VmSpec::new(hardware, start, &kit, system, ends) };
    let line = spec.args().iter().map(|arg| arg.to_str().unwrap().to_owned()).collect::<Vec<_>>().join("\n");
    for expected in [
        " tsc_early_khz=2600001 spank_vm.root=none\n",
        "\nfd=7,set=10\n",
        r#"{"driver":"file","filename":"/dev/fdset/10","locking":"off","node-name":"disk-file","read-only":true}"#,
        r#"{"driver":"raw","file":"disk-file","node-name":"disk-part","offset":1536,"read-only":true,"size":65536}"#,
        r#"{"backing":null,"driver":"vmdk","file":"disk-part","node-name":"disk","read-only":true}"#,
        "\nvirtio-blk-pci,drive=disk,serial=disk",
        "\nvirtio-serial-pci,max_ports=2\n",
    ] {
        assert!(line.contains(expected), "{expected} in {line}");
    }
    assert!(!line.contains("scratch") && !line.contains("rootfs") && !line.contains("id=files"), "{line}");
}

#[test]
fn more_than_255_processors_have_their_interrupts_remapped() {
    let of =
        |accel, cpus| spec(&image(), MachineType::Q35, accel, Start::Boot(VmSize { memory_mib: 1 << 20, cpus }, ABLE));
    for accel in [Accel::Kvm, Accel::Tcg] {
        let plain = of(accel, 255);
        assert!(!plain.contains("iommu") && !plain.contains("irqchip"), "{plain}");
        let large = of(accel, 256);
        assert!(large.contains("\n256\n-device\nintel-iommu,intremap=on,eim=on\n-m\n1048576M\n"), "{large}");
        // It is the first device: QEMU ties devices to what remaps for them as they come.
        assert_eq!(large.find("-device"), large.find("-device\nintel-iommu"), "{large}");
    }
    assert!(of(Accel::Kvm, 256).contains(",kernel-irqchip=split,dump-guest-core=off"));
    assert!(!of(Accel::Tcg, 256).contains("irqchip"));
}
