//! Where a step runs, as whom, and what it sees of the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use testkit::{Cluster, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_step_sees_the_image_s_os_the_guest_s_kernel_and_the_user_s_ids", os_kernel_and_ids),
    ("a_file_written_in_the_submit_directory_is_on_the_host_and_the_user_s", files_in_the_submit_directory),
    ("the_user_has_a_name_and_a_home_in_an_image_that_does_not_know_the_account", account),
    ("the_environment_arrives_and_what_is_the_plugin_s_does_not", environment),
    ("an_allocation_with_an_image_gives_it_to_its_steps_and_none_switches_it_off", allocation),
    ("an_environment_default_chooses_the_image_and_an_option_overrides_it", environment_default),
    ("the_plugin_s_options_are_in_the_help_of_srun_sbatch_and_salloc", help),
    ("a_list_of_the_images_is_printed_without_a_job", list),
];

fn os_kernel_and_ids(cluster: &Cluster) {
    let script = "cat /etc/os-release; uname -r; id -u; id -g; pwd";
    let stdout = cluster.srun(&["--vm-image=debian12", "sh", "-c", script]).ok();
    assert!(stdout.contains("VERSION_CODENAME=bookworm"), "{stdout}");
    let lines: Vec<&str> = stdout.lines().rev().take(4).collect();
    let [cwd, gid, uid, kernel] = lines[..] else { panic!("{stdout}") };
    let host_kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(kernel, host_kernel.trim());
    assert!(fs::read_to_string(cluster.dir.join("kit/kit.toml")).unwrap().contains(kernel), "{kernel}");
    assert_eq!((uid, gid), (id(cluster, "-u").as_str(), id(cluster, "-g").as_str()));
    assert!(cwd.starts_with(cluster.dir.to_str().unwrap()), "{cwd}");
}

fn files_in_the_submit_directory(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("input"), "from the host\n").unwrap();
    let script = "cat input; umask 027; echo from the guest > output; ln -s output link; mkdir sub";
    let stdout = cluster.run_in(&dir, &["srun", "--vm-image=tiny", "sh", "-c", script]).ok();
    assert_eq!(stdout, "from the host\n");
    let output = dir.join("output");
    assert_eq!(fs::read_to_string(&output).unwrap(), "from the guest\n");
    let meta = fs::metadata(&output).unwrap();
    assert_eq!((meta.uid().to_string(), meta.mode() & 0o777), (id(cluster, "-u"), 0o640));
    assert_eq!(fs::read_link(dir.join("link")).unwrap().to_str(), Some("output"));
    assert!(dir.join("sub").is_dir());
}

fn account(cluster: &Cluster) {
    let script = "id -un; echo ~; touch ~/spank-vm-test && rm ~/spank-vm-test && echo writable";
    let stdout = cluster.srun(&["--vm-image=tiny", "sh", "-c", script]).ok();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], cluster.user);
    assert_eq!(lines[2], "writable");
}

fn environment(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let mut srun = cluster
        .command_in(&dir, &["env", "WITH_LINES=a\nb=c", "UTF8=\u{e9}\u{4f60}", "srun", "--vm-image=tiny", "env", "-0"]);
    let stdout = ran(srun.output().unwrap()).ok();
    let variables: Vec<&str> = stdout.split('\0').collect();
    for expected in ["WITH_LINES=a\nb=c", "UTF8=\u{e9}\u{4f60}", "SLURM_PROCID=0", "SLURM_NTASKS=1", "SLURM_VM_INDEX=0"]
    {
        assert!(variables.contains(&expected), "{expected:?} is not in {variables:?}");
    }
    let own: Vec<_> = variables.iter().filter(|v| v.contains("SPANK_VM_") || v.contains("spank-vm-step")).collect();
    assert!(own.is_empty(), "{own:?}");
}

fn allocation(cluster: &Cluster) {
    let script = "srun cat /etc/os-release; srun --vm-image=none uname -r";
    let stdout = cluster.run(&["salloc", "-Q", "--vm-image=tiny", "sh", "-c", script]).ok();
    assert!(stdout.contains("ID=tiny"), "{stdout}");
    let host_kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(stdout.ends_with(&host_kernel), "{stdout}");
}

fn environment_default(cluster: &Cluster) {
    let cat = ["srun", "grep", "-h", "^ID=", "/etc/os-release"];
    let with_default = cluster.run(&[&["env", "SPANK_VM_IMAGE=tiny"], &cat[..]].concat()).ok();
    assert_eq!(with_default, "ID=tiny\n");
    let overridden = ["env", "SPANK_VM_IMAGE=no-such", "srun", "--vm-image=tiny", "true"];
    cluster.run(&overridden).ok();
}

fn help(cluster: &Cluster) {
    for program in ["srun", "sbatch", "salloc"] {
        let help = cluster.run(&[program, "--help"]).ok();
        for option in &request::OPTIONS {
            let line = format!("--{}{}", option.about.name, if option.about.argument.is_some() { "=" } else { "" });
            assert!(help.contains(&line), "{line} is not in the help of {program}");
        }
    }
}

fn list(cluster: &Cluster) {
    let stdout = cluster.srun(&["--vm-image=list"]).ok();
    assert!(stdout.contains("tiny") && stdout.contains("debian12"), "{stdout}");
}

fn id(cluster: &Cluster, flag: &str) -> String {
    let output = Command::new("id").args([flag, &cluster.user]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
