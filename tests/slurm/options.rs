//! The options that shape a VM, and their bad values.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::Case;
use crate::cluster::Cluster;

pub const CASES: &[Case] = &[
    ("vm_mem_and_vm_cpus_set_the_size_of_the_guest", size),
    ("vm_mount_shows_a_host_directory_read_only_or_elsewhere", mounts),
    ("vm_root_is_root_in_the_guest_and_the_user_on_the_host", root),
    ("the_options_that_shape_a_vm_reach_a_batch_job", batch),
    ("bad_values_are_refused_at_submission_with_option_and_value", bad_values),
    ("what_the_task_does_not_have_is_refused_before_a_boot", too_much),
];

fn size(cluster: &Cluster) {
    let script = "nproc; awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";
    let options = ["--vm-image=tiny", "-c2", "--mem=2048", "--vm-mem=512M", "--vm-cpus=1", "sh", "-c", script];
    let stdout = cluster.srun(&options).ok();
    let numbers: Vec<u64> = stdout.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers[0], 1);
    assert!((400..=512).contains(&numbers[1]), "{numbers:?}");
}

fn mounts(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("file"), "shared\n").unwrap();
    let mount = format!("--vm-mount={0}:/mnt/there,/usr:/host/usr:ro", dir.display());
    let script = "cat /mnt/there/file; echo new > /mnt/there/new; test -e /host/usr/bin/env && echo seen; \
                  touch /host/usr/x 2>&1 | grep -o 'Read-only file system'";
    let stdout = cluster.srun(&["--vm-image=tiny", &mount, "sh", "-c", script]).ok();
    assert_eq!(stdout, "shared\nseen\nRead-only file system\n");
    assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "new\n");
}

fn root(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "id -u; echo $HOME; echo inside > /etc/only-root; cat /etc/only-root; echo hello > written; \
                  cat /etc/shadow-of-host 2>/dev/null; true";
    let stdout = cluster.run_in(&dir, &["srun", "--vm-image=tiny", "--vm-root", "sh", "-c", script]).ok();
    assert_eq!(stdout, "0\n/root\ninside\n");
    let owner = fs::metadata(dir.join("written")).unwrap().uid();
    assert_eq!(owner, fs::metadata(&dir).unwrap().uid(), "files of the guest's root are the user's");
    // A directory of root's on the host stays closed to the guest's root.
    let closed = cluster.dir.join("closed-to-users");
    fs::create_dir_all(&closed).unwrap();
    fs::write(closed.join("secret"), "secret").unwrap();
    assert!(std::process::Command::new("chmod").args(["-R", "go="]).arg(&closed).status().unwrap().success());
    let mount = format!("--vm-mount={}:/mnt/top", cluster.dir.display());
    let ran = cluster.srun(&["--vm-image=tiny", "--vm-root", &mount, "cat", "/mnt/top/closed-to-users/secret"]);
    assert!(ran.code != 0 && !ran.stdout.contains("secret"), "{ran:?}");
}

fn batch(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "#!/bin/sh\n#SBATCH --vm-image=tiny --vm-root --vm-cpus=1\nid -u; nproc\n";
    fs::write(dir.join("job.sh"), script).unwrap();
    cluster.run_in(&dir, &["sbatch", "--wait", "-c2", "-o", "out", "job.sh"]).ok();
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "0\n1\n");
}

fn bad_values(cluster: &Cluster) {
    for (option, value) in [
        ("--vm-mem", "lots"),
        ("--vm-mem", "0"),
        ("--vm-cpus", "0"),
        ("--vm-cpus", "two"),
        ("--vm-mount", "relative"),
        ("--vm-mount", "/a:/b:/c"),
    ] {
        let argument = format!("{option}={value}");
        cluster.srun(&["--vm-image=tiny", &argument, "true"]).fails_with_one_line(&[option, value]);
    }
    cluster.srun(&["--vm-root", "true"]).fails_with_one_line(&["--vm-root", "--vm-image"]);
}

fn too_much(cluster: &Cluster) {
    let refused = |option: &str, words: &[&str]| {
        cluster.srun(&["--vm-image=tiny", "-c1", "--mem=1024", option, "true"]).fails_with_one_line(words);
    };
    refused("--vm-mem=1000", &["1000 MiB", "1024 MiB", "--mem"]);
    refused("--vm-mem=64", &["--vm-mem=64", "128 MiB"]);
    refused("--vm-cpus=8", &["--vm-cpus=8", "--cpus-per-task"]);
    refused("--vm-mount=/no/such/directory", &["--vm-mount", "/no/such/directory"]);
}
