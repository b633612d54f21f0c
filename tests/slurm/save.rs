//! Images made of VMs: saved by users, built by scripts, optimised; and the links of an image to a share.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::wait::wait_for_file;
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_saved_vm_is_an_image_with_the_command_s_changes_and_nothing_of_the_job", saved_by_srun),
    ("a_batch_job_saves_its_vm_and_the_image_replaces_itself_if_asked", saved_by_sbatch),
    ("a_command_that_fails_leaves_no_image", not_saved),
    ("a_place_that_cannot_hold_an_image_is_refused_at_submission", bad_places),
    ("a_full_disk_fails_the_save_with_the_path_and_leaves_the_output", full_disk),
    ("a_full_scratch_directory_during_the_save_is_named_and_leaves_the_output", full_scratch),
    ("scancel_during_the_save_leaves_nothing", cancelled),
    ("an_image_is_built_by_a_script_or_not_at_all", built),
    ("a_program_loads_a_library_from_a_share_through_a_link_of_the_image", links),
];

/// It measures starts of an image before and after.
pub const LONG_CASES: &[Case] =
    &[("an_optimised_image_lacks_what_a_kit_boot_never_uses_and_keeps_its_libraries", optimised)];

/// Runs `work` with a catalogue directory of the user's before the site's.
fn with_catalogue(cluster: &Cluster, work: impl FnOnce(&Path)) {
    let parent = cluster.work_dir();
    let config = format!("image_dirs = ['{}/of-%u', '{}/images']\n", parent.display(), cluster.dir.display());
    let dir = parent.join(format!("of-{}", cluster.user));
    assert!(Command::new("install").args(["-d", "-o", &cluster.user]).arg(&dir).status().unwrap().success());
    cluster.with_config(&config, || work(&dir));
}

/// The image's disk file.
fn disk(dir: &Path, name: &str) -> PathBuf {
    let entry: toml::Table = fs::read_to_string(dir.join(format!("{name}.toml"))).unwrap().parse().unwrap();
    dir.join(entry["disk"].as_str().unwrap())
}

fn unsquashfs(arguments: &[&str], disk: &Path, rest: &[&str]) -> String {
    let output = Command::new("unsquashfs").args(arguments).arg(disk).args(rest).output().unwrap();
    assert!(output.status.success(), "{arguments:?} {rest:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn names(disk: &Path) -> Vec<String> {
    let listing = unsquashfs(&["-l"], disk, &[]);
    let mut names: Vec<String> =
        listing.lines().filter_map(|line| line.strip_prefix("squashfs-root/")).map(|name| format!("/{name}")).collect();
    names.sort();
    names
}

/// The paths that only one of the two images has.
fn differences(cluster: &Cluster, base: &str, disk_of_other: &Path) -> Vec<String> {
    let (base, other) = (names(&disk(&cluster.dir.join("images"), base)), names(disk_of_other));
    let only = |a: &[String], b: &[String]| a.iter().filter(|name| !b.contains(name)).cloned().collect::<Vec<_>>();
    [only(&other, &base), only(&base, &other)].concat()
}

fn left_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.collect()
}

fn saved_by_srun(cluster: &Cluster) {
    with_catalogue(cluster, |dir| {
        let script = "echo of $SLURM_PROCID > /opt/changed; echo junk > /tmp/junk; echo done";
        let options = ["-n2", "-N1", "--vm-image=tiny", "--vm-root", "--vm-save=mine", "sh", "-c", script];
        let saved = cluster.srun(&options);
        assert!(saved.stderr.contains("image 'mine' is saved"), "{}", saved.stderr);
        assert_eq!(saved.ok(), "done\ndone\n");
        let mine = disk(dir, "mine");
        assert_eq!(left_in(dir).len(), 2, "{:?}", left_in(dir));
        assert_eq!(differences(cluster, "tiny", &mine), ["/opt/changed"]);
        for file in ["etc/passwd", "etc/group", "etc/hosts", "etc/machine-id"] {
            let base = disk(&cluster.dir.join("images"), "tiny");
            assert_eq!(unsquashfs(&["-cat"], &mine, &[file]), unsquashfs(&["-cat"], &base, &[file]), "{file}");
        }
        let script = "cat /opt/changed; hostname; id -un";
        let stdout = cluster.srun(&["--vm-image=mine", "sh", "-c", script]).ok();
        let lines: Vec<&str> = stdout.lines().collect();
        assert_eq!((lines[0], lines[2]), ("of 0", cluster.user.as_str()));
        assert!(lines[1].starts_with("vm"), "{stdout}");
    });
}

