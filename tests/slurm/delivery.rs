//! Images on a central file system and their copies on the nodes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::cluster::uid;
use testkit::place::repository;
use testkit::wait::{wait_for, wait_for_file};
use testkit::{Cluster, Ran, ran, system};

use crate::Case;
use crate::central::Central;
use crate::small_disk::SmallDisk;

pub const CASES: &[Case] = &[
    ("sixteen_vms_at_once_on_four_nodes_read_the_central_image_once_per_node", once_per_node),
    ("a_warm_start_reads_nothing_of_the_central_image_and_takes_no_lock", warm),
    ("a_copier_that_was_killed_half_way_leaves_nothing_that_hinders", killed_copier),
    ("users_have_copies_of_their_own_and_share_the_one_that_root_fetched", two_users),
    ("a_wrong_digest_fails_the_step_with_both_digests_and_is_read_once", wrong_digest),
    ("a_running_vm_keeps_its_disk_when_copy_and_central_image_are_replaced_or_gone", replaced),
    ("without_copies_a_running_vm_keeps_its_disk_too", replaced_in_place),
    ("an_image_that_is_replaced_gets_a_template_of_its_own", new_template),
    ("where_no_copy_fits_the_image_is_read_in_place", no_room),
    ("the_copies_of_all_users_leave_a_part_of_the_disk_free", one_budget),
];

/// A central file system with images, and a configuration that copies them to each node.
struct Site<'a> {
    cluster: &'a Cluster,
    place: PathBuf,
    central: Central,
}

impl<'a> Site<'a> {
    fn new(cluster: &'a Cluster, more: &str) -> Self {
        let place = cluster.work_dir();
        // Other users must be able to pass through it.
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
        let central = Central::mount(&place);
        let site = Self { cluster, place, central };
        site.configure(more);
        site
    }

    fn configure(&self, more: &str) {
        let (dir, caches) = (self.central.dir.display(), self.place.join("cache-%n").display().to_string());
        let config = format!("image_dirs = ['{dir}']\nimage_cache_dir = '{caches}'\n{more}");
        self.cluster.configure(&config, &format!("image_cache_dir={caches}"));
    }

    /// Adds an image: the tiny one with `megabytes` of noise in `/noise`, entered as `name`.
    fn add(&self, name: &str, megabytes: u32) {
        add(self.cluster, &self.place, &self.central.behind, name, megabytes);
    }

    fn entry(&self, name: &str) -> toml::Table {
        fs::read_to_string(self.central.behind.join(format!("{name}.toml"))).unwrap().parse().unwrap()
    }

    fn disk(&self, name: &str) -> String {
        self.entry(name)["disk"].as_str().unwrap().to_owned()
    }

    fn bytes(&self, name: &str) -> u64 {
        fs::metadata(self.central.behind.join(self.disk(name))).unwrap().len()
    }

    fn digest(&self, name: &str) -> String {
        self.entry(name)["sha256"].as_str().unwrap().to_owned()
    }

    /// How much each process has read of a disk since the last call. Slurm's clients do not count: they read the
    /// start of the disk when they check a submission.
    fn reads(&self, disk: &str) -> Vec<u64> {
        const HEAD: u64 = 68 << 10;
        self.central.reads(disk).into_values().filter(|bytes| *bytes != HEAD).collect()
    }

    fn nodes(&self) -> Vec<String> {
        self.cluster.nodes()
    }

    /// A user's copies on a node.
    fn shelf(&self, node: &str, user: &str) -> PathBuf {
        self.place.join(format!("cache-{node}/users")).join(uid(user).to_string())
    }

    fn srun(&self, node: &str, arguments: &[&str]) -> Ran {
        self.cluster.srun(&[&["-w", node, "--mem=600"], arguments].concat())
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        self.cluster.configure("", "");
        let _ = fs::remove_dir_all(self.cluster.dir.join("templates"));
    }
}

