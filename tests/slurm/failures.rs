//! Errors in a request, a site or a node: one clear line, a non-zero exit code, no leftovers.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use testkit::undo::{afterwards, moved_aside, with_text};
use testkit::wait::wait_for;
use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("an_unknown_image_is_refused_with_a_suggestion_before_a_job_exists", unknown_image),
    ("a_name_that_is_none_and_a_path_that_is_no_disk_are_refused", path_as_name),
    ("a_number_of_vms_that_is_none_is_refused", bad_numbers),
    ("vms_per_slot_without_an_image_is_refused", number_without_image),
    ("a_catalogue_that_cannot_be_read_is_named", unreadable_catalogue),
    ("a_missing_boot_kit_is_named_with_the_remedy", missing_kit),
    ("a_node_without_qemu_says_so", no_qemu),
    ("an_image_whose_disk_is_gone_is_named", disk_gone),
    ("a_boot_that_never_answers_ends_at_the_deadline_with_the_console_s_last_line", no_answer),
    ("too_little_memory_is_refused_with_the_arithmetic", too_little_memory),
    ("a_configuration_error_names_file_line_and_key", bad_configuration),
    ("a_missing_runner_fails_the_step_and_never_runs_the_command_on_the_host", missing_runner),
    ("a_node_without_the_plugin_never_runs_the_command_on_the_host", missing_plugin),
    ("a_root_job_on_a_node_with_a_broken_kvm_falls_back_to_emulation", broken_kvm),
    ("an_image_that_does_not_boot_is_not_kvm_s_fault", not_kvm_s_fault),
    ("a_user_who_may_not_use_kvm_is_told_once_per_step_and_refused_where_it_is_demanded", closed_kvm),
];

fn unknown_image(cluster: &Cluster) {
    let refusal = ["debain12", "did you mean 'debian12'", "--vm-image=list"];
    cluster.srun(&["--vm-image=debain12", "true"]).fails_with_one_line(&refusal);
    cluster.run(&["sbatch", "--vm-image=debain12", "--wrap", "true"]).fails_with_one_line(&refusal);
    cluster.run(&["salloc", "--vm-image=debain12", "true"]).fails_with_one_line(&refusal);
}

fn path_as_name(cluster: &Cluster) {
    for bad in ["../tiny", "/etc/passwd", "tiny;id", ""] {
        cluster.srun(&[&format!("--vm-image={bad}"), "true"]).fails_with_one_line(&["image", bad]);
    }
}

fn bad_numbers(cluster: &Cluster) {
    for bad in ["0", "abc", "65", "-1"] {
        let option = format!("--vms-per-slot={bad}");
        let refusal = ["--vms-per-slot", bad, "from 1 to 64"];
        cluster.srun(&["--vm-image=tiny", &option, "true"]).fails_with_one_line(&refusal);
    }
}

fn number_without_image(cluster: &Cluster) {
    cluster.srun(&["--vms-per-slot=2", "true"]).fails_with_one_line(&["--vms-per-slot", "--vm-image"]);
}

fn unreadable_catalogue(cluster: &Cluster) {
    cluster.with_config("image_dirs = ['/nonexistent/images']\n", || {
        // A login node without images lets the node judge, and there it is the node's fault.
        let ran = cluster.srun(&["--vm-image=tiny", "true"]);
        ran.fails_with_one_line(&["this node", "/nonexistent/images", "image_dirs"]);
        let _job = afterwards(|| drop(cluster.run(&["scancel", "--me"])));
        cluster.run(&["sbatch", "--hold", "--vm-image=tiny", "--wrap", "true"]).ok();
    });
    let closed = cluster.dir.join("closed");
    fs::create_dir(&closed).unwrap();
    assert!(Command::new("chmod").arg("700").arg(&closed).status().unwrap().success());
    cluster.with_config(&format!("image_dirs = ['{}']\n", closed.display()), || {
        cluster.srun(&["--vm-image=tiny", "true"]).fails_with_one_line(&["closed", "Permission denied"]);
    });
}

