//! A step that asked for a VM never runs its command on the host, whatever the node or the environment says.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::wait::wait_for_file;
use testkit::{Cluster, Ran, ran};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_plugin_of_another_slurm_release_on_the_node_fails_the_step", other_release),
    ("an_optional_plugin_whose_file_is_gone_fails_the_step", missing_file),
    ("options_forged_in_the_environment_are_checked_on_the_node", forged_options),
    ("the_plugin_s_own_variables_forged_by_the_user_change_nothing", forged_hand_over),
    ("no_export_option_takes_the_vm_away", export),
];

/// Runs a VM step on nodes whose plugstack.conf has changed since srun read it.
fn on_nodes_with(cluster: &Cluster, plugstack: &str) -> (Ran, bool) {
    let dir = cluster.work_dir();
    let path = cluster.dir.join("plugstack.conf");
    let line = fs::read_to_string(&path).unwrap();
    let script = "srun --begin=now+3 --vm-image=tiny touch ran-on-the-host & sleep 1; echo > submitted; wait $!";
    let spawned = cluster.command_in(&dir, &["sh", "-c", script]).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_file(&dir.join("submitted"));
    fs::write(&path, plugstack).unwrap();
    let ended = ran(spawned.wait_with_output().unwrap());
    fs::write(&path, line).unwrap();
    (ended, dir.join("ran-on-the-host").exists())
}

/// A plugin that says it was made for Slurm 23.11.
fn foreign_plugin(dir: &Path) -> String {
    let (source, library) = (dir.join("foreign.c"), dir.join("foreign.so"));
    let text = "const char plugin_name[] = \"spank_vm\";\nconst char plugin_type[] = \"spank\";\n\
                const unsigned plugin_version = 0x170b00;\nint slurm_spank_init(void *s, int c, char **v) { return 0; }\n";
    fs::write(&source, text).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(compiled.success());
    library.display().to_string()
}

fn other_release(cluster: &Cluster) {
    let (ended, on_host) = on_nodes_with(cluster, &format!("optional {}\n", foreign_plugin(&cluster.work_dir())));
    assert!(ended.code != 0 && !on_host, "{ended:?}");
    assert!(ended.stderr.contains("spank-vm-step: No such file or directory"), "{ended:?}");
}

fn missing_file(cluster: &Cluster) {
    let (ended, on_host) = on_nodes_with(cluster, "optional /nonexistent/spank_vm.so\n");
    assert!(ended.code != 0 && !on_host, "{ended:?}");
}

/// Output of a step that runs in the VM `tiny`.
const WHERE: [&str; 3] = ["grep", "^ID=", "/etc/os-release"];
const IN_TINY: &str = "ID=tiny\n";

fn with_env(cluster: &Cluster, env: &[&str], argv: &[&str]) -> Ran {
    cluster.run(&[&["env"], env, argv].concat())
}

/// The variables that carry options, set by hand: to nonsense, and to a value that differs from the command line.
fn forged_options(cluster: &Cluster) {
    let variable = |prefix: &str, value: &str| format!("{prefix}_SLURM_SPANK_OPTION_spank_vm_vm_image={value}");
    for bad in ["../../etc/shadow", "tiny;id", "no-such-image"] {
        for prefix in ["SLURM_SPANK_", ""] {
            let step = with_env(cluster, &[&variable(prefix, bad)], &[&["srun"][..], &WHERE].concat());
            let bare = step.code == 0 && prefix.is_empty() && step.stdout != IN_TINY;
            // Without Slurm's prefix it is not an option on the way to a step, and the step is bare, as asked.
            assert!(bare || (step.code != 0 && step.stdout.is_empty()), "{prefix} {bad}: {step:?}");
        }
    }
    for other in ["none", "no-such-image"] {
        let forged = [variable("SLURM_SPANK_", other), variable("", other)];
        let forged: Vec<&str> = forged.iter().map(String::as_str).collect();
        let step = with_env(cluster, &forged, &[&["srun", "--vm-image=tiny"][..], &WHERE].concat());
        let in_vm = step.code == 0 && step.stdout == IN_TINY;
        assert!(in_vm || (step.code != 0 && step.stdout.is_empty()), "{other}: {step:?}");
    }
    let job = "env _SLURM_SPANK_OPTION_spank_vm_vm_image=../x grep ^ID= /etc/os-release";
    let batch = cluster.run(&["sbatch", "-W", "--vm-image=tiny", "-o", "/dev/null", "--wrap", job]);
    assert_eq!(batch.code, 0, "{batch:?}");
}

fn forged_hand_over(cluster: &Cluster) {
    let request = "SPANK_VM_REQUEST=vm-image=debian12 config=/nonexistent";
    let command = "SLURM_SPANK_VM_COMMAND=touch";
    for env in [&[request][..], &[command], &[request, command, "SLURM_SPANK_VM_MULTI_PROG=0"]] {
        let step = with_env(cluster, env, &[&["srun", "--vm-image=tiny"][..], &WHERE].concat());
        let in_vm = step.code == 0 && step.stdout == IN_TINY;
        assert!(in_vm || (step.code != 0 && step.stdout.is_empty()), "{env:?}: {step:?}");
    }
    // The placeholder of a hidden command, without an image.
    let step = with_env(cluster, &[request, command], &["srun", "spank-vm-step", "ran-on-the-host"]);
    step.fails_with_one_line(&["--vm-image did not arrive", "nothing was run"]);
    // The program itself, called as an ordinary command: it starts a VM, or nothing.
    let program = cluster.dir.join("stage/libexec/spank-vm-step").display().to_string();
    let step = with_env(cluster, &[request], &["srun", &program, "true"]);
    assert!(step.code != 0 && step.stderr.contains("/nonexistent"), "{step:?}");
}

fn export(cluster: &Cluster) {
    for export in ["--export=NONE", "--export=NIL", "--export=HOME", "--export=ALL,SPANK_VM_IMAGE=none"] {
        assert_eq!(cluster.srun(&[&["--vm-image=tiny", export][..], &WHERE].concat()).ok(), IN_TINY, "{export}");
    }
}