fn add(cluster: &Cluster, place: &Path, dir: &Path, name: &str, megabytes: u32) {
    let script = format!(
        "set -e; cd '{place}'; mkdir -p files; {recipe} > {name}.tar; dd if=/dev/urandom of=files/noise bs=1M \
         count={megabytes} status=none; chmod 644 files/noise; tar -C files -rf {name}.tar ./noise",
        place = place.display(),
        recipe = repository().join("tests/images/tiny").display(),
    );
    let made = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let archive = place.join(format!("{name}.tar")).display().to_string();
    let dir = dir.display().to_string();
    cluster.tool("root", &["image", "import", &archive, "--name", name, "--dir", &dir, "--replace"]).ok();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn once_per_node(cluster: &Cluster) {
    let site = Site::new(cluster, "");
    site.add("noisy", 3);
    // Long enough that all sixteen want it while the first of each node reads it.
    site.central.slow_down(Duration::from_millis(30));
    let disk = site.disk("noisy");
    let step = ["srun", "-N4", "-n16", "--overcommit", "--mem=2600", "--vm-image=noisy", "--vm-mem=256"];
    let ran = cluster.run(&[&step[..], &["sh", "-c", "echo $SLURM_PROCID $(wc -c < /noise)"]].concat());
    let mut lines: Vec<String> = ran.ok().lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| line.split(' ').next().unwrap().parse::<u32>().unwrap());
    let expected: Vec<String> = (0..16).map(|task| format!("{task} {}", 3 << 20)).collect();
    assert_eq!(lines, expected);
    let reads = site.reads(&disk);
    assert_eq!(reads, [site.bytes("noisy"); 4], "one process of each node reads every byte once, nobody else any");
    for node in site.nodes() {
        let shelf = site.shelf(&node, &cluster.user);
        assert_eq!(names(&shelf), [site.digest("noisy")], "{node}");
        let meta = |path: &Path| fs::metadata(path).map(|meta| (meta.uid(), meta.mode() & 0o7777)).unwrap();
        assert_eq!(meta(&shelf), (uid(&cluster.user), 0o700));
        assert_eq!(meta(&shelf.join(site.digest("noisy"))), (uid(&cluster.user), 0o600));
        assert_eq!(meta(shelf.parent().unwrap()), (0, 0o755));
    }
}

fn warm(cluster: &Cluster) {
    let site = Site::new(cluster, "");
    site.add("noisy", 1);
    let node = &site.nodes()[0];
    site.srun(node, &["--vm-image=noisy", "true"]).ok();
    let (disk, digest) = (site.disk("noisy"), site.digest("noisy"));
    site.reads(&disk);
    let lock = site.shelf(node, &cluster.user).join(format!("{digest}.lock"));
    let mut holder = Command::new("flock");
    holder.arg(&lock).args(["sh", "-c", "echo; read line"]);
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let ran = site.srun(node, &["--vm-image=noisy", "echo", "fine"]);
    holder.stdin.take().unwrap().write_all(b"\n").unwrap();
    holder.wait().unwrap();
    fs::remove_file(lock).unwrap();
    assert_eq!(ran.ok(), "fine\n");
    assert_eq!(site.reads(&disk), [0; 0]);
    let shown = cluster.tool(&cluster.user, &["image", "show", "noisy"]).ok();
    assert!(shown.contains("on_this_node = \"not yet copied\""), "this is none of the nodes: {shown}");
}

