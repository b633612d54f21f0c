//! Who reaches whom.

use std::fs;

use testkit::Cluster;
use testkit::wait::wait_for;

use crate::Case;

pub const CASES: &[Case] = &[
    ("the_vms_of_a_task_and_of_a_node_reach_each_other_by_name", one_node),
    ("vms_on_two_nodes_reach_each_other_by_name_with_both_versions_of_ip", two_nodes),
    ("two_steps_at_once_have_the_same_addresses_and_hear_nothing_of_each_other", two_steps),
    ("root_in_a_guest_reaches_neither_its_node_nor_another_step", hostile),
    ("a_network_that_cannot_be_had_fails_closed_in_one_line", refused),
];

/// Waits in the guest until a name answers: the other VM may start later.
const REACH: &str = "reach() { n=0; until ping -c1 -W1 $1 >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 90 ] || return 1; done; }; \
                     reach6() { n=0; until ping6 -c1 -W1 $1 >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 90 ] || return 1; done; };";

/// Leaves when all have arrived, so that nobody's peer is gone.
const MEET: &str = "meet() { touch $1.$SLURM_PROCID.$SLURM_VM_INDEX; n=0; until [ $(ls $1.* | wc -l) = $2 ]; do sleep 0.2; n=$((n + 1)); \
                    [ $n -lt 900 ] || exit 9; done; };";

fn one_node(cluster: &Cluster) {
    let script = format!(
        "{REACH} {MEET} for h in $(echo $SLURM_VM_HOSTS | tr , ' '); do reach $h || exit 3; done; meet m 4; \
         [ $SLURM_PROCID.$SLURM_VM_INDEX = 0.0 ] && echo $SLURM_VM_HOSTS | sed 's/vm[0-9]*-/vm-/g' && getent hosts rank1-1 | cut -d' ' -f1; \
         cat /sys/class/net/eth0/mtu"
    );
    let step = ["-Q", "-N1", "-n2", "--mem=1500", "--vm-image=tiny", "--vm-root", "--vms-per-slot=2", "--vm-net=job"];
    let script = script.replace("getent hosts rank1-1 | cut -d' ' -f1", "grep -w rank1-1 /etc/hosts | cut -d' ' -f1");
    let stdout = cluster.srun(&[&step[..], &["sh", "-c", &script]].concat()).ok();
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort_unstable();
    let hosts = "vm-0-0,vm-0-1,vm-1-0,vm-1-1";
    assert_eq!(lines, ["100.80.0.4", "1500", "1500", "1500", "1500", "fd76:6d6e:6574::4", hosts]);
}

fn two_nodes(cluster: &Cluster) {
    let script = format!(
        "{REACH} {MEET} for r in 0 1 2 3; do reach rank$r || exit 3; reach6 rank$r || exit 4; done; meet m 4; cat /sys/class/net/eth0/mtu; \
         grep -c $(hostname) /etc/hosts"
    );
    let step = ["-Q", "-N2", "-n4", "--mem=1500", "--vm-image=tiny", "--vm-root", "--vm-net=job", "sh", "-c", &script];
    let stdout = cluster.srun(&step).ok();
    let count = |line: &str| stdout.lines().filter(|other| *other == line).count();
    // Longest packets, and the lines of a VM's own name: one for each version.
    assert_eq!((count("1450"), count("2"), stdout.lines().count()), (4, 4, 8), "{stdout}");
    // Placed in turn, ranks are spread otherwise over the nodes, and have the same addresses.
    let cyclic = [&["--distribution=cyclic"], &step[..]].concat();
    let stdout = cluster.srun(&cyclic).ok();
    assert_eq!(stdout.lines().count(), 8, "{stdout}");
}

