//! Images that boot their own boot loader, kernel and init.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use testkit::place::built;
use testkit::wait::wait_for_file;
use testkit::{Cluster, Ran, ran};

use crate::Case;
use crate::terminal::in_terminal;

pub const CASES: &[Case] = &[
    ("a_full_boot_without_agent_ends_at_the_deadline_with_its_console_and_advice", agent_missing),
    ("a_full_boot_is_refused_where_no_boot_loader_or_no_kernel_is", nothing_to_boot),
    ("a_full_boot_gets_its_agent_by_a_copy_and_a_new_entry", installed),
    ("a_step_in_a_full_boot_is_like_any_other", step),
    ("vms_of_a_full_boot_differ_and_take_memory", differ),
    ("signals_and_terminals_reach_a_full_boot", signals_and_terminals),
    ("what_a_command_leaves_in_a_full_boot_ends_with_it_and_the_system_lives_on", leftovers),
    ("a_full_boot_that_powers_itself_off_is_an_error_and_no_hang", poweroff),
];

/// Not in every run: each takes other boots.
pub const LONG_CASES: &[Case] = &[
    ("a_full_boot_can_be_saved_with_its_kernel_and_what_was_changed", saved),
    ("an_optimised_full_boot_has_no_timers_and_firmware_and_a_smaller_disk", optimised),
    ("a_full_boot_of_debian_11_has_its_own_kernel_and_runs_a_step", debian11),
    ("a_full_boot_finds_its_disk_on_other_controllers_and_without_its_boot_loader", other_hardware),
];

/// Options of a booted VM: enough memory for a system with its own init.
const STEP: [&str; 2] = ["--mem=700", "--vm-image=disk12"];

/// A long deadline: these tests do not depend on how fast a guest boots.
const PATIENT: &str = "full_boot_timeout_s = 600\n";

fn built_disk(name: &str) -> PathBuf {
    let disk = built("disks").join(format!("{name}.raw"));
    assert!(disk.exists(), "{} is missing: run 'make disks' or 'make test-long'", disk.display());
    disk
}

fn image_dir(cluster: &Cluster) -> PathBuf {
    cluster.dir.join("full")
}

/// Runs `work` with the images of this file in the catalogue.
fn with_images(cluster: &Cluster, more: &str, work: impl FnOnce()) {
    let config = format!("image_dirs = ['{0}/images', '{0}/full']\n{more}", cluster.dir.display());
    cluster.with_config(&config, work);
}

/// An entry with a disk of its own.
fn add_image(cluster: &Cluster, name: &str, disk: &Path, keys: &str) {
    let dir = image_dir(cluster);
    fs::create_dir_all(&dir).unwrap();
    let copy = dir.join(format!("{name}.raw"));
    let copied = Command::new("cp").args(["--sparse=always", "--no-preserve=ownership"]).arg(disk).arg(copy).status();
    assert!(copied.unwrap().success());
    fs::write(dir.join(format!("{name}.toml")), format!("disk = '{name}.raw'\nformat = 'raw'\n{keys}")).unwrap();
}

/// The disk as it was built: no agent in it.
fn bare_disk(cluster: &Cluster) {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| add_image(cluster, "bare12", &built_disk("debian12-disk"), "boot = 'full'\n"));
}

/// The image 'disk12': Debian 12 with the agent, whose template every test shares.
fn prepare(cluster: &Cluster) -> &'static Ran {
    static ONCE: OnceLock<Ran> = OnceLock::new();
    ONCE.get_or_init(|| {
        add_image(cluster, "disk12", &built_disk("debian12-disk"), "description = 'Debian 12'\n");
        let mut installed = None;
        with_images(cluster, "", || installed = Some(cluster.tool("root", &["image", "install-agent", "disk12"])));
        fs::remove_file(image_dir(cluster).join("disk12.raw")).unwrap();
        installed.unwrap()
    })
}

/// A step in 'disk12'.
fn srun(cluster: &Cluster, more: &[&str]) -> Ran {
    prepare(cluster);
    let mut ran = None;
    with_images(cluster, PATIENT, || ran = Some(cluster.srun(&[&STEP, more].concat())));
    ran.unwrap()
}