fn killed_copier(cluster: &Cluster) {
    let site = Site::new(cluster, "");
    site.add("noisy", 2);
    let node = &site.nodes()[0];
    let (disk, digest) = (site.disk("noisy"), site.digest("noisy"));
    site.central.slow_down(Duration::from_secs(1));
    let words = ["srun", "-Q", "-w", node, "--vm-image=noisy", "true"];
    let step = cluster.command_in(&cluster.work_dir(), &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut step = step.unwrap();
    let shelf = site.shelf(node, &cluster.user);
    // A draft has the process id of its maker in its name.
    let draft = || names(&shelf).iter().find_map(|name| Some(name.strip_prefix(&format!(".{digest}."))?.to_owned()));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while draft().is_none() {
        assert!(std::time::Instant::now() < deadline, "nobody copies: {:?}", names(&shelf));
        std::thread::sleep(Duration::from_millis(20));
    }
    // Each read takes its second: it is half-way. The step's end sweeps the node, and may be there before srun is.
    system(&["kill", "-KILL", &draft().unwrap()]);
    assert!(!step.wait().unwrap().success());
    site.central.slow_down(Duration::ZERO);
    site.reads(&disk);
    let ran = site.srun(node, &["--vm-image=noisy", "echo", "fine"]);
    assert!(ran.code == 0 && ran.stdout == "fine\n", "{ran:?}");
    assert_eq!(site.reads(&disk), [site.bytes("noisy")]);
    assert_eq!(names(&shelf), [digest], "its draft and its lock are gone");
}

fn two_users(cluster: &Cluster) {
    let site = Site::new(cluster, "share_home = false\n");
    site.add("noisy", 1);
    let node = &site.nodes()[0];
    let (disk, digest) = (site.disk("noisy"), site.digest("noisy"));
    let run_as = |user: &str| {
        let mut srun = cluster.command_as(user, Path::new("/"), &["srun", "-w", node, "--vm-image=noisy", "id", "-u"]);
        assert_eq!(ran(srun.output().unwrap()).ok(), format!("{}\n", uid(user)));
    };
    let users = [cluster.user.as_str(), "nobody"];
    users.iter().for_each(|user| run_as(user));
    assert_eq!(site.reads(&disk), [site.bytes("noisy"); 2]);
    for user in users {
        let copy = site.shelf(node, user).join(&digest);
        assert_eq!(fs::metadata(&copy).unwrap().uid(), uid(user));
        // As if evicted.
        fs::remove_file(copy).unwrap();
    }
    let (program, config) = (cluster.dir.join("stage/libexec/spank-vm"), cluster.dir.join("spank-vm.toml"));
    let name = format!("SLURMD_NODENAME={node}");
    let fetch =
        ["env", &name, program.to_str().unwrap(), "--config", config.to_str().unwrap(), "image", "fetch", "--all"];
    let said = ran(cluster.command_as("root", Path::new("/"), &fetch).output().unwrap()).ok();
    let shelf = site.place.join(format!("cache-{node}/site"));
    assert_eq!(said, format!("noisy: the copy in {}\n", shelf.display()));
    let meta = fs::metadata(shelf.join(&digest)).unwrap();
    let original = fs::metadata(site.central.behind.join(&disk)).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, original.gid(), 0o600 | original.mode() & 0o044));
    assert_eq!(fs::metadata(&shelf).unwrap().mode() & 0o7777, 0o711, "who does not know the digest finds nothing");
    site.reads(&disk);
    users.iter().for_each(|user| run_as(user));
    assert_eq!(site.reads(&disk), [0; 0], "both read root's copy");
    assert_eq!(names(&site.shelf(node, "nobody")), [""; 0]);
}

fn wrong_digest(cluster: &Cluster) {
    let site = Site::new(cluster, "");
    site.add("noisy", 1);
    let (disk, right, bytes) = (site.disk("noisy"), site.digest("noisy"), site.bytes("noisy"));
    let wrong = "0123456789abcdef".repeat(4);
    let entry = site.central.behind.join("noisy.toml");
    fs::write(&entry, fs::read_to_string(&entry).unwrap().replace(&right, &wrong)).unwrap();
    site.reads(&disk);
    let node = &site.nodes()[0];
    let ran = site.srun(node, &["-n4", "--overcommit", "--mem=2000", "--vm-image=noisy", "echo", "ran"]);
    assert!(ran.code != 0 && ran.stdout.is_empty(), "{ran:?}");
    assert!(ran.stderr.contains(&right) && ran.stderr.contains(&wrong) && ran.stderr.contains("'noisy'"), "{ran:?}");
    assert_eq!(site.reads(&disk), [bytes], "four tasks read it once");
    let verified = cluster.tool("root", &["image", "verify", "noisy"]);
    assert!(verified.code == 1 && verified.stderr.contains(&right) && verified.stderr.contains(&wrong), "{verified:?}");
}

