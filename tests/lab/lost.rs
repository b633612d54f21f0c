//! A node that is cut off while a step's network is on it and on another one.

use testkit::lab::Lab;
use testkit::undo::afterwards;

use crate::{Case, case};

pub const CASES: &[Case] =
    &[case("a_node_that_is_cut_off_ends_its_job_as_on_bare_metal_and_the_other_node_s_network_is_swept", cut_off)
        .nightly()];

/// The cable between the nodes, at the second one. Nobody comes in by it.
const CUT: &str = "ip link set eth1 down";
const JOIN: &str = "ip link set eth1 up; networkctl reconfigure eth1";

/// What is on a node of a step's VM and its network.
const REMAINS: &str = "pgrep -a qemu-system; ss -Hlun 'sport = :4789'; ls -A /run/spank-vm | grep '^[0-9]'; true";

fn cut_off(lab: &Lab) {
    let bare = lose(lab, "--vm-image=none");
    let in_vms = lose(lab, "--vm-image=tiny --vm-net=job");
    assert_eq!(in_vms, bare);
    assert_ne!(bare, "0\n");
}

/// The second node is back, and sweeps what it has of the job.
fn come_back(lab: &Lab) {
    lab.sh_on(2, "root", JOIN).ok();
    // It hears only now that the job is over. What is said in vain is the controller's view of it.
    lab.wait_until(
        "the second node is back",
        "scontrol update nodename=node2 state=resume; sleep 1; scontrol -o show node node2 >&2; squeue >&2; sinfo -hN -n node2 -o %T | grep -x idle",
    );
    let swept =
        format!("for try in $(seq 600); do [ -n \"$({REMAINS})\" ] || exit 0; sleep 0.2; done; {REMAINS}; exit 1");
    lab.sh_on(2, "root", &swept).ok();
}

/// The exit code of a step of two nodes whose second one is cut off. The controller is told at once, as it would notice itself after minutes.
fn lose(lab: &Lab, options: &str) -> String {
    let both = |script: &str| [1, 2].map(|node| lab.sh_on(node, "root", script).ok());
    both("rm -f /home/ada/lost.*");
    let script = format!(
        "{{ srun -Q -K1 -N2 -n2 --mem=500 {options} sh -c ': >lost.up; sleep 1000' >lost.out 2>&1; echo $? >lost.code; }} \
         </dev/null >/dev/null 2>&1 &"
    );
    lab.sh("ada", &script).ok();
    for node in [1, 2] {
        let up = "for try in $(seq 900); do [ ! -e /home/ada/lost.up ] || exit 0; sleep 0.2; done; exit 1";
        lab.sh_on(node, "root", up).ok();
    }
    lab.sh_on(2, "root", CUT).ok();
    {
        let _back = afterwards(|| come_back(lab));
        lab.root("scontrol update nodename=node2 state=down reason=lost");
        // The node that is left has nothing of it, though nobody can ask the other one.
        lab.wait_until("the first node is swept", &format!("[ -z \"$({REMAINS})\" ] && ! pgrep -u ada sleep"));
        // srun may wait longer for what the lost one has to say; then it is hurried, as a user would do.
        let own_end = "for try in $(seq 60); do [ ! -s /home/ada/lost.code ] || exit 0; sleep 0.5; done";
        lab.root(own_end);
        lab.root("[ -s /home/ada/lost.code ] || pkill -TERM -u ada -x srun || true");
        lab.wait_until("the step ended", "[ -s /home/ada/lost.code ]");
    }
    lab.root("cat /home/ada/lost.code")
}
