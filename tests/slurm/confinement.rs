//! What a VM's processes may do on the node, and what other users may do to them.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::process::{field_in, words};
use testkit::undo::afterwards;
use testkit::wait::wait_for_file;
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("qemu_has_no_right_descriptor_or_variable_that_it_does_not_need", confined),
    ("a_program_in_qemu_s_place_opens_no_file_of_the_user_and_the_vm_runs", walled),
    ("jobs_of_root_are_refused_unless_the_site_allows_them", no_root),
    ("a_job_of_root_acts_on_its_shares_without_the_capabilities_of_root", tame_root),
];

/// The user id of `nobody`: another user of the node.
const STRANGER: &str = "65534";

/// Runs `look` on the QEMU of a step that waits meanwhile.
fn with_qemu(cluster: &Cluster, look: impl FnOnce(&Path)) {
    let dir = cluster.work_dir();
    let script = "echo > running; while [ ! -e seen ]; do sleep 0.1; done";
    let mut step = cluster.command_in(&dir, &["srun", "--vm-image=tiny", "sh", "-c", script]);
    let step = step.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("running"));
    let found = cluster.qemus();
    // However the look ends, the step must not outlive the test.
    let end = afterwards(|| {
        fs::write(dir.join("seen"), "").unwrap();
        ran(step.wait_with_output().unwrap()).ok();
    });
    assert_eq!(found.len(), 1, "{found:?}");
    look(Path::new(&format!("/proc/{}", found[0])));
    drop(end);
}