fn agent_missing(cluster: &Cluster) {
    bare_disk(cluster);
    with_images(cluster, "full_boot_timeout_s = 20\n", || {
        cluster.srun(&["--mem=700", "--vm-image=bare12", "true"]).fails_with_one_line(&[
            "image 'bare12' on ",
            "no answer within 20 s; its console ended with: \"",
            "'spank-vm image install-agent'",
        ]);
    });
}

fn nothing_to_boot(cluster: &Cluster) {
    let root = cluster.work_dir();
    for dir in ["etc", "bin", "boot"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    fs::write(root.join("etc/os-release"), "ID=none\n").unwrap();
    let disk = cluster.work_dir().join("disk");
    let mut mkfs = Command::new("mkfs.ext4");
    let made =
        mkfs.args(["-q", "-F", "-d"]).arg(&root).arg(&disk).arg("16M").stderr(Stdio::null()).stdout(Stdio::null());
    let made = made.status().unwrap();
    assert!(made.success());
    add_image(cluster, "nothing", &disk, "");
    let entry = fs::read(image_dir(cluster).join("nothing.toml")).unwrap();
    with_images(cluster, "", || {
        let install = || cluster.tool("root", &["image", "install-agent", "nothing"]);
        install().fails_with_one_line(&["image 'nothing'", "no boot loader that a BIOS would start"]);
        // The mark of a boot sector; a file system does not use the first KiB.
        let mut file = fs::File::options().write(true).open(image_dir(cluster).join("nothing.raw")).unwrap();
        file.write_all(&[0xeb]).unwrap();
        file.seek(SeekFrom::Start(510)).unwrap();
        file.write_all(&[0x55, 0xaa]).unwrap();
        install().fails_with_one_line(&["image 'nothing'", "no kernel in /boot", "boot = \"kit\""]);
        // A file system for kit boots is refused at once.
        cluster.tool("root", &["image", "install-agent", "tiny"]).fails_with_one_line(&["'tiny'", "a whole disk"]);
    });
    assert_eq!(fs::read(image_dir(cluster).join("nothing.toml")).unwrap(), entry, "a failure changes nothing");
    let names = fs::read_dir(image_dir(cluster)).unwrap().map(|file| file.unwrap().file_name());
    let hidden: Vec<_> = names.filter(|name| name.as_encoded_bytes().starts_with(b".")).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

fn installed(cluster: &Cluster) {
    let told = prepare(cluster);
    assert!(told.code == 0 && told.stdout.contains("the agent as a service of systemd"), "{told:?}");
    let entry = fs::read_to_string(image_dir(cluster).join("disk12.toml")).unwrap();
    for expected in ["boot = \"full\"", "shares = true", "memory_hotplug = true", "Debian 12", "disk12-"] {
        assert!(entry.contains(expected), "{expected} is not in {entry}");
    }
}

fn step(cluster: &Cluster) {
    let dir = cluster.work_dir();
    prepare(cluster);
    with_images(cluster, PATIENT, || {
        let script = "ps -o comm= 1; id -un; pwd; cat </dev/stdin; echo by name >/dev/stdout; echo piped | tee -a /dev/stdout; \
                      echo out > file; echo err >/dev/stderr; exit 6";
        let line = format!("echo in | srun {} sh -c '{script}'", STEP.join(" "));
        let ran = cluster.run_in(&dir, &["sh", "-c", &line]);
        assert_eq!(ran.code, 6, "{ran:?}");
        assert_eq!(
            ran.stdout,
            format!("systemd\n{}\n{}\nin\nby name\npiped\npiped\n", cluster.user, dir.display()),
            "{ran:?}"
        );
        assert!(ran.stderr.starts_with("err\n"), "{ran:?}");
        // The same with files, and what a system has besides: half of the memory for /dev/shm, files without a name in /tmp.
        let script = r#"cat </dev/stdin; echo by name >/dev/stdout; echo err >>/dev/stderr
            awk -v shm=$(stat -f -c "%b %S" /dev/shm | awk "{ print \$1 * \$2 / 1024 }") "/^MemTotal/ { print int(100 * shm / \$2 + 0.5) }" /proc/meminfo
            perl -e "sysopen(F, q(/tmp), 020200002) or die qq(\$!\n); print qq(unnamed\n)""#;
        let line = format!("echo in >in; srun {} -o out -e err -i in sh -c '{script}'", STEP.join(" "));
        cluster.run_in(&dir, &["sh", "-c", &line]).ok();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!((read("out").as_str(), read("err").as_str()), ("in\nby name\n50\nunnamed\n", "err\n"));
    });
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "out\n");
    assert_eq!(srun(cluster, &["no-such-command"]).code, 127);
}

fn differ(cluster: &Cluster) {
    let script = "echo $(hostname) $(cat /proc/sys/kernel/random/boot_id) $(head -c 8 /dev/urandom | od -An -tx8)";
    let ran = srun(cluster, &["--mem=1400", "--vms-per-slot=2", "sh", "-c", script]).ok();
    let lines: Vec<Vec<&str>> = ran.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 2, "{ran}");
    let same: Vec<_> = lines[0].iter().zip(&lines[1]).filter(|(one, other)| one == other).collect();
    assert!(lines[0].len() == 3 && same.is_empty(), "host name, boot id and random numbers differ: {ran}");
    let script = "while read -r _ kb _ < /proc/meminfo && [ $kb -lt 1000000 ]; do sleep 0.1; done; echo there";
    assert_eq!(srun(cluster, &["--mem=1700", "--vm-mem=1500", "sh", "-c", script]).ok(), "there\n");
}

