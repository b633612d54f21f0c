//! Templates: made once, cloned by every user who may, trusted only if nobody else could have written them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use testkit::cluster::uid;
use testkit::place::repository;
use testkit::undo::afterwards;
use testkit::{Cluster, Ran, system};

use crate::Case;
use crate::small_disk::SmallDisk;

pub const CASES: &[Case] = &[
    ("four_tasks_that_start_at_once_make_one_template", made_once),
    ("one_template_serves_vms_of_every_usual_size", every_size),
    ("thirty_two_clones_have_nothing_in_common_that_should_differ", unique),
    ("clones_of_an_image_with_ssh_host_keys_have_their_own", host_keys),
    ("a_clone_has_its_memory_soon_after_its_start", memory),
    ("the_smallest_vm_makes_its_template_within_its_memory", smallest),
    ("a_command_may_ask_for_all_its_memory_at_once", at_once),
    ("the_template_of_a_user_is_closed_to_others", private),
    ("a_template_of_the_site_serves_a_user_and_keeps_the_images_permissions", of_site),
    ("an_image_that_no_template_can_be_made_of_keeps_no_other_from_its_own", all_but_one),
    ("a_damaged_template_is_replaced_and_the_step_does_not_notice", damaged),
    ("a_template_that_others_could_have_written_is_not_used", tampered),
    ("a_builder_that_was_killed_leaves_no_lock", killed_builder),
    ("templates_beyond_the_limit_are_removed_least_recently_used_first", evicted),
    ("without_templates_every_vm_boots", boot),
    ("where_no_template_can_be_kept_vms_boot", no_room),
    ("in_the_nodes_memory_no_job_keeps_a_template_and_check_says_so", in_memory),
    ("a_template_of_the_site_is_closed_to_whom_its_images_directory_is", closed_directory),
    ("templates_are_listed_verified_and_removed", tools),
];

fn shelf(cluster: &Cluster) -> PathBuf {
    cluster.dir.join("templates/users").join(uid(&cluster.user).to_string())
}

/// Directories of the user's templates; anything else there is an error.
fn templates(cluster: &Cluster) -> Vec<PathBuf> {
    let entries = fs::read_dir(shelf(cluster)).into_iter().flatten();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    for path in &paths {
        assert!(path.join("template.toml").exists(), "{} is left over", path.display());
    }
    paths
}

fn vm(cluster: &Cluster, options: &[&str], command: &[&str]) -> Ran {
    cluster.srun(&[&["--vm-image=tiny"], options, command].concat())
}

/// The phases that the runner printed for its first VM, by name.
fn phase(stderr: &str, name: &str) -> Option<f64> {
    let line = stderr.lines().find(|line| line.contains("timing: vm=0"))?;
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.strip_suffix("ms")?.parse().ok())
}

fn made_once(cluster: &Cluster) {
    cluster.forget_templates();
    let stdout = vm(cluster, &["-n4", "-N2", "--mem=1200"], &["sh", "-c", "echo $SLURM_PROCID"]).ok();
    assert_eq!(stdout.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["0", "1", "2", "3"]));
    assert_eq!(templates(cluster).len(), 1);
}

fn every_size(cluster: &Cluster) {
    cluster.forget_templates();
    for memory in ["--vm-mem=256", "--vm-mem=300", "--vm-mem=2G"] {
        vm(cluster, &["--mem=3G", memory], &["true"]).ok();
    }
    assert_eq!(templates(cluster).len(), 1);
    // Two processors need another template.
    assert_eq!(vm(cluster, &["-c2", "--mem=3G"], &["nproc"]).ok(), "2\n");
    assert_eq!(templates(cluster).len(), 2);
}