/// Starts a VM that has read only a part of its disk, changes things, and lets it read the rest.
fn while_a_vm_runs(cluster: &Cluster, image: &str, node: &str, noise: &Path, change: impl FnOnce()) {
    let sum = Command::new("sha256sum").arg(noise).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    let dir = cluster.work_dir();
    let script = "dd if=/noise of=/dev/null bs=64k count=1 2>/dev/null; echo > running; \
                  while [ ! -e changed ]; do sleep 0.1; done; sha256sum /noise";
    let words = ["srun", "-w", node, "--mem=600", &format!("--vm-image={image}"), "sh", "-c", script];
    let mut step = cluster.command_in(&dir, &words);
    let step = step.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("running"));
    // However the change ends, the step must not outlive the test.
    let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(change));
    fs::write(dir.join("changed"), "").unwrap();
    let ended = ran(step.wait_with_output().unwrap());
    changed.unwrap_or_else(|why| std::panic::resume_unwind(why));
    let stdout = ended.ok();
    assert_eq!(stdout.split(' ').next(), sum.split(' ').next(), "the disk is the one the VM started with");
}

fn replaced(cluster: &Cluster) {
    let site = Site::new(cluster, "");
    site.add("noisy", 12);
    let noise = site.place.join("old-noise");
    fs::copy(site.place.join("files/noise"), &noise).unwrap();
    let (node, old) = (&site.nodes()[0], site.digest("noisy"));
    let shelf = site.shelf(node, &cluster.user);
    while_a_vm_runs(cluster, "noisy", node, &noise, || {
        // A new image of that name also removes the disk of the old one.
        let disk = site.disk("noisy");
        site.add("noisy", 11);
        assert!(!site.central.behind.join(disk).exists());
        // Room for one.
        site.configure("image_cache_mib = 16\n");
        site.srun(node, &["--vm-image=noisy", "true"]).ok();
        assert_eq!(names(&shelf), [site.digest("noisy")], "the copy that the VM reads made room");
    });
    assert_ne!(site.digest("noisy"), old);
}

fn replaced_in_place(cluster: &Cluster) {
    let place = cluster.work_dir();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    let images = place.join("plain");
    fs::create_dir(&images).unwrap();
    cluster.with_config(&format!("image_dirs = ['{}']\n", images.display()), || {
        add(cluster, &place, &images, "noisy", 12);
        let node = cluster.nodes().remove(0);
        while_a_vm_runs(cluster, "noisy", &node, &place.join("files/noise"), || {
            let refused = cluster.tool(&cluster.user, &["image", "remove", "noisy"]);
            assert!(refused.code == 1 && refused.stderr.contains("is not yours to remove"), "{refused:?}");
            cluster.tool("root", &["image", "remove", "noisy"]).ok();
            assert_eq!(names(&images), [""; 0]);
        });
        cluster.srun(&["--vm-image=noisy", "true"]).fails_with_one_line(&["no image 'noisy'"]);
    });
}