fn two_steps(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "echo mine > own.$SLURM_JOB_ID; touch up.$SLURM_JOB_ID; nc -l -p 7000 > got.$SLURM_JOB_ID & \
                  until [ -e stop ]; do sleep 0.2; done";
    let options = ["-Q", "-N2", "-n2", "--mem=600", "--vm-image=tiny", "--vm-root", "--vm-net=job"];
    let line = [&["srun"], &options[..], &["sh", "-c", script]].concat();
    let mut first = cluster.command_in(&dir, &line).spawn().unwrap();
    wait_for("the first step", || {
        fs::read_dir(&dir)
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("up."))
            .then_some(())
    });
    // The second has the same addresses. It listens too, and what it sends to the other rank arrives in its own step.
    let script = format!(
        "{REACH} {MEET} if [ $SLURM_PROCID = 0 ]; then reach rank1; n=0; until echo hello | nc -w 2 rank1 7000; do sleep 1; n=$((n + 1)); \
         [ $n -lt 60 ] || exit 5; done; else nc -l -p 7000; fi"
    );
    let second = [&options[..], &["sh", "-c", &script]].concat();
    assert_eq!(cluster.srun(&second).ok(), "hello\n");
    fs::write(dir.join("stop"), "").unwrap();
    assert!(first.wait().unwrap().success());
    let heard: Vec<_> =
        fs::read_dir(&dir).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with("got.")).collect();
    assert!(heard.iter().all(|entry| entry.metadata().unwrap().len() == 0), "the first step heard something");
}

fn hostile(cluster: &Cluster) {
    // Addresses of the nodes and of the controller, given to the guest's own device or behind it as a router: nobody answers.
    let script = format!(
        "{REACH} {MEET} reach rank1; meet m 2; ip addr add 10.99.0.77/24 dev eth0; bad=0; \
         for a in 10.99.0.1 10.99.0.2 10.99.0.254; do ping -c1 -W1 $a >/dev/null && bad=1; done; \
         ip addr del 10.99.0.77/24 dev eth0; ip route add default via 100.80.0.200; \
         for a in 10.99.0.1 10.99.0.254; do ping -c1 -W1 $a >/dev/null && bad=2; done; \
         ip link set eth0 down; ip link set eth0 address 02:76:00:00:00:09; ip link set eth0 up; \
         ping -c1 -W1 10.99.0.1 >/dev/null && bad=3; \
         ip neigh add 100.80.0.200 lladdr ff:ff:ff:ff:ff:ff dev eth0 2>/dev/null; \
         for i in 1 2 3; do echo x | nc -u -w1 10.99.0.2 4789; done; meet n 2; echo bad=$bad"
    );
    let step = ["-Q", "-N2", "-n2", "--mem=600", "--vm-image=tiny", "--vm-root", "--vm-net=job", "sh", "-c", &script];
    assert_eq!(cluster.srun(&step).ok(), "bad=0\nbad=0\n");
}

fn refused(cluster: &Cluster) {
    let srun = |options: &[&str], expected: &[&str]| {
        let step = [&["-Q", "-n1", "--vm-image=tiny", "--vm-net=job"], options, &["sh", "-c", "echo ran"]].concat();
        let ran = cluster.srun(&step);
        assert!(!ran.stdout.contains("ran"), "{ran:?}");
        ran.fails_with_one_line(expected);
    };
    cluster.with_config("allowed_networks = ['user']\n", || srun(&[], &["--vm-net=job", "'allowed_networks'"]));
    cluster.with_config("job_network = '100.80.0.0/29'\n", || {
        srun(&["--vms-per-slot=8", "--mem=2500"], &["8 VMs", "room for 6", "'job_network' = 100.80.0.0/29"]);
    });
    cluster.with_config("job_network = '10.99.0.0/16'\n", || {
        srun(&[], &["this node cannot run VMs", "10.99.0.", "(eth0)", "in the range of VMs", "'job_network'"]);
    });
    cluster.with_config("default_network = 'job'\nallowed_networks = ['user', 'job']\n", || {
        srun(&[], &["default_network = \"job\"", "'none' or 'user' is needed", "SPANK_VM_NET=job"]);
    });
    cluster.with_config("job_network = 'everything'\n", || {
        srun(&[], &["'everything': a range of IPv4 addresses is needed"]);
    });
    srun(&["--vm-publish=8080:80"], &["only VMs with --vm-net=user"]);
    let outside = cluster.tool(&cluster.user, &["run", "--image=tiny", "--net=job", "--", "true"]);
    outside.fails_with_one_line(&["--vm-net=job", "only steps of Slurm"]);
}