fn unique(cluster: &Cluster) {
    let script = "echo $(hostname) $(cat /etc/machine-id /proc/sys/kernel/random/boot_id) \
                  $(head -c 16 /dev/urandom | od -An -tx1) $(date +%Y)";
    let words =
        ["run", "--image", "tiny", "--vms", "32", "--vm-mem", "128", "--vm-cpus", "1", "--", "sh", "-c", script];
    let stdout = cluster.tool("root", &words).ok();
    let lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 32, "{stdout}");
    for column in 0..3 {
        let different: BTreeSet<&str> = lines.iter().map(|words| words[column]).collect();
        assert_eq!(different.len(), 32, "column {column} of {stdout}");
    }
    let random: BTreeSet<String> = lines.iter().map(|words| words[3..19].concat()).collect();
    assert_eq!(random.len(), 32, "{stdout}");
    // A clock that was not set would still have the time of the template.
    let year = String::from_utf8(std::process::Command::new("date").arg("+%Y").output().unwrap().stdout).unwrap();
    assert!(lines.iter().all(|words| words[19] == year.trim()), "{stdout}");
}

fn memory(cluster: &Cluster) {
    let script = "for try in $(seq 100); do kib=$(awk '/MemTotal/ { print $2 }' /proc/meminfo); \
                  [ $kib -lt $((1841 * 1024)) ] || break; sleep 0.1; done; echo $kib";
    let stdout = vm(cluster, &["--mem=2G"], &["sh", "-c", script]).ok();
    // 2048 MiB less 128 for QEMU and 9 for page tables, less what the guest's kernel takes for itself.
    let mib = stdout.trim().parse::<u64>().unwrap() / 1024;
    assert!((1841..=1911).contains(&mib), "{mib} MiB");
}

fn smallest(cluster: &Cluster) {
    cluster.forget_templates();
    for image in ["--vm-image=tiny", "--vm-image=debian12"] {
        for _ in 0..2 {
            assert_eq!(cluster.srun(&[image, "--mem=256", "echo", "fine"]).ok(), "fine\n");
        }
    }
    assert_eq!(templates(cluster).len(), 2);
}

fn at_once(cluster: &Cluster) {
    // Most of what the VM will have, asked for in one piece by the first instruction.
    let command = "dd if=/dev/zero of=/dev/null bs=1500M count=1 2>/dev/null && cat /proc/sys/vm/overcommit_memory";
    let stdout = vm(cluster, &["--mem=2G"], &["sh", "-c", command]).ok();
    assert_eq!(stdout, "0\n", "and the image's own policy is back");
}

fn private(cluster: &Cluster) {
    cluster.forget_templates();
    vm(cluster, &[], &["true"]).ok();
    let template = templates(cluster).remove(0);
    let owner = uid(&cluster.user);
    for (path, mode) in [(shelf(cluster), 0o700), (template.clone(), 0o700), (template.join("ram"), 0o600)] {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (owner, mode), "{}", path.display());
    }
    for parent in [cluster.dir.join("templates"), cluster.dir.join("templates/users")] {
        let meta = fs::symlink_metadata(&parent).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o755), "{}", parent.display());
    }
    let ram = template.join("ram").display().to_string();
    let read =
        std::process::Command::new("runuser").args(["-u", "nobody", "--", "head", "-c1", &ram]).output().unwrap();
    assert!(!read.status.success(), "nobody reads {ram}");
}

fn of_site(cluster: &Cluster) {
    cluster.forget_templates();
    let made = cluster.tool("root", &["template", "build", "tiny"]).ok();
    assert!(made.starts_with("tiny: made in "), "{made}");
    assert!(cluster.tool("root", &["template", "build", "tiny"]).ok().contains("was there already"));
    let site = cluster.dir.join("templates/site");
    let template = fs::read_dir(&site).unwrap().next().unwrap().unwrap().path();
    let image = cluster.dir.join("images/tiny.toml");
    let disk: toml::Table = fs::read_to_string(image).unwrap().parse().unwrap();
    let disk = cluster.dir.join("images").join(disk["disk"].as_str().unwrap());
    let (ram, disk) = (fs::metadata(template.join("ram")).unwrap(), fs::metadata(disk).unwrap());
    assert_eq!((ram.mode() & 0o044, ram.gid()), (disk.mode() & 0o044, disk.gid()));
    assert_eq!(ram.mode() & 0o733, 0o600, "nobody but root may write");
    let dir = cluster.work_dir();
    cluster.run_in(&dir, &["srun", "--vm-image=tiny", "-n2", "true"]).ok();
    let listed = cluster.tool("root", &["template", "list"]).ok();
    assert!(listed.contains("(site)"), "{listed}");
    assert_eq!(templates(cluster).len(), 0, "the user's step used the site's: {listed}");
}

