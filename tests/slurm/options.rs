//! The options that shape a VM, and their bad values.

use std::fs;
use std::os::unix::fs::MetadataExt;

use testkit::Cluster;

use crate::Case;

pub const CASES: &[Case] = &[
    ("vm_mem_and_vm_cpus_set_the_size_of_the_guest", size),
    ("vm_mount_shows_a_host_directory_read_only_or_elsewhere", mounts),
    ("vm_root_is_root_in_the_guest_and_the_user_on_the_host", root),
    ("vm_env_sets_variables_and_passes_what_is_left_out_otherwise", variables),
    ("an_explanation_of_each_phase_is_there_for_the_asking", verbose),
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
    // A directory that belongs to root on the host stays closed to the guest's root.
    let closed = cluster.dir.join("closed-to-users");
    fs::create_dir_all(&closed).unwrap();
    fs::write(closed.join("secret"), "secret").unwrap();
    assert!(std::process::Command::new("chmod").args(["-R", "go="]).arg(&closed).status().unwrap().success());
    let mount = format!("--vm-mount={}:/mnt/top", cluster.dir.display());
    let ran = cluster.srun(&["--vm-image=tiny", "--vm-root", &mount, "cat", "/mnt/top/closed-to-users/secret"]);
    assert!(ran.code != 0 && !ran.stdout.contains("secret"), "{ran:?}");
}

fn variables(cluster: &Cluster) {
    let command = "XDG_RUNTIME_DIR=/run/of/host TMPDIR=/var/lib srun --vm-image=tiny \
                   --vm-env='XDG_RUNTIME_DIR,A=b=c,LIST=1\\,2' env | grep -E '^(XDG_|TMPDIR|A|LIST)' | sort";
    let stdout = cluster.run(&["bash", "-c", command]).ok();
    assert_eq!(stdout, "A=b=c\nLIST=1,2\nTMPDIR=/tmp\nXDG_RUNTIME_DIR=/run/of/host\n");
    let default = cluster.run(&["env", "SPANK_VM_ENV=A=1", "srun", "--vm-image=tiny", "sh", "-c", "echo $A"]).ok();
    assert_eq!(default, "1\n");
}

fn verbose(cluster: &Cluster) {
    let phases = ["share ", "the guest is up", "the command runs", "vm ended"];
    let asked = cluster.srun(&["-v", "--vm-image=tiny", "true"]).stderr;
    let by_variable = cluster.run(&["env", "SPANK_VM_VERBOSE=1", "srun", "--vm-image=tiny", "true"]).stderr;
    for text in [asked, by_variable] {
        assert!(phases.iter().all(|phase| text.contains(phase)), "{text}");
    }
    let silent = cluster.srun(&["-Q", "--vm-image=tiny", "true"]).stderr;
    assert_eq!(silent, "");
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
        ("--vm-mem", "64M"),
        ("--vm-mem", "1K"),
        ("--vm-cpus", "0"),
        ("--vm-cpus", "two"),
        ("--vm-mount", "relative"),
        ("--vm-mount", "/a:/b:/c"),
        ("--vm-env", "1A=2"),
        ("--vm-env", "A B=1"),
        ("--vm-env", "SPANK_VM_REQUEST=x"),
    ] {
        let argument = format!("{option}={value}");
        cluster.srun(&["--vm-image=tiny", &argument, "true"]).fails_with_one_line(&[option, value]);
    }
    cluster.srun(&["--vm-image=tiny", "--mem=700", "--vm-mem=0", "true"]).ok();
    cluster.srun(&["--vm-root", "true"]).fails_with_one_line(&["--vm-root", "--vm-image"]);
}

fn too_much(cluster: &Cluster) {
    let refused = |option: &str, words: &[&str]| {
        cluster.srun(&["--vm-image=tiny", "-c1", "--mem=1024", option, "true"]).fails_with_one_line(words);
    };
    refused("--vm-mem=1000", &["1000 MiB", "1024 MiB", "--mem"]);
    refused("--vm-cpus=8", &["--vm-cpus=8", "--cpus-per-task"]);
    refused("--vm-mount=/no/such/directory", &["--vm-mount", "/no/such/directory"]);
}
