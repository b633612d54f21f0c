//! A node that goes down with VM jobs on it and comes up again, with the unit that makes templates at boot.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("after_a_reboot_vm_jobs_are_requeued_nothing_is_left_and_the_next_job_is_fine", reboot),
    case("the_systemd_unit_has_made_the_templates_of_all_images_at_boot_where_users_can_clone_them", unit),
];

/// Slurm notices missing jobs only when a node registers. That is every few minutes, and not in the controller's first
/// 20 seconds.
const NOTICED: &str =
    "scontrol -o show job | grep 'JobName=again .*Restarts=1' || { sleep 8; systemctl restart slurmd; false; }";

fn reboot(lab: &Lab) {
    // Two images are enough to show it, and each more is booted twice while the node comes up.
    lab.root("rm -f /var/lib/spank-vm/images/debian12-mpi*");
    lab.root("systemctl enable spank-vm-templates");
    // Jobs that started less than SlurmdTimeout before the boot would not be requeued.
    lab.root("sed -i 's/^SlurmdTimeout=.*/SlurmdTimeout=10/' /etc/slurm/slurm.conf");
    // One that is requeued, and one that is not.
    let script = r"
        rm -f runs go started-*
        sbatch -Q --mem=500 --vm-image=tiny -J again --requeue -o /dev/null --wrap 'echo run >> runs; until [ -e go ]; do sleep 0.2; done; echo done >> runs'
        sbatch -Q --mem=500 --vm-image=tiny -J once --no-requeue -o /dev/null --wrap ': > started-once; sleep 3000'";
    lab.sh("ada", script).ok();
    lab.wait_until("both jobs run", "[ -s /home/ada/runs ] && [ -e /home/ada/started-once ] && sync");
    lab.reboot();
    lab.wait_until("Slurm has put the job back", NOTICED);
    lab.root("sed -i 's/^SlurmdTimeout=.*/SlurmdTimeout=120/' /etc/slurm/slurm.conf; scontrol reconfigure");
    lab.wait_for_requeued("the job is begun again", "[ $(grep -c run /home/ada/runs) = 2 ]");
    let left = lab.root("ls -A /run/spank-vm | grep -c '^[0-9]'; pgrep -c qemu-system; squeue -h -o %j");
    assert_eq!(left, "1\n1\nagain\n");
    lab.root("touch /home/ada/go");
    lab.wait_until("the job ended", "[ -z \"$(squeue -h)\" ] && tail -n1 /home/ada/runs | grep -x done");
    assert_eq!(lab.sh("ada", "srun --mem=500 --vm-image=tiny echo fine").ok(), "fine\n");
}

fn unit(lab: &Lab) {
    let state = lab.root("systemctl show -P Result -P ExecMainStatus spank-vm-templates");
    let said = lab.root("journalctl -b -o cat -u spank-vm-templates --no-pager");
    assert_eq!(state, "success\n0\n", "{said}");
    let of_site = |image| {
        let list = lab.root("spank-vm template list");
        list.lines().any(|line| line.starts_with("(site)") && line.contains(image))
    };
    let made = ["tiny", "debian12"].map(of_site);
    // QEMU before 8.2 clones only what its user may write: none is made that nobody could use.
    if lab.versions().contains("qemu-system-x86 1:7.") {
        assert!(made == [false; 2] && said.contains("no templates made: this QEMU, older than 8.2"), "{said}");
        return;
    }
    assert_eq!(made, [true; 2], "{said}");
    // No user's first VM after this boot has to boot. The templates of the previous boot are still on the shelf.
    let own = || lab.root("ls /var/cache/spank-vm/templates/users/$(id -u ada) | wc -l");
    let before = own();
    let step = lab.sh("ada", "SPANK_VM_TIMING=1 srun --mem=700 --vm-image=debian12 true");
    assert!(step.stderr.contains(" wake="), "{step:?}");
    assert_eq!(own(), before, "a template of the site's serves ada");
}