/// As the unit makes them that runs when a node comes up.
fn all_but_one(cluster: &Cluster) {
    cluster.forget_templates();
    let dir = cluster.work_dir();
    let entry = fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap();
    let entry = entry.replace("disk = \"", &format!("disk = \"{}/images/", cluster.dir.display()));
    fs::write(dir.join("other.toml"), entry.replace(".squashfs", ".gone")).unwrap();
    let foreign = entry.lines().filter(|line| !line.starts_with("arch")).collect::<Vec<_>>().join("\n");
    fs::write(dir.join("arm.toml"), format!("arch = 'aarch64'\n{foreign}\n")).unwrap();
    fs::write(dir.join("tiny.toml"), entry).unwrap();
    cluster.with_config(&format!("image_dirs = ['{}']\n", dir.display()), || {
        let ran = cluster.tool("root", &["template", "build", "--all"]);
        assert!(ran.code == 1 && ran.stderr.contains("1 of 2 images is without a template"), "{ran:?}");
        let lines: Vec<&str> = ran.stdout.lines().collect();
        assert_eq!(lines[0], "arm: left out: it is for aarch64, this node is x86_64", "{ran:?}");
        assert!(lines[1].starts_with("other: FAILED: the disk of image 'other'"), "{ran:?}");
        assert!(lines[2].starts_with("tiny: made in "), "{ran:?}");
        let named = cluster.tool("root", &["template", "build", "arm"]);
        assert!(
            named.code == 1 && named.stderr.contains("image 'arm' is for aarch64, this node is x86_64"),
            "{named:?}"
        );
    });
    cluster.forget_templates();
}

fn damaged(cluster: &Cluster) {
    cluster.forget_templates();
    vm(cluster, &[], &["true"]).ok();
    let template = newest(cluster);
    for damage in ["state", "ram", "template.toml", "scratch"] {
        let file = fs::OpenOptions::new().write(true).open(template.join(damage)).unwrap();
        file.set_len(100).unwrap();
        assert_eq!(vm(cluster, &[], &["echo", "fine"]).ok(), "fine\n", "after damage to {damage}");
        assert!(fs::metadata(template.join(damage)).unwrap().len() > 100, "{damage} was made anew");
    }
    // The right length, but not a saved state: QEMU refuses it, the step's VM falls back to a boot, the next start
    // makes a new one.
    let state = template.join("state");
    let length = fs::metadata(&state).unwrap().len();
    fs::write(&state, vec![0x5a; length as usize]).unwrap();
    assert_eq!(vm(cluster, &[], &["echo", "fine"]).ok(), "fine\n");
    assert!(!template.exists(), "a template that does not load is removed");
}

fn tampered(cluster: &Cluster) {
    cluster.forget_templates();
    vm(cluster, &[], &["true"]).ok();
    let template = newest(cluster);
    let ram = template.join("ram");
    let identity = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = identity(&ram);
    fs::set_permissions(&ram, fs::Permissions::from_mode(0o666)).unwrap();
    vm(cluster, &[], &["true"]).ok();
    assert_ne!(identity(&ram), before, "a new one was made");
    // Somebody else's file in the place of the user's.
    let state = template.join("state");
    let owner = uid(&cluster.user);
    std::os::unix::fs::chown(&state, Some(65534), None).unwrap();
    vm(cluster, &[], &["true"]).ok();
    assert_eq!(fs::metadata(&state).unwrap().uid(), owner);
}

