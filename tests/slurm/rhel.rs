//! Nodes like those of RHEL 8: its kernel, 4.18, and its QEMU, 6.2.
//!
//! On the first slurmd, slurmstepd, the plugin, runner, file server and QEMU get no system call that came later. The second is
//! a program that knows what that QEMU does not, and passes the rest on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use testkit::place::cluster_script;
use testkit::undo::afterwards;
use testkit::wait::wait_for_file;
use testkit::{Cluster, process, system};

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_node_with_the_system_calls_of_linux_4_18_runs_vms", old_kernel),
    ("a_qemu_like_that_of_rhel_8_runs_vms_and_what_it_lacks_is_told", old_qemu),
];

/// What a step does with files of the host; on bare metal it says the same.
const FILES: &str = "
    set -e
    head -c 300000 /dev/zero > large; cp large copy; cat copy >> large; mv copy moved; ln -s moved link; mkdir dir
    : > dir/empty; rm dir/empty; rmdir dir; stat -c %s large link; ls";

fn starter(dir: &Path) -> PathBuf {
    let (source, program) = (cluster_script().with_file_name("lib/as-linux-4.18.c"), dir.join("as-linux-4.18"));
    system(&["cc", "-O1", "-o", program.to_str().unwrap(), source.to_str().unwrap()]);
    program
}

fn old_kernel(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let starter = starter(&dir);
    let node = cluster.nodes().pop().unwrap();
    let on_node = |options: &[&str], command: &[&str]| {
        let work = cluster.work_dir();
        let words = [&["srun", "-w", node.as_str()], options, command].concat();
        cluster.run_in(&work, &words).ok()
    };
    let bare = on_node(&["--vm-image=none"], &["sh", "-c", FILES]);
    // The first VM makes the template.
    cluster.forget_templates();
    cluster.with_node_started_by(&node, &starter, || {
        let probe = [starter.to_str().unwrap(), "--probe"];
        assert_eq!(on_node(&["--vm-image=none"], &probe), "no system call after Linux 4.18\n");
        assert_eq!(on_node(&["--vm-image=tiny"], &["sh", "-c", FILES]), bare);
        // Two tasks with VMs of their own, and two that share one.
        for scope in ["slot", "node"] {
            let options = ["--vm-image=tiny", "-n2", "--mem=1200", &format!("--vm-scope={scope}")];
            let tasks = on_node(&options, &["sh", "-c", "echo $SLURM_PROCID > p$SLURM_PROCID; cat p$SLURM_PROCID"]);
            let mut tasks: Vec<&str> = tasks.lines().collect();
            tasks.sort_unstable();
            assert_eq!(tasks, ["0", "1"], "{scope}");
        }
        let made = fs::read_dir(cluster.dir.join("templates/users")).map(Iterator::count);
        assert_eq!(made.unwrap_or(0), 1, "the VMs were clones of a template");
        file_server_has_its_own_alone(cluster, &starter);
    });
}

/// Who starts a runner may have files open; the file server of its VM must not.
fn file_server_has_its_own_alone(cluster: &Cluster, starter: &Path) {
    let dir = cluster.work_dir();
    // Root's file server may do what any owner of its files may, and no more.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let (program, config) = (cluster.program(), cluster.config_file());
    let line = format!(
        "exec 7</etc/passwd; exec {} --config {} run --image tiny -- sh -c ': > up; until [ -e go ]; do sleep 0.1; done'",
        program.display(),
        config.display()
    );
    let mut vm = cluster.command_as("root", &dir, &[starter.to_str().unwrap(), "sh", "-c", &line]).spawn().unwrap();
    let go = afterwards(|| fs::write(dir.join("go"), "").unwrap());
    wait_for_file(&dir.join("up"));
    let is_server = |pid: &i32| process::words(*pid) == ["spank-vm", "file-server"] && process::has_open(*pid, &dir);
    let server = process::all().find(is_server).expect("a file server has the directory open");
    let has_foreign = process::has_open(server, Path::new("/etc/passwd"));
    drop(go);
    assert!(vm.wait().unwrap().success() && !has_foreign, "the file server has a file of who started the runner");
}

/// Without emulation, as RHEL's is, it would run nothing where these tests run.
const QEMU: &str = r#"#!/bin/sh
refuse() { echo "qemu-kvm: $1" >&2; exit 1; }
case "$*" in
    *--version*) echo 'QEMU emulator version 6.2.0 (qemu-kvm-6.2.0-53.module+el8.10.0)'; exit ;;
    *'-netdev help'*) /usr/bin/qemu-system-x86_64 "$@" | grep -vx user; exit ;;
esac
for word; do
    case $word in
        *i8042=*) refuse "Property 'pc-q35-rhel8.6.0-machine.i8042' not found" ;;
        microvm*) refuse "unsupported machine type 'microvm'" ;;
        *,rom=*) refuse "Property 'memory-backend-file.rom' not found" ;;
        user,*) refuse "Parameter 'type' expects a netdev backend type" ;;
    esac
done
exec /usr/bin/qemu-system-x86_64 "$@"
"#;

fn old_qemu(cluster: &Cluster) {
    let program = cluster.work_dir().join("qemu-kvm");
    fs::write(&program, QEMU).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let step = |options: &[&str], command: &[&str]| cluster.srun(&[&["--vm-image=tiny"], options, command].concat());
    cluster.with_config(&format!("qemu = '{}'\n", program.display()), || {
        // The first one makes the template.
        for _ in 0..2 {
            assert_eq!(step(&["--mem=1000"], &["sh", "-c", "echo $((6 * 7)) > file; cat file"]).ok(), "42\n");
        }
        assert!(cluster.tool(&cluster.user, &["template", "list"]).ok().contains("tiny"));
        step(&["--vm-net=user"], &["true"]).fails_with_one_line(&["--vm-net=user", "QEMU"]);
        let checked = cluster.tool("root", &["check", "--image", "tiny"]).stdout;
        assert!(checked.contains("QEMU emulator version 6.2.0") && checked.contains("own templates"), "{checked}");
    });
}
