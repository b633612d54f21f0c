//! Images of every kind that can be imported, each made by an ordinary user and run as a job.
//!
//! One script, tests/images/acceptance.sh, says what an image must be able to.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::place::{built, repository};
use testkit::wait::wait_for_file;
use testkit::{Cluster, Ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_debian_12_root_passes_the_acceptance_script", debian12),
    ("a_root_with_32_bit_programs_passes_the_acceptance_script_on_the_64_bit_kernel", debian12_i386),
    ("programs_of_the_time_of_2_6_32_run_where_the_entry_brings_the_vsyscall_page_back", old_programs),
    ("an_oci_archive_imported_by_a_user_passes_the_acceptance_script", oci_archive),
    ("a_qcow2_disk_with_partitions_imported_by_a_user_passes_the_acceptance_script", qcow2_disk),
    ("disks_without_a_root_that_can_be_read_are_refused_with_what_is_on_them", refused_disks),
    ("an_import_that_is_interrupted_leaves_nothing", interrupted),
    ("an_image_for_another_processor_is_refused_before_a_vm_starts", other_processor),
];

pub const LONG_CASES: &[Case] = &[
    ("debian_11_passes_the_acceptance_script", debian11),
    ("debian_13_passes_the_acceptance_script", debian13),
    ("a_docker_save_archive_passes_the_acceptance_script", docker_archive),
    ("a_directory_passes_the_acceptance_script", directory),
    ("a_raw_disk_with_btrfs_passes_the_acceptance_script", |cluster| disk(cluster, "btrfs", "raw")),
    ("a_vdi_disk_with_ext4_passes_the_acceptance_script", |cluster| disk(cluster, "ext4", "vdi")),
    ("a_vmdk_disk_with_xfs_passes_the_acceptance_script", |cluster| disk(cluster, "xfs", "vmdk")),
    ("a_root_in_a_btrfs_subvolume_of_any_name_passes_the_acceptance_script", subvolume),
    ("a_virtual_appliance_passes_the_acceptance_script", |cluster| disk(cluster, "ext4", "ova")),
];

fn debian11(cluster: &Cluster) {
    accepted(cluster, "debian11", "debian", "11");
}

fn debian12(cluster: &Cluster) {
    accepted(cluster, "debian12", "debian", "12");
}

fn debian13(cluster: &Cluster) {
    accepted(cluster, "debian13", "debian", "13");
}

fn debian12_i386(cluster: &Cluster) {
    accepted(cluster, "debian12-i386", "debian", "12");
    let bits = cluster.srun(&["--vm-image=debian12-i386", "getconf", "LONG_BIT"]).ok();
    assert_eq!(bits, "32\n");
    assert!(cluster.tool("root", &["image", "show", "debian12-i386"]).ok().contains("arch = \"i386\""));
}

/// No system of that time is at hand: a program that does what its C library did stands in for it.
fn old_programs(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let (source, program) = (repository().join("tests/images/old-abi.c"), dir.join("old-abi"));
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector", "-o"])
        .arg(&program)
        .arg(source);
    assert!(gcc.status().unwrap().success());
    let images = cluster.dir.join("old");
    fs::create_dir_all(&images).unwrap();
    let entry = fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap();
    let disk = |line: &str| line.replace("disk = \"", &format!("disk = \"{}/images/", cluster.dir.display()));
    let entry: String =
        entry.lines().map(|line| if line.starts_with("disk =") { disk(line) } else { line.into() } + "\n").collect();
    fs::write(images.join("old.toml"), format!("append = \"vsyscall=emulate\"\n{entry}")).unwrap();
    fs::write(images.join("new.toml"), entry).unwrap();
    cluster.with_config(&format!("image_dirs = ['{}']\n", images.display()), || {
        let run = |image: &str| cluster.run_in(&dir, &["srun", image, "./old-abi"]);
        assert_eq!(run("--vm-image=old").ok(), "vsyscall int80 open stat getdents select vfork\n");
        let hidden = run("--vm-image=new");
        assert_eq!(hidden.code, 128 + 11, "today's kernels hide that page: {hidden:?}");
    });
    fs::remove_dir_all(images).unwrap();
}

fn oci_archive(cluster: &Cluster) {
    container(cluster, "oci");
}

fn docker_archive(cluster: &Cluster) {
    container(cluster, "docker");
}

/// The second layer took one file away and brought another.
fn container(cluster: &Cluster, kind: &str) {
    let source = cluster.work_dir().join("container.tar");
    let archive = recipe("as-container", &[kind, root_of("debian12").to_str().unwrap()]);
    fs::write(&source, archive).unwrap();
    imported(cluster, &source, |name| {
        accepted(cluster, name, "debian", "12");
        let script = "cat /etc/second-layer; ls /etc/issue";
        let ran = cluster.srun(&[&format!("--vm-image={name}"), "sh", "-c", script]);
        assert_eq!(ran.stdout, "from the second layer\n", "{}", ran.stderr);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
    });
}

