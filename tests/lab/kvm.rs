//! KVM that is missing, that runs no guest, or that shows another processor; and what its guests get of the node's memory.

use testkit::lab::Lab;

use crate::spoilt::{drained_and_waiting, runs_after_all, spoilt, submit};
use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("a_processor_that_the_site_names_is_what_guests_and_their_clones_see", named_processor).nightly(),
    case("check_tells_of_a_user_who_may_not_open_dev_kvm_and_what_lets_him", user_without_right).once(),
    case(
        "a_node_that_lost_its_kvm_module_is_drained_with_the_module_s_name_and_runs_the_job_when_it_is_back",
        lost_module,
    )
    .nightly(),
    case("kvm_is_called_broken_only_after_the_same_boot_succeeds_under_emulation", broken).nightly(),
    case("qemu_s_memory_comes_from_the_numa_nodes_that_slurm_binds_the_task_to", numa).nightly(),
    case("a_large_guest_s_memory_is_in_huge_pages_where_the_node_has_them", huge_pages).nightly(),
];

fn named_processor(lab: &Lab) {
    // A job makes the directory of her templates.
    lab.sh("ada", "srun --mem=500 --vm-image=tiny true").ok();
    let script = r#"
        sed '1i cpu_model = "EPYC-Rome"' /etc/slurm/spank-vm.toml >named.toml
        for start in boot clone; do
            spank-vm --config named.toml run -v --image tiny --vm-mem 300 -- grep -m1 '^model name' /proc/cpuinfo
        done
        spank-vm --config named.toml template remove tiny; rm named.toml"#;
    let ran = lab.sh("ada", script);
    let models: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("model name")).collect();
    assert!(models.len() == 2 && models.iter().all(|line| line.contains(": AMD EPYC-Rome")), "{ran:?}");
    assert!(ran.stderr.contains("way=\"clone\""), "{ran:?}");
    let own = lab.sh("ada", "spank-vm run --image tiny --vm-mem 300 -- grep -m1 '^model name' /proc/cpuinfo").ok();
    assert!(!own.contains("EPYC-Rome"), "a clone of the other processor's template: {own}");
}

fn user_without_right(lab: &Lab) {
    let checked = lab.sh("root", "spank-vm check --user bob");
    let line = "/dev/kvm: no VM starts (accel = 'kvm'): you may not use /dev/kvm on node1 (mode 0660, group kvm): a udev rule \
                'KERNEL==\"kvm\", MODE=\"0666\"' opens it for all users, and membership of the group 'kvm' for one";
    assert!(checked.code == 1 && checked.stdout.contains(line), "{checked:?}");
}

fn lost_module(lab: &Lab) {
    let line = "no /dev/kvm although its processor could: 'modprobe kvm_amd' loads what is missing, or says why not";
    spoilt(lab, "modprobe -r kvm_amd; [ ! -e /dev/kvm ]", "modprobe kvm_amd; udevadm settle", || {
        let ran = lab.sh("ada", "spank-vm run --image tiny --vm-mem 300 -- true");
        assert_eq!(ran.code, 75, "{ran:?}");
        ran.fails_saying(&["this node (node1) cannot run VMs: accel = 'kvm', but node1 has ", line]);
        submit(lab, "");
        drained_and_waiting(lab, "modprobe kvm_amd");
    });
    runs_after_all(lab);
}

/// A QEMU whose guests hang under KVM, as on a node whose firmware or driver is broken.
const HANGS: &str =
    "#!/bin/sh\\ncase \"$*\" in *\"-accel kvm\"*) exec sleep 1000 ;; esac\\nexec /usr/bin/qemu-system-x86_64 \"$@\"\\n";

