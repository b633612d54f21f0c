//! A step that asked for a VM never runs on the host, and a node that cannot run VMs is drained before one starts.

use testkit::lab::Lab;

use crate::spoilt::{drained_and_waiting, runs_after_all, spoilt, submit};
use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("on_a_node_without_the_plugin_srun_runs_nothing", srun_without_plugin),
    case(
        "a_batch_job_is_kept_off_a_node_without_the_plugin_which_is_drained_and_runs_when_it_is_mended",
        batch_without_plugin,
    ),
    case("a_node_without_qemu_is_drained_with_the_reason_and_the_job_waits", without_qemu).once(),
    case("a_batch_job_that_meets_a_broken_node_is_requeued", requeued),
    case("an_interactive_step_that_meets_one_is_not_where_the_shipped_job_submit_script_is_used", interactive).once(),
];

/// Gives the submit host the plugin when the node does not have it: its own slurm.conf leads to another plugstack.conf.
const SUBMIT_HOST: &str = "mkdir -p /etc/submit; cp /etc/slurm/plugstack.conf /etc/submit/
    sed 's,^Include.*,Include /etc/slurm/nodes.conf,; $aPlugStackConfig=/etc/submit/plugstack.conf' /etc/slurm/slurm.conf >/etc/submit/slurm.conf
    cp /etc/slurm/cgroup.conf /etc/submit/; mv /etc/slurm/plugstack.conf /etc/slurm/plugstack.conf.away";
const MEND: &str = "mv /etc/slurm/plugstack.conf.away /etc/slurm/plugstack.conf; rm -r /etc/submit";

fn srun_without_plugin(lab: &Lab) {
    // Without the Prolog, which would keep the job away from the node: srun's command is hidden anyway.
    let spoil =
        format!("sed -i 's/^Prolog=/#Prolog=/' /etc/slurm/slurm.conf; scontrol reconfigure; sleep 2; {SUBMIT_HOST}");
    let mend = format!("{MEND}; sed -i 's/^#Prolog=/Prolog=/' /etc/slurm/slurm.conf; scontrol reconfigure; sleep 2");
    spoilt(lab, &spoil, &mend, || {
        let script = "rm -f ran-on-the-host; SLURM_CONF=/etc/submit/slurm.conf srun --mem=500 --vm-image=tiny touch ran-on-the-host; \
                      code=$?; [ ! -e ran-on-the-host ] && exit $code";
        let step = lab.sh("ada", script);
        assert_eq!(step.code, 2, "{step:?}");
        assert!(step.stderr.contains("spank-vm-step: No such file or directory"), "{step:?}");
    });
}

fn batch_without_plugin(lab: &Lab) {
    spoilt(lab, SUBMIT_HOST, MEND, || {
        submit(lab, "SLURM_CONF=/etc/submit/slurm.conf");
        drained_and_waiting(lab, "does not load the plugin");
    });
    runs_after_all(lab);
}

fn without_qemu(lab: &Lab) {
    let spoil = "chmod 0 /usr/bin/qemu-system-x86_64; mv /usr/bin/qemu-system-x86_64 /usr/bin/qemu-away";
    let mend = "mv /usr/bin/qemu-away /usr/bin/qemu-system-x86_64; chmod 755 /usr/bin/qemu-system-x86_64";
    spoilt(lab, spoil, mend, || {
        submit(lab, "");
        drained_and_waiting(lab, "no QEMU");
    });
    runs_after_all(lab);
}

/// The Prolog finds nothing wrong. A later failure ends the job with 75, and Slurm requeues it.
fn requeued(lab: &Lab) {
    let spoil = "sed -i 's/^Prolog=/#Prolog=/' /etc/slurm/slurm.conf; scontrol reconfigure; sleep 2";
    let mend = "sed -i 's/^#Prolog=/Prolog=/' /etc/slurm/slurm.conf; scontrol reconfigure; sleep 2";
    spoilt(lab, spoil, mend, || {
        let kit = "/var/lib/spank-vm/kit";
        spoilt(lab, &format!("mv {kit} {kit}-away"), &format!("mv {kit}-away {kit}"), || {
            submit(lab, "");
            lab.wait_until(
                "the job was put back",
                "scontrol -o show job $(squeue -h -o %i) | grep 'Restarts=[1-9]' && squeue -h -o %T | grep PENDING",
            );
        });
        let lines = lab.root("cat /home/ada/out");
        assert!(lines.contains("this node (node1)"), "{lines}");
        runs_after_all(lab);
    });
}

/// Slurm 22.05 does not care: it starts the job of an srun that has gone once more, for some seconds.
fn interactive(lab: &Lab) {
    let spoil = "sed -i 's/^Prolog=/#Prolog=/; $aJobSubmitPlugins=lua' /etc/slurm/slurm.conf; cp /usr/share/spank-vm/job_submit.lua /etc/slurm/
        scontrol reconfigure; sleep 2; scontrol update nodename=node1 availablefeatures=spank-vm activefeatures=spank-vm
        mv /var/lib/spank-vm/kit /var/lib/spank-vm/kit-away";
    let mend = "mv /var/lib/spank-vm/kit-away /var/lib/spank-vm/kit; scontrol update nodename=node1 availablefeatures= activefeatures=
        sed -i 's/^#Prolog=/Prolog=/; /^JobSubmitPlugins=/d' /etc/slurm/slurm.conf; scontrol reconfigure; sleep 2";
    spoilt(lab, spoil, mend, || {
        let step = lab.sh("ada", "srun --mem=500 -J interactive --vm-image=tiny true");
        assert_eq!(step.code, 75, "{step:?}");
        lab.wait_until(
            "the job has failed",
            "scontrol -o show job | grep ' JobName=interactive ' | tail -n 1 | grep JobState=FAILED",
        );
        let job = lab.root("scontrol -o show job | grep ' JobName=interactive ' | tail -n 1");
        assert!(job.contains(" Restarts=0 ") || lab.root("srun -V").contains(" 22.05"), "{job}");
    });
}
