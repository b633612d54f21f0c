//! A guest that attacks its host: on the channel, on the shares, through QEMU.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use testkit::place::repository;
use testkit::process;
use testkit::wait::wait_for_file;
use testkit::{Cluster, Ran, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_guest_that_lies_on_the_channel_ends_its_own_step_and_costs_the_host_no_memory", lies),
    ("a_guest_that_falls_silent_ends_when_its_step_is_cancelled", silent),
    ("root_in_a_guest_reaches_nothing_of_the_host_that_the_user_could_not", reach),
    ("a_directory_swapped_for_a_link_while_the_guest_opens_it_is_never_left", swapped),
];

/// Limit for the memory of a runner, whatever its guest does, in KiB. With an honest guest it uses a third.
const RUNNER_KIB: u64 = 64 * 1024;

struct Lie {
    how: &'static str,
    code: i32,
    /// Text of the one line for the user; empty for no line.
    says: &'static str,
}

const LIES: [Lie; 7] = [
    Lie { how: "garbage", code: 125, says: "does not speak the protocol" },
    Lie { how: "endless", code: 125, says: "announces 4294967295 bytes" },
    Lie { how: "flood", code: 125, says: "sent more than its window" },
    Lie { how: "credit", code: 125, says: "more credit than was spent" },
    Lie { how: "exit", code: 3, says: "" },
    Lie { how: "warnings", code: 5, says: "the agent says too much" },
    Lie { how: "crash", code: 125, says: "Attempted to kill init" },
];

/// All at once: four nodes run two steps each.
fn lies(cluster: &Cluster) {
    let dir = cluster.work_dir();
    compile(&dir);
    let mut steps: Vec<(&Lie, Child)> = LIES.iter().map(|lie| (lie, start(cluster, &dir, lie.how))).collect();
    let mut most_kib = 0;
    while steps.iter_mut().any(|(_, step)| step.try_wait().unwrap().is_none()) {
        most_kib = most_kib.max(peak_of_runners(cluster));
        std::thread::sleep(Duration::from_millis(20));
    }
    for (lie, step) in steps {
        let said = |stream| fs::read_to_string(dir.join(format!("{}.{stream}", lie.how))).unwrap();
        let ended = Ran { stdout: said("out"), stderr: said("err"), ..ran(step.wait_with_output().unwrap()) };
        let lines = ended.stderr.lines().filter(|line| line.starts_with("vm: ")).count();
        assert_eq!(ended.code, lie.code, "{}: {ended:?}", lie.how);
        assert!(ended.stderr.contains(lie.says), "{}: {ended:?}", lie.how);
        match lie.how {
            "warnings" => assert!(lines <= 200, "{lines} lines"),
            "exit" => assert_eq!((lines, ended.stdout.as_str()), (0, "early\n"), "{ended:?}"),
            _ => assert_eq!(lines, 1, "{}: {ended:?}", lie.how),
        }
    }
    assert!(most_kib > 0 && most_kib < RUNNER_KIB, "a runner had {most_kib} KiB in use");
}

fn silent(cluster: &Cluster) {
    let dir = cluster.work_dir();
    compile(&dir);
    let step = start(cluster, &dir, "silent");
    wait_for_file(&dir.join("silent"));
    cluster.run(&["scancel", "--user", &cluster.user]).ok();
    assert_ne!(ran(step.wait_with_output().unwrap()).code, 0);
}

/// The output goes to files: a pipe that nobody reads would block the step.
fn start(cluster: &Cluster, dir: &Path, how: &str) -> Child {
    let mut srun =
        cluster.command_in(dir, &["srun", "--mem=400", "--vm-image=tiny", "--vm-root", "./lying_guest", how]);
    let file = |stream| File::create(dir.join(format!("{how}.{stream}"))).unwrap();
    srun.stdout(file("out")).stderr(file("err")).spawn().unwrap()
}