fn qcow2_disk(cluster: &Cluster) {
    disk(cluster, "ext4", "qcow2");
}

fn disk(cluster: &Cluster, file_system: &str, format: &str) {
    // A small root for file systems that are made file by file.
    let (root, id, version) = if file_system == "xfs" { ("tiny", "tiny", "1") } else { ("debian12", "debian", "12") };
    let source = made_disk(cluster, file_system, format, root);
    imported(cluster, &source, |name| accepted(cluster, name, id, version));
}

/// The disk is made in a VM, as root there, with a kit that has the module.
fn subvolume(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let kernel = fs::read_dir(built("cache")).unwrap().flatten().map(|file| file.path());
    let kernel = kernel.max().expect("the kernel's package is kept").display().to_string();
    let (kit, agent) = (dir.join("kit").display().to_string(), cluster.dir.join("stage/libexec/spank-vm-agent"));
    let build = ["kit", "build", "--module", "btrfs", "--kernel", &kernel, "--output", &kit, "--agent"];
    let said = cluster.tool("root", &[&build[..], &[agent.to_str().unwrap()]].concat()).ok();
    assert!(said.contains("modules for programs: loop tun btrfs"), "{said}");
    fs::copy(root_of("debian12"), dir.join("root.tar")).unwrap();
    cluster.run_in(&dir, &["sh", "-ec", "truncate -s 1G disk; PATH=$PATH:/usr/sbin mkfs.btrfs -q disk"]).ok();
    let script = r#"PATH=$PATH:/usr/sbin; mount -o loop disk /mnt
        for name in oddly-named data; do
            perl -e 'open D, "<", "/mnt"; ioctl(D, 0x5000940e, pack("qZ4088", 0, shift)) or die "$!"' $name
        done
        tar -C /mnt/oddly-named -xpf root.tar; echo text >/mnt/data/file; umount /mnt"#;
    cluster.with_config(&format!("kit = '{kit}'\n"), || {
        cluster.run_in(&dir, &["srun", "--vm-image=debian12", "--vm-root", "--mem=800", "sh", "-ec", script]).ok();
    });
    refused_with(cluster, &dir.join("disk"), &["--subvolume", "data"], &["no subvolume 'data'", "oddly-named do"]);
    imported(cluster, &dir.join("disk"), |name| accepted(cluster, name, "debian", "12"));
}

fn directory(cluster: &Cluster) {
    let source = cluster.work_dir().join("root");
    // As the user, who may not make devices.
    let script = format!("mkdir '{0}' && tar -C '{0}' --exclude='./dev/*' -xf -", source.display());
    let mut unpack = cluster.command_as(&cluster.user, Path::new("/"), &["sh", "-c", &script]);
    assert!(unpack.stdin(fs::File::open(root_of("debian12")).unwrap()).status().unwrap().success());
    imported(cluster, &source, |name| {
        accepted(cluster, name, "debian", "12");
        let owner = cluster.srun(&[&format!("--vm-image={name}"), "stat", "-c", "%u %g", "/etc/passwd"]).ok();
        assert_eq!(owner, "0 0\n", "the user's files are root's in the image");
    });
}

fn refused_disks(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let make = |name: &str, script: &str| {
        let path = dir.join(name);
        let status = Command::new("sh").args(["-ec", script, "sh"]).arg(&path).status().unwrap();
        assert!(status.success(), "{script}");
        path
    };
    let table = "truncate -s 8M $1; printf 'label: gpt\\nsize=1M\\nsize=2M\\nsize=2M\\n' | sfdisk -q $1";
    let put = |magic: &str, mib: u32, offset: u32| {
        format!("; printf '{magic}' | dd of=$1 bs=1 seek=$(({mib} * 1048576 + {offset})) conv=notrunc status=none")
    };
    let path = make("luks", &format!("{table}{}{}", put("LUKS\\272\\276", 2, 0), put("SWAPSPACE2", 4, 4086)));
    let words = ["no root file system", "partition 2: LUKS (encrypted)", "partition 3: swap", "cannot be read"];
    refused(cluster, &path, &words);
    let path = make("ntfs", &format!("{table}{}{}", put("NTFS    ", 2, 3), put("LABELONE", 4, 512)));
    refused(cluster, &path, &["partition 2: NTFS", "partition 3: LVM", "import a tar"]);
    // A file system that ends before its end.
    let path = make("cut", "truncate -s 32M $1; mkfs.ext4 -q -F $1; truncate -s 16M $1");
    refused(cluster, &path, &["ext4", "damaged, cut off, or newer"]);
    let path = make("files", "truncate -s 16M $1; mkfs.ext4 -q -F $1");
    refused(cluster, &path, &["no root file system", "the whole disk: ext4"]);
}