/// A clone must not have the memory of one disk and run from another disk.
fn new_template(cluster: &Cluster) {
    let place = cluster.work_dir();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    let images = place.join("plain");
    fs::create_dir(&images).unwrap();
    let config = format!("image_dirs = ['{}']\n", images.display());
    cluster.with_config(&config, || {
        let sum =
            || String::from_utf8(Command::new("sha256sum").arg(place.join("files/noise")).output().unwrap().stdout);
        for megabytes in [1, 2] {
            add(cluster, &place, &images, "noisy", megabytes);
            // In the place of the old disk, under the same name.
            let entry: toml::Table = fs::read_to_string(images.join("noisy.toml")).unwrap().parse().unwrap();
            fs::rename(images.join(entry["disk"].as_str().unwrap()), images.join("same.squashfs")).unwrap();
            fs::write(images.join("noisy.toml"), "disk = 'same.squashfs'\nformat = 'squashfs'\n").unwrap();
            let stdout = cluster.srun(&["--vm-image=noisy", "sha256sum", "/noise"]).ok();
            assert_eq!(stdout.split(' ').next(), sum().unwrap().split(' ').next());
        }
    });
}

fn no_room(cluster: &Cluster) {
    let site = Site::new(cluster, "image_cache_mib = 1\n");
    site.add("noisy", 2);
    let node = &site.nodes()[0];
    for _ in 0..2 {
        assert_eq!(site.srun(node, &["--vm-image=noisy", "echo", "fine"]).ok(), "fine\n");
    }
    let shelf = site.shelf(node, &cluster.user);
    assert_eq!(names(&shelf), [format!("{}.failed", site.digest("noisy"))]);
    // The node's disk is too small.
    site.configure("");
    let disk = SmallDisk::mount(&site.place, &shelf, 2, uid(&cluster.user));
    let ran = site.srun(node, &["--vm-image=noisy", "echo", "fine"]);
    let left = names(&shelf);
    drop(disk);
    assert_eq!((ran.ok().as_str(), left.len()), ("fine\n", 1), "{left:?}");
}

fn one_budget(cluster: &Cluster) {
    let site = Site::new(cluster, "share_home = false\n");
    for name in ["first", "second"] {
        site.add(name, 4);
    }
    let node = &site.nodes()[0];
    let cache = site.place.join(format!("cache-{node}"));
    fs::create_dir(&cache).unwrap();
    // Room for two copies, and a reserve.
    let bytes = site.bytes("first") + site.bytes("second");
    let disk = SmallDisk::mount(&site.place, &cache, (bytes >> 20) as u32 + 3, 0);
    let free = || {
        let at = nix::sys::statvfs::statvfs(&cache).unwrap();
        (at.blocks_available() * at.fragment_size(), at.blocks() * at.fragment_size() / 20)
    };
    let run_as = |user: &str, image: &str| {
        let image = format!("--vm-image={image}");
        let mut srun = cluster.command_as(user, Path::new("/"), &["srun", "-w", node, &image, "echo", "fine"]);
        assert_eq!(ran(srun.output().unwrap()).ok(), "fine\n");
    };
    let kept = |user: &str, image: &str| site.shelf(node, user).join(site.digest(image)).exists();
    let users = [cluster.user.as_str(), "nobody"];
    run_as(users[0], "first");
    run_as(users[1], "first");
    run_as(users[1], "second");
    let (left, reserve) = free();
    assert!(left >= reserve, "{left} bytes are free and not {reserve}");
    assert!(kept(users[0], "first"), "a user takes nothing away from another");
    // Something else fills the disk. The epilog of any user notices it and removes what was used longest ago.
    let log = fs::File::create(cache.join("log")).unwrap();
    nix::fcntl::fallocate(&log, nix::fcntl::FallocateFlags::empty(), 0, (free().0 - (64 << 10)) as i64).unwrap();
    assert!(free().0 < free().1, "{:?}", free());
    cluster.srun(&["-w", node, "true"]).ok();
    // The epilog still works after srun has ended.
    wait_for("room that the epilog makes", || (free().0 >= free().1).then_some(()));
    assert!(!kept(users[0], "first"), "the other's was used since");
    drop(log);
    drop(disk);
}