fn confined(cluster: &Cluster) {
    with_qemu(cluster, |qemu| {
        let user = fs::metadata(cluster.work_dir()).unwrap().uid();
        let threads: Vec<PathBuf> = fs::read_dir(qemu.join("task")).unwrap().map(|task| task.unwrap().path()).collect();
        for thread in threads.iter().chain([&qemu.to_owned()]) {
            let is = |name: &str, value: &str| assert_eq!(field_in(thread, name).unwrap(), value, "{name}");
            is("Uid:", &format!("{user} {user} {user} {user}"));
            is("NoNewPrivs:", "1");
            // 2: a filter is active.
            is("Seccomp:", "2");
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
                is(set, "0000000000000000");
            }
        }
        assert_eq!(fs::read(qemu.join("environ")).unwrap(), b"PATH=/usr/bin:/bin\0");
        assert_eq!(fs::read_link(qemu.join("cwd")).unwrap(), Path::new("/"));
        let limits = fs::read_to_string(qemu.join("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
        let session = fs::read_to_string(qemu.join("stat")).unwrap();
        let session = session.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
        assert_eq!(session, qemu.file_name().unwrap(), "a session of its own");
        descriptors(cluster, qemu);
        strangers(cluster, qemu, user);
    });
}

/// A script in QEMU's place tries what a guest would that has broken out, and tells it by QEMU's command line.
fn walled(cluster: &Cluster) {
    let home = cluster.work_dir();
    fs::write(home.join("secret"), "secret\n").unwrap();
    let site = cluster.dir.join("qemu-of-site");
    fs::create_dir(&site).unwrap();
    let (home, program) = (home.display(), site.join("qemu"));
    let script = format!(
        "#!/bin/sh\ncan=can
        cat {home}/secret >/dev/null 2>&1 && can=$can-read
        ls {home} >/dev/null 2>&1 && can=$can-list
        (: >{home}/new) 2>/dev/null && can=$can-write
        mv {home}/new {home}/old 2>/dev/null && can=$can-move
        rm {home}/old 2>/dev/null && can=$can-remove
        kill -0 $PPID 2>/dev/null && can=$can-signal
        exec /usr/bin/qemu-system-x86_64 \"$@\" -name $can\n"
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let can = |how: &str| {
        let mut can = String::new();
        cluster.with_config(&format!("confine_qemu = '{how}'\nqemu = '{}'\n", program.display()), || {
            with_qemu(cluster, |qemu| {
                let qemu = qemu.file_name().unwrap().to_str().unwrap().parse().unwrap();
                can = words(qemu).last().unwrap().clone();
            });
        });
        can
    };
    assert_eq!(can("off"), "can-read-list-write-move-remove-signal");
    let has_landlock = cluster.tool("root", &["check", "--node", "--json"]).stdout.contains("(Landlock ABI ");
    if has_landlock {
        // Kernels before 6.12 do not forbid signals.
        assert!(["can", "can-signal"].contains(&can("require").as_str()));
    } else {
        cluster.with_config("confine_qemu = 'require'\n", || {
            let refused = cluster.run(&["srun", "--vm-image=tiny", "true"]);
            refused.fails_with_one_line(&["QEMU cannot be confined", "Landlock"]);
        });
    }
    fs::remove_dir_all(site).unwrap();
}

/// Every open descriptor is of an expected kind.
fn descriptors(cluster: &Cluster, qemu: &Path) {
    let below = |dir: &str| cluster.dir.join(dir).display().to_string();
    let places = ["images", "kit", "templates", "scratch"].map(below);
    let (mut sockets, mut scratch) = (0, 0);
    for descriptor in fs::read_dir(qemu.join("fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(descriptor.path()) else { continue };
        let target = target.to_str().unwrap().to_owned();
        sockets += usize::from(target.starts_with("socket:"));
        scratch += usize::from(target.starts_with(&places[3]));
        let meant = target == "/dev/null"
            || ["socket:", "pipe:", "anon_inode:", "/dev/kvm", "/memfd:"].iter().any(|kind| target.starts_with(kind))
            || places.iter().any(|place| target.starts_with(place));
        assert!(meant, "QEMU has {target} open");
    }
    // Channel, console, monitor, the port of files; and one private disk that has no name. Nothing of the user's.
    assert_eq!(sockets, 4);
    assert!(scratch >= 1);
}

/// Attacks by another user of the node, and by the job's own user on what belongs to root.
fn strangers(cluster: &Cluster, qemu: &Path, user: u32) {
    let may = |uid: &str, words: &[&str]| {
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
        let mut command = Command::new("setpriv");
        command.args(ids).arg("--").args(words).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
        command.status().unwrap().success()
    };
    assert!(may(STRANGER, &["ls", "/proc"]), "another user can do something");
    let qemu = |name: &str| qemu.join(name).display().to_string();
    for file in ["environ", "maps", "fd/0", "mem"] {
        assert!(!may(STRANGER, &["head", "-c1", &qemu(file)]), "{file}");
    }
    let templates = cluster.dir.join(format!("templates/users/{user}")).display().to_string();
    assert!(!may(STRANGER, &["ls", &templates]), "templates of another user");
    let user = user.to_string();
    let state = cluster.dir.join("state");
    let task = fs::read_dir(&state).unwrap().flatten().map(|entry| entry.path()).find(|path| path.is_dir()).unwrap();
    for dir in [&state, &task, &cluster.dir.join("templates"), &cluster.dir.join("templates/users")] {
        let file = dir.join("mine").display().to_string();
        for uid in [user.as_str(), STRANGER] {
            assert!(!may(uid, &["touch", &file]), "user {uid} can fill {}", dir.display());
        }
    }
    let status = task.join("status.toml").display().to_string();
    assert!(!may(&user, &["sh", "-c", &format!("echo >> {status}")]) && !may(&user, &["rm", "-f", &status]));
}

fn no_root(cluster: &Cluster) {
    cluster.with_config("allow_root = false\n", || {
        let srun = cluster.command_as("root", Path::new("/"), &["srun", "--vm-image=tiny", "true"]).output();
        ran(srun.unwrap()).fails_with_one_line(&["jobs of root", "allow_root = true"]);
    });
}

fn tame_root(cluster: &Cluster) {
    let dir = cluster.dir.join("of-root");
    DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let foreign = dir.join("foreign");
    fs::write(&foreign, "LEAK\n").unwrap();
    std::os::unix::fs::chown(&foreign, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&foreign, PermissionsExt::from_mode(0o600)).unwrap();
    let script = "cat foreign 2>/dev/null; mknod zero c 1 5 2>/dev/null; [ -c zero ] && echo 'made a device'; \
                  echo mine >mine; chown 65534 mine 2>/dev/null; id -u";
    let words = ["srun", "--vm-image=tiny", "sh", "-c", script];
    let stdout = ran(cluster.command_as("root", &dir, &words).output().unwrap()).ok();
    assert_eq!(stdout, "0\n");
    assert_eq!(fs::metadata(dir.join("mine")).unwrap().uid(), 0);
    fs::remove_dir_all(dir).unwrap();
}