fn broken(lab: &Lab) {
    // A job makes the directory of her templates.
    lab.sh("ada", "srun --mem=500 --vm-image=tiny true").ok();
    let make = format!(
        "rm -rf /opt/broken; mkdir -p /opt/broken/images; cd /opt/broken; printf '{HANGS}' >qemu; chmod 755 qemu
         cp /var/lib/spank-vm/images/tiny.toml images/stuck.toml; cp -l /var/lib/spank-vm/images/tiny-*.squashfs images/ 2>/dev/null ||
             cp /var/lib/spank-vm/images/tiny-*.squashfs images/
         echo \"append = 'rdinit=/no/such/init'\" >>images/stuck.toml; chmod -R a+rX .
         {{ sed '/^accel/d; /_timeout_s/d' /etc/slurm/spank-vm.toml; echo 'accel = \"auto\"'; echo 'kvm_timeout_s = 5'; echo 'boot_timeout_s = 600'
            echo 'qemu = \"/opt/broken/qemu\"'; echo 'image_dirs = [\"/opt/broken/images\", \"/var/lib/spank-vm/images\"]'; }} >site.toml"
    );
    let said = "KVM does not run guests on this node";
    let verdict = "cat /var/cache/spank-vm/templates/users/*/kvm.verdict 2>/dev/null || true";
    spoilt(lab, &make, "rm -rf /opt/broken /var/cache/spank-vm/templates/users/*/*.verdict", || {
        // Nothing is known of KVM with this QEMU after an image that boots in neither way.
        let ran = lab.sh("ada", "spank-vm --config /opt/broken/site.toml template build stuck");
        assert!(ran.code != 0 && ran.stderr.contains("'stuck'") && !ran.stderr.contains(said), "{ran:?}");
        assert!(!lab.root(verdict).contains("/opt/broken/qemu"));
        let ran = lab.sh("ada", "spank-vm --config /opt/broken/site.toml template build tiny");
        assert!(ran.code == 0 && ran.stderr.matches(said).count() == 1, "{ran:?}");
        let kept = lab.root(verdict);
        assert!(kept.lines().any(|line| line.starts_with("broken ") && line.contains("/opt/broken/qemu")), "{kept}");
        // The VM that reads a disk finds it by itself.
        lab.root("rm /var/cache/spank-vm/templates/users/*/*.verdict");
        let ran = lab.sh("ada", IMPORT);
        assert!(ran.stderr.matches(said).count() == 1 && ran.stderr.contains("no root file system"), "{ran:?}");
        lab.sh("ada", "spank-vm --config /opt/broken/site.toml template remove tiny");
    });
}

const IMPORT: &str = "export PATH=$PATH:/usr/sbin; truncate -s 16M disk; mkfs.ext4 -q -F disk
    spank-vm --config /opt/broken/site.toml image import disk --name disk --dir imported; rm -rf disk imported";

fn numa(lab: &Lab) {
    let job = "rm -f started; sbatch -Q --mem=500 -o /dev/null --wrap 'srun --mem-bind=local --vm-image=tiny sh -c \": > started; sleep 600\"'";
    lab.sh("ada", job).ok();
    lab.wait_until("the step runs", "[ -e /home/ada/started ]");
    let maps = lab.root("cat /proc/$(pgrep -o qemu-system)/numa_maps; scancel -u ada");
    let bound = maps.lines().filter(|line| line.contains(" bind:0")).count();
    assert!(bound > 10 && bound * 10 >= maps.lines().count() * 9, "{maps}");
}

fn huge_pages(lab: &Lab) {
    assert!(lab.root("cat /sys/kernel/mm/transparent_hugepage/enabled").contains("[always]"));
    // Beyond the template's 254 MiB memory is plugged, and that is in huge pages.
    let fill = "dd if=/dev/zero of=/dev/shm/filled bs=1M count=500 && : > started && sleep 600";
    lab.sh("ada", &format!("rm -f started; sbatch -Q --mem=1500 --vm-image=tiny -o /dev/null --wrap '{fill}'")).ok();
    lab.wait_until("the guest's memory is filled", "[ -e /home/ada/started ]");
    let kib =
        lab.root("awk '/^AnonHugePages:/ { print $2 }' /proc/$(pgrep -o qemu-system)/smaps_rollup; scancel -u ada");
    let mib = kib.trim().parse::<u64>().unwrap() / 1024;
    println!("of 500 MiB that a guest filled, {mib} MiB are in huge pages of the node");
    assert!(mib >= 300, "{mib} MiB");
}