fn signals_and_terminals(cluster: &Cluster) {
    let dir = cluster.work_dir();
    prepare(cluster);
    with_images(cluster, PATIENT, || {
        let script = "trap 'echo caught; exit 3' USR1; echo > ready; while :; do sleep 0.1; done";
        let mut step = cluster.command_in(&dir, &[&["srun", "-Jfullboot"], &STEP[..], &["sh", "-c", script]].concat());
        let step = step.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_file(&dir.join("ready"));
        cluster.run(&["scancel", "--name=fullboot", "--signal=USR1"]).ok();
        let ran = ran(step.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stdout.as_str()), (3, "caught\n"), "{ran:?}");
        let step = format!("srun {} --pty sh -c 'tty; stty size'", STEP.join(" "));
        let screen = in_terminal(cluster, &step).ok();
        assert!(screen.contains("/dev/pts/") && screen.contains("33 99"), "{screen:?}");
    });
}

fn leftovers(cluster: &Cluster) {
    // The first would keep the output open for ever; the second has left its session and its parents.
    let script = "sleep 1000 & (setsid sleep 1000 &); exit 4";
    assert_eq!(srun(cluster, &["sh", "-c", script]).code, 4);
    // As root, because root needs no bus for this.
    let running = srun(cluster, &["--vm-root", "systemctl", "is-active", "systemd-journald", "spank-vm-agent"]).ok();
    assert_eq!(running, "active\nactive\n");
}

fn poweroff(cluster: &Cluster) {
    let command = ["--vm-root", "sh", "-c", "systemctl poweroff 2>/dev/null; sleep 600"];
    srun(cluster, &command)
        .fails_with_one_line(&["image 'disk12' on ", "the guest powered itself off before the command ended"]);
}

fn saved(cluster: &Cluster) {
    prepare(cluster);
    let dir = cluster.work_dir();
    let place = format!("--vm-save={}/kept12", dir.display());
    let images =
        format!("image_dirs = ['{0}/images', '{0}/full', '{1}']\n{PATIENT}", cluster.dir.display(), dir.display());
    cluster.with_config(&images, || {
        let script = "echo kept >/etc/kept; echo gone >/tmp/gone; systemctl enable fstrim.timer 2>/dev/null";
        let said = cluster.run_in(&dir, &[&["srun"], &STEP[..], &["--vm-root", &place, "sh", "-c", script]].concat());
        assert!(said.code == 0 && said.stderr.contains("image 'kept12' is saved: "), "{said:?}");
        let entry = fs::read_to_string(dir.join("kept12.toml")).unwrap();
        assert!(entry.contains("boot = \"full\"") && entry.contains("format = \"raw\""), "{entry}");
        let script = "uname -r; cat /etc/kept; ls /tmp/gone; systemctl is-active spank-vm-agent";
        let ran = cluster.run_in(&dir, &["srun", "--mem=700", "--vm-image=kept12", "--vm-root", "sh", "-c", script]);
        let lines: Vec<&str> = ran.stdout.lines().collect();
        assert!(lines.len() == 3 && lines[0].starts_with("6.1.") && lines[1..] == ["kept", "active"], "{ran:?}");
        let disk = fs::read_dir(&dir).unwrap().flatten().map(|file| file.path());
        let disk = disk.into_iter().find(|path| path.extension().is_some_and(|end| end == "raw")).unwrap();
        // A system that was frozen needs no repair.
        let part = dir.join("part");
        copy_partition(&disk, &part);
        let checked = Command::new("e2fsck").args(["-fn"]).arg(&part).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    });
}