fn compile(dir: &Path) {
    let source = repository().join("tests/slurm/hostile/lying_guest.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(dir.join("lying_guest")).arg(source);
    assert!(gcc.status().unwrap().success());
}

/// The highest peak memory of all runners of this cluster that run now, in KiB.
fn peak_of_runners(cluster: &Cluster) -> u64 {
    let program = format!("{}/stage/libexec/spank-vm-step", cluster.dir.display());
    let runners = process::all().filter(|pid| process::words(*pid).first() == Some(&program));
    runners.filter_map(|pid| process::field(pid, "VmHWM:")?.split(' ').next()?.parse().ok()).max().unwrap_or(0)
}

/// Shares are served as the user, whoever asks in the guest, and nothing outside of them is.
fn reach(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let write = |path: &Path, text: &str, mode: u32| {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // root's, in a directory of the user.
    write(&dir.join("foreign"), "LEAK\n", 0o600);
    let outside = cluster.dir.join("outside");
    fs::create_dir(&outside).unwrap();
    write(&outside.join("file"), "LEAK\n", 0o644);
    symlink(outside.join("file"), dir.join("absolute")).unwrap();
    symlink("../outside/file", dir.join("relative")).unwrap();
    symlink(&outside, dir.join("away")).unwrap();
    symlink("/etc/shadow", dir.join("shadow")).unwrap();
    let slurm = cluster.dir.join("slurm");
    assert!(slurm.join("etc/munge.key").exists() && slurm.join("run/munge.socket").exists());
    let script = "
        for file in foreign absolute relative away/file away/../outside/file ../outside/file; do
            cat \"$file\" 2>/dev/null && echo \"read $file\"
        done
        cat /mnt/slurm/etc/munge.key >/dev/null 2>&1 && echo 'read the key of munge'
        cat /mnt/etc/shadow /mnt/etc/gshadow 2>/dev/null | grep -q . && echo 'read shadow'
        for file in $(find /mnt/slurm/state /mnt/slurm/spool /mnt/slurm/*/spool -type f 2>/dev/null); do
            cat \"$file\" >/dev/null 2>&1 && echo \"read $file\"
        done
        echo x | nc local:/mnt/slurm/run/munge.socket 2>/dev/null && echo 'spoke to munge'
        mknod zero c 1 5 2>/dev/null; [ -c zero ] && echo 'made a device'
        echo mine >mine; chown 0:0 mine 2>/dev/null; chmod 4755 mine
        echo x >/mnt/etc/spank-vm-test 2>/dev/null && echo 'wrote to /etc'
        ln foreign hard 2>/dev/null; cat hard 2>/dev/null && echo 'read through a hard link'
        echo done";
    let mounts = format!("--vm-mount={}:/mnt/slurm,/etc:/mnt/etc", slurm.display());
    let ended = cluster.run_in(&dir, &["srun", "--vm-image=tiny", "--vm-root", &mounts, "sh", "-c", script]);
    // It could read those of Slurm's own files that everybody may read.
    let (of_slurm, rest): (Vec<&str>, Vec<&str>) =
        ended.stdout.lines().partition(|line| line.starts_with("read /mnt/slurm/"));
    for file in of_slurm.iter().filter_map(|line| line.strip_prefix("read /mnt/slurm/")) {
        // A record of another test may be gone.
        let mode = fs::metadata(slurm.join(file)).map_or(0o004, |meta| meta.mode());
        assert!(mode & 0o004 != 0, "{file} was read");
    }
    assert_eq!(rest, ["done"], "{ended:?}");
    assert!(!Path::new("/etc/spank-vm-test").exists());
    let (user, mine) = (fs::metadata(&dir).unwrap().uid(), fs::metadata(dir.join("mine")).unwrap());
    assert_eq!(mine.uid(), user, "what root in the guest writes is the user's");
    fs::remove_dir_all(outside).unwrap();
}

/// The file server opens what the guest names component by component and follows no link of the host.
fn swapped(cluster: &Cluster) {
    let dir = cluster.work_dir();
    for (name, text) in [("inner", "inside\n"), ("../target", "outside\n")] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("file"), text).unwrap();
    }
    symlink("../target", dir.join("link")).unwrap();
    let over = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (inner, link) = (dir.join("inner"), dir.join("link"));
            while !over.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &inner, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        // The guest believes a name for a second, so it takes some seconds until both have been met.
        let script = "i=0 n=0; while [ $n -lt 500 ] && [ $i -lt 30000 ]; do i=$((i+1)); \
                      read -r line <inner/file && n=$((n+1)) && echo \"$line\"; done 2>/dev/null; true";
        let ended = cluster.run_in(&dir, &["srun", "--vm-image=tiny", "sh", "-c", script]);
        over.store(true, Ordering::Relaxed);
        ended
    });
    let count = |word: &str| ended.stdout.lines().filter(|line| *line == word).count();
    assert!(count("inside") > 0 && count("outside") == 0, "{} inside, {} outside", count("inside"), count("outside"));
    fs::remove_dir_all(dir.join("../target")).unwrap();
}