#[track_caller]
fn refused(cluster: &Cluster, source: &Path, words: &[&str]) {
    refused_with(cluster, source, &[], words);
}

#[track_caller]
fn refused_with(cluster: &Cluster, source: &Path, options: &[&str], words: &[&str]) {
    let ran = import(cluster, source, options);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| !line.starts_with("spank-vm: note: ")).collect();
    assert!(lines.len() == 1 && words.iter().all(|word| lines[0].contains(word)), "{words:?}: {}", ran.stderr);
    assert_eq!(files_in(&images_of(source)), [""; 0]);
}

fn interrupted(cluster: &Cluster) {
    let dir = cluster.work_dir();
    // A pipe that this test keeps open: the import reads it for as long as the test wants.
    let script = "mkfifo pipe; chmod 666 pipe; echo $$ >pid; exec \"$@\" <pipe";
    let program = cluster.dir.join("stage/libexec/spank-vm");
    let images = dir.join("images");
    let words = ["sh", "-c", script, "sh", program.to_str().unwrap(), "image", "import", "-", "--name", "x", "--dir"];
    let mut child = cluster.command_in(&dir, &[&words[..], &[images.to_str().unwrap()]].concat()).spawn().unwrap();
    wait_for_file(&dir.join("pid"));
    let mut pipe = fs::OpenOptions::new().write(true).open(dir.join("pipe")).unwrap();
    let archive = fs::read(root_of("tiny")).unwrap();
    pipe.write_all(&archive[..100_000]).unwrap();
    wait_for_file(&images);
    let pid = fs::read_to_string(dir.join("pid")).unwrap();
    assert!(Command::new("kill").args(["-INT", pid.trim()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(files_in(&images), [""; 0]);
}

fn other_processor(cluster: &Cluster) {
    let dir = cluster.work_dir().join("images");
    fs::create_dir(&dir).unwrap();
    let tiny = fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap();
    let disk = format!("disk = \"{}/images/", cluster.dir.display());
    let entry = tiny.replace("disk = \"", &disk).replace("x86_64", "aarch64");
    fs::write(dir.join("arm.toml"), entry).unwrap();
    let setting = format!("image_dirs = ['{}']\n", dir.display());
    cluster.with_config(&setting, || {
        let ran = cluster.srun(&["--vm-image=arm", "true"]);
        ran.fails_with_one_line(&["image 'arm' is for aarch64"]);
    });
}

/// Runs the acceptance script in the image as a job's command.
#[track_caller]
fn accepted(cluster: &Cluster, image: &str, id: &str, version: &str) {
    let dir = cluster.work_dir();
    let script = repository().join("tests/images/acceptance.sh");
    fs::copy(script, dir.join("acceptance.sh")).unwrap();
    let option = format!("--vm-image={image}");
    let stdout = cluster.run_in(&dir, &["srun", &option, "sh", "acceptance.sh", id, version]).ok();
    assert!(stdout.ends_with("accepted\n"), "{stdout}");
    assert_eq!(fs::read_to_string(dir.join(format!("from-{id}{version}"))).unwrap(), "host\n");
}

/// Imports a source as the user and lets `test` use the image by its name.
#[track_caller]
fn imported(cluster: &Cluster, source: &Path, test: impl FnOnce(&str)) {
    let said = import(cluster, source, &[]).ok();
    assert!(said.starts_with("image 'imported' is ready: "), "{said}");
    let dir = images_of(source);
    assert_eq!(files_in(&dir).len(), 2, "{:?}", files_in(&dir));
    let setting = format!("image_dirs = ['{}', '{}/images']\n", dir.display(), cluster.dir.display());
    cluster.with_config(&setting, || test("imported"));
    fs::remove_dir_all(source.parent().unwrap()).unwrap();
}

fn import(cluster: &Cluster, source: &Path, more: &[&str]) -> Ran {
    let dir = images_of(source);
    let words = ["image", "import", source.to_str().unwrap(), "--name", "imported", "--dir", dir.to_str().unwrap()];
    cluster.tool(&cluster.user, &[&words, more].concat())
}

/// The catalogue of the user, beside what is imported.
fn images_of(source: &Path) -> PathBuf {
    source.parent().unwrap().join("images")
}

fn files_in(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn made_disk(cluster: &Cluster, file_system: &str, format: &str, root: &str) -> PathBuf {
    let disk = cluster.work_dir().join("disk");
    recipe("as-disk", &[file_system, format, root_of(root).to_str().unwrap(), disk.to_str().unwrap()]);
    disk
}

/// The tar that the image of that name was made from.
fn root_of(image: &str) -> PathBuf {
    built("rootfs").join(format!("{image}.tar"))
}

#[track_caller]
fn recipe(name: &str, arguments: &[&str]) -> Vec<u8> {
    let script = repository().join("tests/images").join(name);
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
