//! A step's own network across two kernels: the tunnel is the nodes' own VXLAN, between devices of theirs.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("vms_of_two_kernels_reach_each_other_by_name_with_whole_packets_through_the_nodes_own_tunnel", |lab| {
        across(lab, "--vm-scope=slot --vm-mem=400", &["qemu-system-x86_64-microvm"; 2]);
    }),
    case("one_vm_on_each_of_two_kernels_has_the_addresses_of_both_its_ranks", |lab| {
        across(lab, "--vm-scope=node", &["qemu-system-x86_64"]);
    }),
];

/// What each of four VMs does: it reaches all by name, and stays until the first one has heard that of all of them and was told to
/// go on. The nodes have no directory in common, so they tell each other by their network.
const GUEST: &str = r#"
try() { n=0; until "$@" >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 90 ] || { echo "$SLURM_PROCID: $*"; exit 3; }; sleep 1; done; }
say() { n=0; until echo "$3" | nc -w 5 "$1" "$2" 2>/dev/null; do n=$((n + 1)); [ $n -lt 90 ] || exit 4; sleep 1; done; }
cut_up() { awk '$1 == "Ip:" { n = $15 + $20 } $1 ~ /^Ip6(ReasmReqds|FragCreates)$/ { n += $2 } END { print n }' /proc/net/snmp /proc/net/snmp6; }
for r in 0 1 2 3; do try ping -c1 -W2 rank$r; try ping6 -c1 -W2 rank$r; done
before=$(cut_up)
# With headers of 28 and 48 bytes: as long as a packet may be.
for r in 0 1 2 3; do try ping -c1 -W2 -s 1422 rank$r; try ping6 -c1 -W2 -s 1402 rank$r; done
after=$(cut_up)
echo "rank $SLURM_PROCID on $SLURMD_NODENAME: MTU $(cat /sys/class/net/eth0/mtu), $((after - before)) cut up"
if [ $SLURM_PROCID = 0 ]; then
    for r in 1 2 3; do nc -l -p 700$r; done
    # Nobody looks any more, so a long one may be cut up.
    try ping -c1 -W2 -s 9000 rank2
    touch net.up
    n=0; until [ -e net.go ]; do n=$((n + 1)); [ $n -lt 600 ] || exit 5; sleep 0.2; done
    for r in 1 2 3; do say rank$r 710$r go; done
else
    say rank0 700$SLURM_PROCID "rank $SLURM_PROCID has been everywhere"
    nc -l -p 710$SLURM_PROCID >/dev/null
fi
"#;

/// What shows a step's network on a node: the port of the tunnel, and whether the kernel's module is there.
const TUNNEL: &str = "ss -Hlun 'sport = :4789' | wc -l; [ ! -d /sys/module/vxlan ] || echo module";

/// The programs that have the kernel's own device for taps in use, one on each line.
const VHOST: &str = r#"for p in $(pgrep qemu-system); do
    [ -z "$(find /proc/$p/fd -lname /dev/vhost-net)" ] || basename $(readlink /proc/$p/exe)
done"#;

/// Pieces of packets that were too long for the nodes' links, received and sent.
const CUT_UP: &str = r#"awk '$1 == "Ip:" { n = $15 + $20 } END { print n }' /proc/net/snmp"#;

/// Four tasks on two nodes, whose VMs have these options, and are executed on each node by these programs.
fn across(lab: &Lab, options: &str, programs: &[&str]) {
    let both = |script: &str| [1, 2].map(|node| lab.sh_on(node, "root", script).ok());
    let before = both(CUT_UP);
    let script = format!(
        "rm -f net.up net.go net.out net.err net.code; cat >net.sh <<'END'\n{GUEST}END\n
         {{ srun -Q -N2 -n4 --mem=1500 --vm-image=tiny --vm-root --vm-net=job {options} sh -c \"$(cat net.sh)\" >net.out 2>net.err; \
         echo $? >net.code; }} </dev/null >/dev/null 2>&1 &"
    );
    lab.sh("ada", &script).ok();
    lab.wait_until(
        "all VMs have reached each other, or the step has ended",
        "[ -e /home/ada/net.up ] || [ -e /home/ada/net.code ]",
    );
    let said = lab.root("cat /home/ada/net.err; ls /home/ada/net.code 2>/dev/null || true");
    assert_eq!(said, "", "{}", lab.root("cat /home/ada/net.out"));
    assert_eq!(both(TUNNEL), ["1\nmodule\n", "1\nmodule\n"]);
    // ada may open it, as /dev/kvm.
    let programs: String = programs.iter().map(|program| format!("{program}\n")).collect();
    assert_eq!(both(VHOST), [programs.clone(), programs]);
    lab.root("touch /home/ada/net.go");
    lab.wait_until("the step ended", "[ -s /home/ada/net.code ]");
    assert_eq!(lab.root("cat /home/ada/net.code /home/ada/net.err"), "0\n");
    let told = lab.root("sort /home/ada/net.out");
    let expected = [
        "rank 0 on node1: MTU 1450, 0 cut up",
        "rank 1 has been everywhere",
        "rank 1 on node1: MTU 1450, 0 cut up",
        "rank 2 has been everywhere",
        "rank 2 on node2: MTU 1450, 0 cut up",
        "rank 3 has been everywhere",
        "rank 3 on node2: MTU 1450, 0 cut up",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    // Nor did the nodes cut up the tunnel's packets.
    assert_eq!(both(CUT_UP), before);
}
