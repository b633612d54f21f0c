//! A node that lacks something for a while, and what becomes of a job that it keeps off.

use testkit::lab::Lab;
use testkit::undo::afterwards;

/// Runs `work` between `spoil` and `mend`, which root does on the first node, whatever becomes of the work.
pub fn spoilt<T>(lab: &Lab, spoil: &str, mend: &str, work: impl FnOnce() -> T) -> T {
    lab.root(spoil);
    let _mend = afterwards(|| drop(lab.root(mend)));
    work()
}

/// Submits a batch job that says where it runs.
pub fn submit(lab: &Lab, environment: &str) {
    lab.sh(
        "ada",
        &format!(
            "rm -f out; {environment} sbatch -Q --mem=500 --vm-image=tiny -o out --wrap 'grep ^ID= /etc/os-release'"
        ),
    )
    .ok();
}

pub fn drained_and_waiting(lab: &Lab, reason: &str) {
    lab.wait_until(
        "the node is drained and the job waits",
        &format!("scontrol -o show node node1 | grep 'DRAIN.*Reason=spank-vm: .*{reason}' && [ $(squeue -h -o %T) = PENDING ]"),
    );
    lab.root("! grep -s ID= /home/ada/out");
}

/// The job that was submitted runs in its VM on the node that is mended.
pub fn runs_after_all(lab: &Lab) {
    lab.root("scontrol update nodename=node1 state=resume 2>/dev/null || true");
    lab.wait_for_requeued("the job ran", "[ -z \"$(squeue -h)\" ]");
    let lines = lab.root("cat /home/ada/out");
    assert!(lines.lines().any(|line| line == "ID=tiny"), "{lines}");
}