fn saved_by_sbatch(cluster: &Cluster) {
    with_catalogue(cluster, |dir| {
        let work = cluster.work_dir();
        let place = dir.join("batch");
        let save = |image: &str, replace: &str, command: &str| {
            let options = format!("#SBATCH --vm-image={image} --vm-root --vm-save={}{replace}", place.display());
            fs::write(work.join("job.sh"), format!("#!/bin/sh\n{options}\n{command}\n")).unwrap();
            cluster.run_in(&work, &["sbatch", "--wait", "-o", "out", "job.sh"])
        };
        save("tiny", "", "echo 1 > /opt/one").ok();
        assert_eq!(differences(cluster, "tiny", &disk(dir, "batch")), ["/opt/one"]);
        save("batch", "", "echo 2 > /opt/two").fails_with_one_line(&["--vm-save", "'batch' exists"]);
        save("batch", ",replace", "echo 2 > /opt/two").ok();
        assert_eq!(differences(cluster, "tiny", &disk(dir, "batch")), ["/opt/one", "/opt/two"]);
        assert_eq!(left_in(dir).len(), 2, "the old disk is gone: {:?}", left_in(dir));
    });
}

fn not_saved(cluster: &Cluster) {
    with_catalogue(cluster, |dir| {
        let ran = cluster.srun(&["--vm-image=tiny", "--vm-save=mine", "sh", "-c", "echo out; exit 3"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (3, "out\n"));
        assert!(ran.stderr.contains("warning: image 'mine'") && ran.stderr.contains("failed"), "{}", ran.stderr);
        assert_eq!(left_in(dir), [""; 0]);
    });
}

fn bad_places(cluster: &Cluster) {
    let refused = |place: &str, words: &[&str]| {
        let option = format!("--vm-save={place}");
        cluster.srun(&["--vm-image=tiny", &option, "true"]).fails_with_one_line(&[&["--vm-save"], words].concat());
    };
    refused("./mine", &["absolute path"]);
    refused("mine,over", &["'replace'"]);
    refused("/nonexistent/mine", &["/nonexistent", "no directory"]);
    refused("/etc/mine", &["/etc", "cannot be written"]);
    refused("mine", &["no directory of yours"]);
    cluster.srun(&["--vm-save=mine", "true"]).fails_with_one_line(&["--vm-save", "--vm-image"]);
}

/// A small file system that is gone when the test is over, however it ends.
struct Small(PathBuf);

impl Small {
    fn mount(dir: PathBuf, kib: u32) -> Self {
        fs::create_dir(&dir).unwrap();
        let size = format!("size={kib}k,mode=1777");
        assert!(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&dir).status().unwrap().success());
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn full_disk(cluster: &Cluster) {
    let small = Small::mount(cluster.work_dir().join("small"), 256);
    let option = format!("--vm-save={}/mine", small.0.display());
    let ran = cluster.srun(&["--vm-image=tiny", &option, "echo", "out"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (125, "out\n"), "{}", ran.stderr);
    let path = small.0.to_str().unwrap();
    for word in ["the command succeeded", path, "No space left", "another place"] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
    assert_eq!(left_in(&small.0), [""; 0]);
}

/// The guest writes what its command has left a third of a second later, and then there is no room any more.
fn full_scratch(cluster: &Cluster) {
    let work = cluster.work_dir();
    let small = Small::mount(cluster.work_dir().join("small"), 64 << 10);
    let option = format!("--vm-save={}/mine", work.display());
    cluster.with_config(&format!("scratch_dir = '{}'\n", small.0.display()), || {
        let script = "head -c 20000000 /dev/urandom >/opt/big; echo >written; until [ -e full ]; do sleep 0.1; done; \
                      cd /proc/sys/vm; echo 30 >dirty_writeback_centisecs; echo 1 >dirty_expire_centisecs; echo out";
        let words = ["srun", "--mem=900", "--vm-image=tiny", "--vm-root", &option, "sh", "-c", script];
        let mut step = cluster.command_in(&work, &words);
        let step = step.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_file(&work.join("written"));
        let mut fill = fs::File::create(small.0.join("fill")).unwrap();
        while fill.write_all(&[1; 4096]).is_ok() {}
        fs::write(work.join("full"), "").unwrap();
        let ran = ran(step.wait_with_output().unwrap());
        // On a busy machine it may be too late already for the command to have succeeded.
        assert_eq!((ran.code, ran.stdout.as_str()), (125, "out\n"), "{ran:?}");
        assert!(ran.stderr.contains("no space is left") && ran.stderr.contains("scratch_dir"), "{ran:?}");
    });
    let names = left_in(&work);
    assert!(!names.iter().any(|name| name.contains("mine")), "{names:?}");
    cluster.nothing_is_left().unwrap();
}

fn cancelled(cluster: &Cluster) {
    with_catalogue(cluster, |dir| {
        let work = cluster.work_dir();
        // Larger than what a guest can send in a moment.
        fs::write(work.join("job.sh"), "#!/bin/sh\necho > ended\n").unwrap();
        let submit = ["sbatch", "--parsable", "--vm-image=debian12", "--vm-save=mine", "-o", "out", "job.sh"];
        let job = cluster.run_in(&work, &submit).ok();
        wait_for_file(&work.join("ended"));
        let job = job.trim();
        cluster.run(&["scancel", job]).ok();
        cluster.nothing_is_left().unwrap();
        assert_eq!(left_in(dir), [""; 0]);
        let state = cluster.run(&["scontrol", "show", "job", job]).ok();
        assert!(state.contains("JobState=CANCELLED"), "{state}");
    });
}

fn built(cluster: &Cluster) {
    with_catalogue(cluster, |dir| {
        let work = cluster.work_dir();
        fs::write(work.join("lib.txt"), "from the working directory").unwrap();
        fs::write(work.join("good.sh"), "#!/bin/sh\nid -u; cp lib.txt /opt/lib.txt\n").unwrap();
        fs::write(work.join("bad.sh"), "#!/bin/sh\necho half > /opt/half; exit 7\n").unwrap();
        fs::write(work.join("none.sh"), "true\n").unwrap();
        let build = |script: &str, more: &[&str]| {
            cluster.tool_in(
                &cluster.user,
                &work,
                &[&["image", "build", "made", "--from", "tiny", "--run", script], more].concat(),
            )
        };
        let bad = build("bad.sh", &[]);
        assert_eq!((bad.code, left_in(dir).len()), (7, 0), "{}", bad.stderr);
        let none = build("none.sh", &[]);
        assert!(none.code == 125 && none.stderr.contains("#!/bin/sh"), "{none:?}");
        assert_eq!(build("good.sh", &["--description", "with a library"]).ok(), "0\n");
        assert_eq!(differences(cluster, "tiny", &disk(dir, "made")), ["/opt/lib.txt"]);
        assert!(cluster.tool_in(&cluster.user, &work, &["image", "list"]).ok().contains("with a library"));
        let again = build("good.sh", &[]);
        assert!(again.code == 125 && again.stderr.contains("'made' exists"), "{again:?}");
        build("good.sh", &["--replace"]).ok();
    });
}

fn links(cluster: &Cluster) {
    with_catalogue(cluster, |dir| {
        let (sw, work) = (cluster.work_dir(), cluster.work_dir());
        fs::write(work.join("lib.c"), "const char *where(void) { return \"the share\"; }\n").unwrap();
        let main = "#include <stdio.h>\nconst char *where(void);\nint main(void) { return puts(where()) < 0; }\n";
        fs::write(work.join("main.c"), main).unwrap();
        let compile = format!(
            "gcc -shared -fPIC -Wl,-soname,libwhere.so.1 -o {0}/libwhere.so.1 lib.c && gcc -o main main.c {0}/libwhere.so.1",
            sw.display()
        );
        assert!(Command::new("sh").args(["-c", &compile]).current_dir(&work).status().unwrap().success());
        let base = fs::read_to_string(cluster.dir.join("images/debian12.toml")).unwrap();
        let images = cluster.dir.join("images").display().to_string();
        let entry = base.replace("disk = \"", &format!("disk = \"{images}/"));
        let link = "[links]\n'/usr/lib/x86_64-linux-gnu/libwhere.so.1' = '/sw/libwhere.so.1'\n\
                    '/opt/where/lib.so' = '/sw/libwhere.so.1'\n";
        fs::write(dir.join("linked.toml"), format!("{entry}\n{link}")).unwrap();
        let mount = format!("--vm-mount={}:/sw:ro", sw.display());
        let seen = cluster.run_in(&work, &["srun", "--vm-image=linked", &mount, "./main"]).ok();
        assert_eq!(seen, "the share\n");
        let dangling = cluster.run_in(&work, &["srun", "--vm-image=linked", "./main"]);
        dangling.fails_with_one_line(&[" leads to /sw/libwhere.so.1", "not there", "share"]);
        let inside = format!("--vm-mount={}:/opt/where", sw.display());
        let inside = cluster.run_in(&work, &["srun", "--vm-image=linked", &mount, &inside, "true"]);
        inside.fails_with_one_line(&["'linked'", "would lie in the share"]);
        assert_eq!(left_in(&sw), ["libwhere.so.1"]);
    });
}

fn optimised(cluster: &Cluster) {
    with_catalogue(cluster, |dir| {
        let work = cluster.work_dir();
        let script = "#!/bin/sh\nmkdir -p /boot /lib/modules/1 /usr/share/doc\nhead -c 300000 /dev/urandom > /boot/vmlinuz\n\
                      echo m > /lib/modules/1/x.ko; echo l > /lib/libx.so.1; echo d > /usr/share/doc/x\n";
        fs::write(work.join("fat.sh"), script).unwrap();
        cluster.tool_in(&cluster.user, &work, &["image", "build", "fat", "--from", "tiny", "--run", "fat.sh"]).ok();
        let before = names(&disk(dir, "fat"));
        let report = cluster.tool_in(&cluster.user, &work, &["image", "optimise", "fat", "--dry-run"]).ok();
        assert!(report.contains("kernels and boot loader") && report.contains("nothing was changed"), "{report}");
        assert_eq!(names(&disk(dir, "fat")), before);
        let report = cluster.tool_in(&cluster.user, &work, &["image", "optimise", "fat", "--runs", "1"]).ok();
        for word in ["kernel modules", "libraries unchanged: 1", "before", "after"] {
            assert!(report.contains(word), "{word}: {report}");
        }
        let gone: Vec<String> = before.into_iter().filter(|name| !names(&disk(dir, "fat")).contains(name)).collect();
        assert_eq!(gone, ["/boot/vmlinuz", "/lib/modules/1", "/lib/modules/1/x.ko"]);
        assert_eq!(left_in(dir).len(), 2, "{:?}", left_in(dir));
        let mut srun = cluster.command_in(&work, &["srun", "--vm-image=fat", "cat", "/lib/libx.so.1"]);
        assert_eq!(ran(srun.stderr(Stdio::piped()).output().unwrap()).ok(), "l\n");
    });
}