fn missing_kit(cluster: &Cluster) {
    cluster.with_config("kit = '/nonexistent/kit'\n", || {
        let refusal = ["/nonexistent/kit", "spank-vm kit build"];
        cluster.srun(&["--vm-image=tiny", "true"]).fails_with_one_line(&refusal);
    });
}

fn no_qemu(cluster: &Cluster) {
    cluster.with_config("qemu = '/nonexistent/qemu'\n", || {
        let refusal = ["/nonexistent/qemu", "install qemu-system-x86"];
        cluster.srun(&["--vm-image=tiny", "true"]).fails_with_one_line(&refusal);
    });
}

fn disk_gone(cluster: &Cluster) {
    let entry = cluster.dir.join("images/gone.toml");
    let _entry = with_text(&entry, "disk = 'gone.squashfs'\nformat = 'squashfs'\n");
    cluster.srun(&["--vm-image=gone", "true"]).fails_with_one_line(&["'gone'", "gone.squashfs", "No such file"]);
}

/// An image without a file system as root cannot boot; an image whose kernel command line stops the kernel never
/// answers.
fn no_answer(cluster: &Cluster) {
    let begin = Instant::now();
    with_stuck_image(cluster, STUCK, || {
        cluster.with_config("boot_timeout_s = 600\n", || {
            let refusal = ["'stuck'", "the guest's kernel panicked", "root fs"];
            cluster.srun(&["--vm-image=stuck", "true"]).fails_with_one_line(&refusal);
        });
    });
    // Enough to come so far again, on a machine as busy as this one.
    let deadline = 8 + 3 * begin.elapsed().as_secs();
    with_stuck_image(cluster, "initcall_debug_hang=1 panic=0 rdinit=/no/such/init", || {
        cluster.with_config(&format!("boot_timeout_s = {deadline}\n"), || {
            let refusal = ["'stuck'", &format!("no answer within {deadline} s"), "console", "panic"];
            cluster.srun(&["--vm-image=stuck", "true"]).fails_with_one_line(&refusal);
        });
    });
}

fn too_little_memory(cluster: &Cluster) {
    let request = ["--vm-image=tiny", "--vms-per-slot=8", "--mem=512", "true"];
    cluster.srun(&request).fails_with_one_line(&["--vms-per-slot=8", "8 × (", "512 MiB", "--mem"]);
}

fn bad_configuration(cluster: &Cluster) {
    cluster.with_config("colour = 'red'\n", || {
        let ran = cluster.srun(&["--vm-image=tiny", "true"]);
        assert_ne!(ran.code, 0);
        for word in ["spank-vm.toml", "colour", "line 8"] {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
    });
}

fn missing_runner(cluster: &Cluster) {
    let step = cluster.dir.join("stage/libexec/spank-vm-step");
    let _step = moved_aside(&step);
    let dir = cluster.work_dir();
    let ran = cluster.run_in(&dir, &["srun", "--vm-image=tiny", "touch", "ran-on-the-host"]);
    assert!(!dir.join("ran-on-the-host").exists());
    ran.fails_with_one_line(&["spank-vm-step"]);
}

/// The submit host has the plugin, but the node does not.
fn missing_plugin(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let plugstack = cluster.dir.join("plugstack.conf");
    // slurmstepd loads the plugin again for every step; srun has read the file when its job is there.
    let held = ["srun", "--hold", "-J", "lost", "--vm-image=tiny", "touch", "ran-on-the-host"];
    let spawned = cluster.command_in(&dir, &held).stderr(Stdio::piped()).spawn().unwrap();
    let job = wait_for("the job", || {
        let listed = cluster.run(&["squeue", "-h", "-n", "lost", "-o", "%A"]).stdout;
        listed.split_whitespace().next().map(str::to_owned)
    });
    let _line = with_text(&plugstack, "");
    cluster.run(&["scontrol", "release", &job]).ok();
    let ended = ran(spawned.wait_with_output().unwrap());
    assert_ne!(ended.code, 0);
    assert!(!dir.join("ran-on-the-host").exists());
}

/// Makes a kernel panic.
const STUCK: &str = "rdinit=/no/such/init";

/// Runs `work` while there is an image with these words for its kernel.
fn with_stuck_image(cluster: &Cluster, words: &str, work: impl FnOnce()) {
    let entry = cluster.dir.join("images/stuck.toml");
    let tiny = fs::read_to_string(cluster.dir.join("images/tiny.toml")).unwrap();
    let _entry = with_text(&entry, &format!("{tiny}append = '{words}'\n"));
    work();
}

/// What the node remembers about KVM: jobs of root write it where all users rely on it.
fn verdict(cluster: &Cluster) -> Option<String> {
    fs::read_to_string(cluster.dir.join("state/kvm.verdict")).ok()
}

fn forget_verdict(cluster: &Cluster) {
    let _ = fs::remove_file(cluster.dir.join("state/kvm.verdict"));
}

fn broken_kvm(cluster: &Cluster) {
    forget_verdict(cluster);
    let _verdict = afterwards(|| forget_verdict(cluster));
    cluster.with_config("accel = 'auto'\nkvm_timeout_s = 5\n", || {
        let argv = ["srun", "--vm-image=tiny", "grep", "-h", "^ID=", "/etc/os-release"];
        let ran = ran(cluster.command_as("root", Path::new("/"), &argv).output().unwrap());
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "ID=tiny\n"), "{ran:?}");
        if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok() {
            let is_broken = ran.stderr.contains("KVM does not run guests on this node");
            let word = if is_broken { "broken " } else { "works " };
            assert!(verdict(cluster).is_some_and(|text| text.starts_with(word)), "{ran:?}");
        }
    });
}

