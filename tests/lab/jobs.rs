//! The jobs of the demo, and the ways to submit.

use testkit::lab::Lab;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("a_bare_job_a_vm_job_and_an_array_of_vms_run_side_by_side", side_by_side),
    case("one_step_runs_different_programs_in_its_vms_where_slurm_lets_it", multi_prog),
    case("the_tasks_of_a_node_share_a_vm_whose_processors_and_memory_are_theirs", shared),
    case("a_batch_script_s_exit_code_and_directives_are_kept", batch).once(),
    case("salloc_gives_its_steps_the_image", salloc).once(),
    case("a_bad_option_is_refused_with_one_line_before_anything_is_queued", refused).once(),
];

fn side_by_side(lab: &Lab) {
    let script = r#"
        rm -rf demo; mkdir demo; cd demo
        printf '#!/bin/bash\n. /etc/os-release; echo "$ID $(systemd-detect-virt 2>/dev/null || echo in a VM)"\n' > where.sh
        printf '#!/bin/bash\nn=(7 9 11 15); n=${n[$SLURM_ARRAY_TASK_ID]}; for ((d = 2; d < n; d++)); do ((n %% d)) || { echo $n no; exit; }; done; echo $n prime\n' > prime.sh
        sbatch -Q --mem=500 -o bare.out --wrap 'stat -fc %T /sys/fs/cgroup' &
        sbatch -Q --mem=500 -o vm.out --vm-image=debian12 where.sh &
        sbatch -QW --mem=500 -o array-%a.out --vm-image=debian12 --array=0-3 prime.sh &
        wait
        while [ -n "$(squeue -h)" ]; do sleep 1; done
        cat bare.out vm.out array-*.out"#;
    let stdout = lab.sh("ada", script).ok();
    let lines: Vec<&str> = stdout.lines().filter(|line| !line.starts_with("Submitted")).collect();
    assert_eq!(lines, ["cgroup2fs", "debian in a VM", "7 prime", "9 no", "11 prime", "15 no"]);
}

fn multi_prog(lab: &Lab) {
    let script = r"
        printf '0 echo of tiny\n1 grep ^ID= /etc/os-release\n' > programs
        srun -n2 --mem=1000 --vm-image=tiny --multi-prog programs";
    let step = lab.sh("ada", script);
    if lab.root("srun -V").contains(" 22.05") {
        assert!(step.code != 0 && step.stdout.is_empty(), "{step:?}");
        assert!(step.stderr.contains("--multi-prog with --vm-image needs Slurm 23.11 or later"), "{step:?}");
        return;
    }
    let mut lines: Vec<String> = step.ok().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["ID=tiny", "of tiny"]);
}

/// With KVM, control groups of v2 and tasks bound to processors.
fn shared(lab: &Lab) {
    let script = "echo $SLURM_PROCID $(nproc) $(nproc --all) $(cat /proc/sys/kernel/random/boot_id)";
    let step = "srun -n2 -c1 --cpu-bind=cores --mem=1000 --vm-image=debian12 --vm-scope=node";
    let stdout =
        lab.sh("ada", &format!("{step} sh -c '{script}'; {step} -Q sh -c 'exit $((SLURM_PROCID * 3))'; echo $?")).ok();
    let mut lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split(' ').collect()).collect();
    lines.sort();
    assert_eq!(lines[2], ["3"], "{stdout}");
    assert_eq!((lines[0][..3].join(" "), lines[1][..3].join(" ")), ("0 1 2".into(), "1 1 2".into()), "{stdout}");
    assert_eq!(lines[0][3], lines[1][3], "{stdout}");
}

fn batch(lab: &Lab) {
    let script = r#"
        printf '#!/bin/sh\n#SBATCH --vm-image=tiny\n#SBATCH --mem=500\n. /etc/os-release\necho "$ID $1"\nexit 9\n' > job.sh
        sbatch -QW -o batch.out job.sh 'a b'; echo "code $?"; cat batch.out"#;
    let stdout = lab.sh("ada", script).ok();
    assert!(stdout.ends_with("code 9\ntiny a b\n"), "{stdout}");
}

fn salloc(lab: &Lab) {
    let script = "salloc -Q --mem=500 --vm-image=tiny srun grep ^ID= /etc/os-release";
    assert_eq!(lab.sh("ada", script).ok(), "ID=tiny\n");
}

fn refused(lab: &Lab) {
    let refused = lab.sh("ada", "srun --vm-image=no-such-image true; code=$?; [ -z \"$(squeue -h)\" ] && exit $code");
    assert_ne!(refused.code, 0);
    let lines: Vec<&str> = refused.stderr.lines().filter(|line| line.contains("no-such-image")).collect();
    assert_eq!(lines.len(), 1, "{refused:?}");
}