/// The only partition of a disk, which begins after one MiB.
fn copy_partition(disk: &Path, to: &Path) {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", disk.display())).arg(format!("of={}", to.display()));
    let done = dd.args(["bs=1M", "skip=1", "conv=sparse", "status=none"]).status().unwrap();
    assert!(done.success());
}

fn optimised(cluster: &Cluster) {
    prepare(cluster);
    let tool = |words: &[&str]| {
        let mut ran = None;
        let all = [&["image", "optimise", "disk12", "--runs", "0"], words].concat();
        with_images(cluster, PATIENT, || ran = Some(cluster.tool("root", &all)));
        ran.unwrap()
    };
    let entry = fs::read(image_dir(cluster).join("disk12.toml")).unwrap();
    let looked = tool(&["--dry-run"]).ok();
    assert!(looked.contains("apt-daily.timer") && looked.ends_with("nothing was changed\n"), "{looked}");
    let told = tool(&["--as", "light12", "--keep", "fstrim.timer"]).ok();
    assert!(told.contains("removed ") && told.contains("masked "), "{told}");
    assert!(!told.contains("fstrim.timer") && told.contains("disk "), "{told}");
    assert_eq!(fs::read(image_dir(cluster).join("disk12.toml")).unwrap(), entry, "--as keeps the old one");
    let script = "systemctl is-enabled apt-daily.timer fstrim.timer; readlink /etc/systemd/system/apt-daily.timer";
    with_images(cluster, PATIENT, || {
        let ran = cluster.srun(&["--mem=700", "--vm-image=light12", "--vm-root", "sh", "-c", script]);
        assert!(ran.stdout.starts_with("masked\n") && ran.stdout.ends_with("/dev/null\n"), "{ran:?}");
        assert_eq!(ran.stdout.matches("masked").count(), 1, "what --keep names is not masked: {ran:?}");
        cluster.tool("root", &["image", "verify", "light12"]).ok();
        let again = cluster.tool("root", &["image", "optimise", "light12", "--dry-run", "--keep", "fstrim.timer"]).ok();
        assert!(again.contains("nothing of it can be left out"), "{again}");
    });
}

fn debian11(cluster: &Cluster) {
    add_image(cluster, "disk11", &built_disk("debian11-disk"), "");
    with_images(cluster, PATIENT, || {
        cluster.tool("root", &["image", "install-agent", "disk11"]).ok();
        let script = "uname -r; . /etc/os-release; echo $VERSION_ID; touch seen";
        let dir = cluster.work_dir();
        let ran = cluster.run_in(&dir, &["srun", "--mem=700", "--vm-image=disk11", "sh", "-c", script]).ok();
        assert!(ran.starts_with("5.10.") && ran.ends_with("\n11\n"), "{ran}");
        assert!(dir.join("seen").exists());
    });
}

fn other_hardware(cluster: &Cluster) {
    prepare(cluster);
    let dir = image_dir(cluster);
    let entry = fs::read_to_string(dir.join("disk12.toml")).unwrap();
    let built = built_disk("debian12-disk");
    for file in ["vmlinuz", "initrd"] {
        fs::copy(built.with_extension(file), dir.join(file)).unwrap();
    }
    let direct = entry.replace(
        "[full]\n",
        "append = \"root=/dev/vda1 ro quiet\"\n[full]\nkernel = \"vmlinuz\"\ninitrd = \"initrd\"\n",
    );
    let variants = [
        ("sata", entry.replace("\"virtio\"", "\"sata\""), "/dev/sda1"),
        ("ide", entry.replace("\"virtio\"", "\"ide\""), "/dev/sda1"),
        ("direct", direct, "/dev/vda1"),
    ];
    for (name, text, device) in variants {
        fs::write(dir.join(format!("{name}.toml")), text).unwrap();
        with_images(cluster, &format!("start = 'boot'\n{PATIENT}"), || {
            let image = format!("--vm-image={name}");
            let ran = cluster.srun(&["--mem=700", &image, "findmnt", "-no", "SOURCE", "/"]).ok();
            assert_eq!(ran.trim(), device, "{name}");
        });
    }
}