fn killed_builder(cluster: &Cluster) {
    cluster.forget_templates();
    let step = cluster
        .command_in(&cluster.work_dir(), &["srun", "-Q", "--vm-image=tiny", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut step = step.unwrap();
    let lock = || fs::read_dir(shelf(cluster)).ok()?.flatten().find(|entry| entry.path().extension().is_some());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while lock().is_none() {
        assert!(std::time::Instant::now() < deadline, "nobody builds");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    cluster.run(&["scancel", "-s", "KILL", "-u", &cluster.user]).ok();
    step.wait().unwrap();
    vm(cluster, &[], &["true"]).ok();
    assert_eq!(templates(cluster).len(), 1, "and no draft of the killed builder is left");
}

fn evicted(cluster: &Cluster) {
    cluster.forget_templates();
    cluster.with_config("template_cache_mib = 1\n", || {
        vm(cluster, &["-c1"], &["true"]).ok();
        let first = newest(cluster);
        vm(cluster, &["-c2"], &["true"]).ok();
        assert_eq!(templates(cluster).len(), 1, "the limit holds one, however large");
        assert!(!first.exists(), "the newest stays");
    });
}

fn boot(cluster: &Cluster) {
    cluster.forget_templates();
    cluster.with_config("start = 'boot'\n", || {
        let dir = cluster.work_dir();
        let ran = cluster.run_in(&dir, &["env", "SPANK_VM_TIMING=1", "srun", "--vm-image=tiny", "true"]);
        assert!(ran.code == 0 && phase(&ran.stderr, "kernel").is_some(), "{ran:?}");
        assert_eq!(templates(cluster), Vec::<PathBuf>::new());
    });
    let dir = cluster.work_dir();
    cluster.run_in(&dir, &["srun", "--vm-image=tiny", "true"]).ok();
    let ran = cluster.run_in(&dir, &["env", "SPANK_VM_TIMING=1", "srun", "--vm-image=tiny", "true"]);
    assert!(ran.code == 0 && phase(&ran.stderr, "wake").is_some(), "{ran:?}");
}

fn tools(cluster: &Cluster) {
    cluster.forget_templates();
    vm(cluster, &[], &["true"]).ok();
    let listed = cluster.tool(&cluster.user, &["template", "list"]).ok();
    let line = listed.lines().find(|line| line.starts_with(&cluster.user)).unwrap_or_default();
    assert!(line.contains(" tiny ") && line.contains("254 MiB"), "{listed}");
    assert!(cluster.tool(&cluster.user, &["template", "verify"]).ok().starts_with("tiny: ok"));
    let ram = newest(cluster).join("ram");
    let mut bytes = fs::read(&ram).unwrap();
    bytes[100 << 20] ^= 1;
    fs::write(&ram, bytes).unwrap();
    let ran = cluster.tool(&cluster.user, &["template", "verify"]);
    assert!(ran.code == 1 && ran.stdout.contains("DAMAGED and removed: ram is not"), "{ran:?}");
    assert_eq!(templates(cluster).len(), 0);
    vm(cluster, &[], &["true"]).ok();
    assert_eq!(cluster.tool(&cluster.user, &["template", "remove", "tiny"]).ok(), "removed 1\n");
    let ran = cluster.tool(&cluster.user, &["template", "remove", "tiny"]);
    assert!(ran.code == 1 && ran.stderr.contains("template list"), "{ran:?}");
}

fn newest(cluster: &Cluster) -> PathBuf {
    let used = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    templates(cluster).into_iter().max_by_key(used).expect("a template")
}

fn no_room(cluster: &Cluster) {
    cluster.forget_templates();
    vm(cluster, &[], &["true"]).ok();
    fs::remove_dir_all(newest(cluster)).unwrap();
    // A disk that is too small for the guest's memory.
    let shelf = shelf(cluster);
    let disk = SmallDisk::mount(&cluster.work_dir(), &shelf, 24, uid(&cluster.user));
    for _ in 0..2 {
        assert_eq!(vm(cluster, &[], &["echo", "fine"]).ok(), "fine\n");
    }
    let left: Vec<String> =
        fs::read_dir(&shelf).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    drop(disk);
    assert!(left.len() == 1 && left[0].ends_with(".failed"), "{left:?}");
}

fn in_memory(cluster: &Cluster) {
    cluster.forget_templates();
    vm(cluster, &[], &["true"]).ok();
    cluster.forget_templates();
    let dir = cluster.dir.join("templates");
    fs::create_dir(&dir).unwrap();
    system(&["mount", "-t", "tmpfs", "-o", "mode=755,size=1g", "tmpfs", dir.to_str().unwrap()]);
    let _mounted = afterwards(|| drop(system(&["umount", dir.to_str().unwrap()])));
    assert_eq!(vm(cluster, &[], &["echo", "fine"]).ok(), "fine\n");
    assert_eq!(fs::read_dir(shelf(cluster)).unwrap().count(), 0, "no template, no draft, no lock");
    let said = cluster.tool("root", &["check", "--image", "tiny"]).stdout;
    let line = said.lines().find(|line| line.starts_with("templates ")).unwrap_or_default();
    assert!(line.contains("limited") && line.contains("in the node's memory"), "{said}");
}

fn closed_directory(cluster: &Cluster) {
    cluster.forget_templates();
    let dir = cluster.work_dir().join("project");
    fs::create_dir(&dir).unwrap();
    let images = cluster.dir.join("images");
    let (from, to) = (format!("{}/.", images.display()), dir.display().to_string());
    system(&["cp", "-a", &from, &to]);
    let disk: toml::Table = fs::read_to_string(dir.join("tiny.toml")).unwrap().parse().unwrap();
    let disk = fs::metadata(dir.join(disk["disk"].as_str().unwrap())).unwrap();
    assert_eq!(disk.mode() & 0o004, 0o004, "the disk itself is open");
    cluster.with_config(&format!("image_dirs = ['{to}']\n"), || {
        for (mode, readable) in [(0o700, 0), (0o755, 0o044)] {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(dir.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
            cluster.tool("root", &["template", "build", "tiny"]).ok();
            let site = cluster.dir.join("templates/site");
            let template = fs::read_dir(&site).unwrap().next().unwrap().unwrap().path();
            let ram = fs::metadata(template.join("ram")).unwrap();
            assert_eq!(ram.mode() & 0o077, readable, "in a directory of mode {mode:o}");
            cluster.forget_templates();
        }
    });
}

fn host_keys(cluster: &Cluster) {
    // An image in which somebody installed an SSH server; a fast stand-in replaces its key generator.
    let script = r#"
        set -e; cd "$1"; mkdir -p root/etc/ssh root/usr/bin images
        "$2" > root.tar
        echo 'the key of the image' > root/etc/ssh/ssh_host_ed25519_key
        printf '#!/bin/sh\ncat /proc/sys/kernel/random/uuid > /etc/ssh/ssh_host_ed25519_key\n' > root/usr/bin/ssh-keygen
        chmod 755 root/usr/bin/ssh-keygen
        # As systems of RHEL's kind keep it.
        chown 0:998 root/etc/ssh/ssh_host_ed25519_key; chmod 640 root/etc/ssh/ssh_host_ed25519_key
        tar -C root -rf root.tar ./etc/ssh ./usr/bin/ssh-keygen"#;
    let dir = cluster.work_dir();
    let recipe = repository().join("tests/images/tiny");
    system(&["bash", "-c", script, "bash", dir.to_str().unwrap(), recipe.to_str().unwrap()]);
    let (archive, images) = (dir.join("root.tar"), dir.join("images"));
    let (archive, images) = (archive.to_str().unwrap(), images.to_str().unwrap());
    cluster.tool("root", &["image", "import", archive, "--name", "keyed", "--dir", images]).ok();
    cluster.with_config(&format!("image_dirs = ['{images}']\n"), || {
        let command = "cd /etc/ssh; key=ssh_host_ed25519_key; i=0
            while [ ! -s $key ]; do sleep 0.1; done
            until [ \"$(stat -c %a:%g $key)\" = 640:998 ]; do i=$((i+1)); [ $i -lt 300 ] || exit 9; sleep 0.1; done
            cat $key";
        let words = ["run", "--image", "keyed", "--vms", "8", "--vm-mem", "128", "--", "sh", "-c", command];
        let stdout = cluster.tool("root", &words).ok();
        let keys: BTreeSet<&str> = stdout.lines().collect();
        assert!(keys.len() == 8 && !stdout.contains("the key of the image"), "{stdout}");
    });
}