fn not_kvm_s_fault(cluster: &Cluster) {
    forget_verdict(cluster);
    let _verdict = afterwards(|| forget_verdict(cluster));
    cluster.with_config("accel = 'auto'\nkvm_timeout_s = 5\n", || {
        with_stuck_image(cluster, STUCK, || {
            let argv = ["srun", "--vm-image=stuck", "true"];
            let ran = ran(cluster.command_as("root", Path::new("/"), &argv).output().unwrap());
            assert_eq!(ran.code, 125, "{ran:?}");
            assert!(!ran.stderr.contains("KVM"), "{ran:?}");
            ran.fails_with_one_line(&["'stuck'", "the guest's kernel panicked"]);
        });
    });
    assert_eq!(verdict(cluster), None);
}

fn closed_kvm(cluster: &Cluster) {
    let is_closed = ["sh", "-c", "test -e /dev/kvm && ! test -w /dev/kvm"];
    if !cluster.command_in(Path::new("/"), &is_closed).status().unwrap().success() {
        // Users may use it, or there is none: nobody is told that it is closed.
        for accel in ["auto", "kvm"] {
            cluster.with_config(&format!("accel = '{accel}'\n"), || {
                let ran = cluster.srun(&["--vm-image=tiny", "true"]);
                assert!(!ran.stderr.contains("may not use /dev/kvm"), "{ran:?}");
                assert!(ran.code == 0 || accel == "kvm", "{ran:?}");
                // The Prolog's look at the node says the same as the step.
                assert_eq!(cluster.tool("root", &["check", "--node"]).code == 0, ran.code != 75, "{ran:?}");
            });
        }
        return;
    }
    // The nodes of a cluster have one letter in common.
    let node = cluster.nodes()[0].trim_end_matches(char::is_numeric).to_owned();
    let told = format!("you may not use /dev/kvm on {node}");
    cluster.with_config("accel = 'auto'\n", || {
        let ran = cluster.srun(&["-n2", "--vm-image=tiny", "true"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("emulated: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(&told), "{ran:?}");
    });
    assert_eq!(verdict(cluster), None);
    cluster.with_config("accel = 'kvm'\n", || {
        let ran = cluster.srun(&["--vm-image=tiny", "true"]);
        assert_eq!(ran.code, 75, "{ran:?}");
        ran.fails_with_one_line(&[&format!("this node ({node}"), &format!("accel = 'kvm', but {told}"), "udev rule"]);
        // So the Prolog keeps jobs away, and the full check does not speak of emulation.
        for options in [&["check", "--node"][..], &["check"]] {
            let checked = cluster.tool("root", options);
            assert!(checked.code == 1 && checked.stdout.contains("accel = 'kvm', but you may not use"), "{checked:?}");
        }
    });
}
