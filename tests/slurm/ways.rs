//! Every way in which the value of an option goes from the user to the task, and every known way to lose it.
//!
//! One table: what is typed, and what must have run where afterwards. The commands themselves write where they ran
//! into a file of the work directory, so that a command on the host is noticed whatever Slurm says about the step. A
//! new way is a new row; docs/fail-closed.md says the same in words.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::Case;
use testkit::undo::{unchanged, with_mode};
use testkit::{Cluster, Ran};

pub const CASES: &[Case] = &[
    ("ways::components_of_a_heterogeneous_step_get_what_each_asked_for", het_steps),
    ("ways::components_of_a_heterogeneous_job_cannot_ask_for_different_vms", het_jobs),
    ("ways::no_way_of_starting_a_step_loses_its_vm", steps),
    ("ways::no_way_of_submitting_a_job_loses_its_vm", jobs),
    ("ways::the_shell_of_salloc_runs_on_its_node_and_the_steps_in_it_in_vms", shells),
    ("ways::a_value_that_was_taken_out_on_the_way_never_means_the_host", losses),
    ("ways::nodes_that_lost_the_plugin_run_no_component_that_asked_for_a_vm", nodes_without_plugin),
];

/// One way: a line of shell as the user types it, and what is true when it has ended.
struct Way {
    /// Run by `sh -c` in a directory that has the script `probe`.
    typed: &'static str,
    /// What ran, sorted: the word given to the probe and the system on which it ran.
    ran: &'static [&'static str],
    /// Words of the one line that refuses it; empty where it succeeds.
    says: &'static [&'static str],
}

const fn runs(typed: &'static str, ran: &'static [&'static str]) -> Way {
    Way { typed, ran, says: &[] }
}

const fn refused(typed: &'static str, says: &'static [&'static str]) -> Way {
    Way { typed, ran: &[], says }
}

/// Differences between releases; never that something runs on the host.
const fn never_on_host(typed: &'static str) -> Way {
    Way { typed, ran: &["..."], says: &[] }
}

/// salloc with these options, at a site where it starts its shell on a node (without the terminal that a test lacks).
macro_rules! shell_of_salloc {
    ($options:literal) => {
        concat!(
            "{ cat $SLURM_CONF; echo LaunchParameters=use_interactive_step; ",
            "echo 'InteractiveStepOptions=\"--interactive --preserve-env $SHELL\"'; } >slurm.conf; ",
            "cp ${SLURM_CONF%/*}/cgroup.conf .; export SLURM_CONF=$PWD/slurm.conf SHELL=/bin/sh; ",
            "echo './probe shell; srun ./probe step' | salloc -Q ",
            $options
        )
    };
}

/// Says where it runs. The test machine is a Debian; the image `tiny` is not.
const PROBE: &str = "#!/bin/sh\n. /etc/os-release\n[ $ID = tiny ] || ID=host\necho \"$1 $ID\" >>ran\n";

/// A batch script without directives, with the steps of a heterogeneous job inside.
const SCRIPTS: &[(&str, &str)] = &[
    ("probe", PROBE),
    ("job", "#!/bin/sh\n./probe batch\n"),
    (
        "het-same",
        "#!/bin/sh\n#SBATCH -n1 --vm-image=tiny\n#SBATCH hetjob\n#SBATCH -n1 --vm-image=tiny\n./probe batch\n",
    ),
    (
        "het-other",
        "#!/bin/sh\n#SBATCH -n1 --vm-image=tiny\n#SBATCH hetjob\n#SBATCH -n1 --vm-image=none\n./probe batch\n",
    ),
    (
        "het-reverse",
        "#!/bin/sh\n#SBATCH -n1 --vm-image=none\n#SBATCH hetjob\n#SBATCH -n1 --vm-image=tiny\n./probe batch\n",
    ),
    ("het-silent", "#!/bin/sh\n#SBATCH -n1 --vm-image=tiny\n#SBATCH hetjob\n#SBATCH -n1\n./probe batch\n"),
    (
        "het-inside",
        "#!/bin/sh\n#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n1\n./probe batch\n\
         srun --het-group=0 --vm-image=tiny ./probe A : --het-group=1 --vm-image=none ./probe B\n",
    ),
];

fn het_steps(cluster: &Cluster) {
    go(
        cluster,
        &[
            runs("srun -n1 --vm-image=tiny ./probe A : -n1 --vm-image=none ./probe B", &["A tiny", "B host"]),
            runs("srun -n1 --vm-image=none ./probe A : -n1 --vm-image=tiny ./probe B", &["A host", "B tiny"]),
            runs("srun -n1 --vm-image=tiny ./probe A : -n1 --vm-image=tiny ./probe B", &["A tiny", "B tiny"]),
            runs(
                "srun -n1 --vm-image=none ./probe A : -n1 --vm-image=tiny ./probe B : -n1 --vm-image=none ./probe C",
                &["A host", "B tiny", "C host"],
            ),
            runs(
                "srun -n1 --vm-image=none ./probe A : -N1 -n2 --vm-image=tiny --vm-scope=node ./probe B",
                &["A host", "B tiny", "B tiny"],
            ),
            // Other options of one component must not apply to the other component.
            runs(
                "srun -n1 --vm-image=tiny --vms-per-slot=2 ./probe A : -n1 --vm-image=tiny ./probe B",
                &["A tiny", "A tiny", "B tiny"],
            ),
            runs(
                "srun -n1 --vm-image=tiny ./probe A : -n1 --vm-image=tiny --vms-per-slot=2 ./probe A",
                &["A tiny", "A tiny", "A tiny"],
            ),
            refused(
                "srun -n1 --vm-image=tiny ./probe A : -n1 ./probe B",
                &["component 1", "--vm-image=tiny", "--vm-image=none"],
            ),
            refused(
                "srun -n1 ./probe A : -n1 --vm-image=tiny ./probe B",
                &["component 0", "--vm-image=tiny", "--vm-image=none"],
            ),
            refused("srun -n1 --vm-image=tiny ./probe A : -n1 --vm-image=no-such ./probe B", &["no-such"]),
            refused("srun -n1 --vm-image=tiny : -n1 --vm-image=none ./probe B", &["component 0", "command"]),
            runs("SPANK_VM_IMAGE=tiny srun -n1 ./probe A : -n1 ./probe B", &["A tiny", "B tiny"]),
            runs("SPANK_VM_IMAGE=tiny srun -n1 ./probe A : -n1 --vm-image=none ./probe B", &["A tiny", "B host"]),
            runs("SPANK_VM_IMAGE=none srun -n1 ./probe A : -n1 --vm-image=tiny ./probe B", &["A host", "B tiny"]),
            runs("srun -n1 ./probe A : -n1 ./probe B", &["A host", "B host"]),
            // Inside an allocation: of a heterogeneous job, and of an ordinary one.
            runs("salloc -Q -n1 : -n1 srun --het-group=0,1 --vm-image=tiny ./probe A", &["A tiny", "A tiny"]),
            runs("salloc -Q -n1 : -n1 srun --het-group=1 --vm-image=tiny ./probe A", &["A tiny"]),
            runs(
                "salloc -Q -n1 : -n1 srun --het-group=0 --vm-image=tiny ./probe A : --het-group=1 --vm-image=none ./probe B",
                &["A tiny", "B host"],
            ),
            runs(
                "salloc -Q -n1 : -n1 srun --het-group=1 --vm-image=tiny ./probe A : --het-group=0 --vm-image=none ./probe B",
                &["A tiny", "B host"],
            ),
            runs(
                "salloc -Q -N2 srun -N1 -n1 --vm-image=tiny ./probe A : -N1 -n1 --vm-image=none ./probe B",
                &["A tiny", "B host"],
            ),
            runs(
                "srun -n1 --export=NONE --vm-image=tiny ./probe A : -n1 --export=NONE --vm-image=none ./probe B",
                &["A tiny", "B host"],
            ),
            // Slurm copies the file under the name that stands first in the hidden command line.
            refused("srun -n1 --bcast=/tmp/x --vm-image=tiny ./probe A : -n1 --vm-image=tiny ./probe B", &["--bcast"]),
        ],
    );
}

fn het_jobs(cluster: &Cluster) {
    let differ = &["component 0", "component 1", "--vm-image=tiny", "--vm-image=none"];
    let silent = &["component 1", "--vm-image=tiny"];
    go(
        cluster,
        &[
            refused("salloc -n1 --vm-image=tiny : -n1 --vm-image=none ./probe A", differ),
            refused("salloc -n1 --vm-image=tiny : -n1 ./probe A", silent),
            refused("salloc -n1 --vm-image=none : -n1 --vm-image=tiny ./probe A", differ),
            refused("salloc -n1 : -n1 --vm-image=tiny ./probe A", &["component 0", "no --vm-image"]),
            refused("SPANK_VM_IMAGE=tiny salloc -n1 --vm-image=none : -n1 ./probe A", differ),
            refused(
                "salloc -n1 --vm-image=tiny --vms-per-slot=2 : -n1 --vm-image=tiny ./probe A",
                &["--vms-per-slot=2", "no --vms-per-slot"],
            ),
            refused("sbatch -W -n1 --vm-image=tiny : -n1 --vm-image=none job", differ),
            refused("sbatch -W het-other", differ),
            refused("sbatch -W het-reverse", differ),
            refused("sbatch -W het-silent", silent),
            runs("sbatch -W het-same", &["batch tiny"]),
            runs("sbatch -W -n1 --vm-image=tiny : -n1 --vm-image=tiny job", &["batch tiny"]),
            runs("SPANK_VM_IMAGE=tiny sbatch -W -n1 : -n1 job", &["batch tiny"]),
            runs("sbatch -W het-inside", &["A tiny", "B host", "batch host"]),
            runs(
                "salloc -Q -n1 --vm-image=tiny : -n1 --vm-image=tiny srun --het-group=0,1 ./probe A",
                &["A tiny", "A tiny"],
            ),
        ],
    );
}

fn steps(cluster: &Cluster) {
    go(
        cluster,
        &[
            runs("srun --vm-image=tiny ./probe A", &["A tiny"]),
            runs("srun --vm-image=none --vm-image=tiny ./probe A", &["A tiny"]),
            runs("srun --vm-image=tiny --vm-image=none ./probe A", &["A host"]),
            runs("SPANK_VM_IMAGE=tiny srun ./probe A", &["A tiny"]),
            runs("SPANK_VM_IMAGE=tiny srun --vm-image=none ./probe A", &["A host"]),
            runs("SPANK_VM_IMAGE=none srun --vm-image=tiny ./probe A", &["A tiny"]),
            refused("SPANK_VM_IMAGE='(null)' srun ./probe A", &["--vm-image"]),
            refused("srun --vm-image= ./probe A", &["--vm-image"]),
            refused("srun --vm-image='(null)' ./probe A", &["--vm-image"]),
            runs("srun --export=NONE --vm-image=tiny ./probe A", &["A tiny"]),
            runs("srun -N1 -n2 --mem=900 --vm-image=tiny --vm-scope=node ./probe A", &["A tiny", "A tiny"]),
            runs("SPANK_VM_SCOPE=node srun -N1 -n2 --export=NONE --vm-image=tiny ./probe A", &["A tiny", "A tiny"]),
            runs("srun --export=NIL --vm-image=tiny ./probe A", &["A tiny"]),
            runs("srun --export=HOME,SPANK_VM_IMAGE=none --vm-image=tiny ./probe A", &["A tiny"]),
            runs("env -i PATH=\"$PATH\" SLURM_CONF=\"$SLURM_CONF\" srun --vm-image=tiny ./probe A", &["A tiny"]),
            runs("salloc -Q srun --vm-image=tiny ./probe A", &["A tiny"]),
            runs("salloc -Q --vm-image=tiny srun ./probe A", &["A tiny"]),
            runs("salloc -Q --vm-image=tiny srun --overlap ./probe A", &["A tiny"]),
            runs("salloc -Q --vm-image=tiny srun --vm-image=none ./probe A", &["A host"]),
            runs("SPANK_VM_IMAGE=tiny salloc -Q srun ./probe A", &["A tiny"]),
            runs("srun --interactive --vm-image=tiny ./probe A", &["A tiny"]),
            // Options of the command, not of srun's.
            runs("srun --vm-image=tiny ./probe A --bcast --het-group", &["A tiny"]),
            // A file that srun can read only once: the plugin cannot know what will be sent.
            refused("srun --vm-image=tiny --multi-prog /dev/fd/3 3<<END\n0 ./probe A\nEND", &["own command line"]),
            runs("salloc -Q --vm-image=tiny sh -c 'srun ./probe A; srun ./probe B'", &["A tiny", "B tiny"]),
            runs("SPANK_VM_IMAGE=none salloc -Q --vm-image=tiny srun ./probe A", &["A tiny"]),
            runs("salloc -Q sh -c 'srun --jobid=$SLURM_JOB_ID --vm-image=tiny ./probe A'", &["A tiny"]),
        ],
    );
    go(cluster, if release() < (23, 2) { EARLY_COPY } else { LATE_COPY });
    go(cluster, if release() < (23, 11) { EARLY_MULTI_PROG } else { LATE_MULTI_PROG });
}

/// From 23.02 on srun puts the name of the copy into the command line when the plugin has hidden the command.
const EARLY_COPY: &[Way] = &[runs("srun --bcast=$PWD/copy --vm-image=tiny ./probe A", &["A tiny"])];
const LATE_COPY: &[Way] = &[
    refused("srun --bcast=$PWD/copy --vm-image=tiny ./probe A", &["--bcast"]),
    refused("SLURM_BCAST=$PWD/copy srun --vm-image=tiny ./probe A", &["--bcast"]),
    runs("srun --bcast=$PWD/copy --vm-image=none ./probe A", &["A host"]),
];

/// Before 23.11 a plugin has no way into the command lines of such tasks.
const EARLY_MULTI_PROG: &[Way] = &[
    refused("echo '0 ./probe A' >m; srun --vm-image=tiny --multi-prog m", &["--multi-prog"]),
    refused("echo '0 ./probe A' >m; SPANK_VM_IMAGE=tiny srun --multi-prog ./m", &["--multi-prog"]),
];
const LATE_MULTI_PROG: &[Way] = &[
    runs("echo '0 ./probe A\n1 ./probe B' >m; srun -n2 --vm-image=tiny --multi-prog m", &["A tiny", "B tiny"]),
    runs("echo '0 ./probe A' >m; SPANK_VM_IMAGE=tiny srun --multi-prog ./m", &["A tiny"]),
    runs("echo '0 ./probe A' >m; srun --vm-image=none --multi-prog m", &["A host"]),
];

/// Year and month of the Slurm that is tested.
fn release() -> (u32, u32) {
    let version = Command::new("slurmctld").arg("-V").output().unwrap().stdout;
    let version = String::from_utf8(version).unwrap();
    let mut numbers = version.split_whitespace().last().unwrap().split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn jobs(cluster: &Cluster) {
    go_at_once(
        cluster,
        &[
            runs("sbatch -W --vm-image=tiny job", &["batch tiny"]),
            runs("SPANK_VM_IMAGE=tiny sbatch -W job", &["batch tiny"]),
            runs("SPANK_VM_IMAGE=none sbatch -W --vm-image=tiny job", &["batch tiny"]),
            runs("sbatch -W --vm-image=tiny --wrap='./probe wrapped'", &["wrapped tiny"]),
            runs("sbatch -W --vm-image=tiny --export=NONE job", &["batch tiny"]),
            runs("sbatch -W --vm-image=tiny --export=NIL job", &["batch tiny"]),
            runs("sbatch -W --vm-image=tiny --export=HOME job", &["batch tiny"]),
            runs("printf 'A=1\\0' >e; sbatch -W --vm-image=tiny --export-file=e job", &["batch tiny"]),
            runs("printf 'A=1\\0' >e; sbatch -W --vm-image=tiny --export-file=e --export=NONE job", &["batch tiny"]),
            runs("sbatch -W --vm-image=tiny --array=0-1 job", &["batch tiny", "batch tiny"]),
            runs("echo '#!/bin/sh\n./probe stdin' | sbatch -W --vm-image=tiny", &["stdin tiny"]),
            runs("env -i PATH=\"$PATH\" SLURM_CONF=\"$SLURM_CONF\" sbatch -W --vm-image=tiny job", &["batch tiny"]),
            // A job that waits in the queue, is requeued and started again still has its options. While Slurm still ends
            // the first run it forgets a start time, and would wait for two minutes; and what it hears late of that run can
            // end the second.
            runs(
                "j=$(sbatch --parsable --vm-image=tiny --wrap='./probe again; [ $(wc -l <ran) -gt 1 ] || sleep 600'); \
                 until [ -s ran ]; do sleep 0.2; done; scontrol requeue $j; \
                 i=0; until [ $(wc -l <ran) -gt 1 ]; do sleep 2; [ \"$(squeue -h -j $j -o %T)\" != PENDING ] || scontrol update job=$j StartTime=now; \
                 i=$((i+1)); [ $i -lt 90 ] || { cat slurm-$j.out; exit 1; }; done; while squeue -h -j $j | grep -q .; do sleep 0.2; done",
                &["again tiny", "again tiny"],
            ),
        ],
    );
}

/// The shell that salloc starts on a node, where it is set up to do so, and steps in it.
fn shells(cluster: &Cluster) {
    go(
        cluster,
        &[
            runs(shell_of_salloc!("--vm-image=tiny"), &["shell host", "step tiny"]),
            runs(shell_of_salloc!("--vm-image=none"), &["shell host", "step host"]),
            runs(shell_of_salloc!("--vm-image=tiny --vms-per-slot=2"), &["shell host", "step tiny", "step tiny"]),
            runs("salloc -Q --vm-image=tiny srun --interactive --vm-image=tiny ./probe A", &["A tiny"]),
            runs("salloc -Q --vm-image=tiny srun -n1 --interactive ./probe A", &["A host"]),
        ],
    );
    // Debian's older package has no scrontab.
    if release() >= (24, 5) {
        let typed = "{ cat $SLURM_CONF; echo ScronParameters=enable; } >slurm.conf; export SLURM_CONF=$PWD/slurm.conf; \
                     printf '#SCRON --vm-image=tiny\n@yearly ./probe A\n' >tab; scrontab tab";
        go(cluster, &[refused(typed, &["scrontab", "srun --vm-image"])]);
    }
}

fn losses(cluster: &Cluster) {
    go(
        cluster,
        &[
            // The variables in which Slurm carries the option, set to contradict it.
            never_on_host("srun --vm-image=tiny --export=_SLURM_SPANK_OPTION_spank_vm_vm_image=none,HOME ./probe A"),
            never_on_host("sbatch -W --vm-image=tiny --export=_SLURM_SPANK_OPTION_spank_vm_vm_image=none job"),
            runs("_SLURM_SPANK_OPTION_spank_vm_vm_image=none srun --vm-image=tiny ./probe A", &["A tiny"]),
            // The variable by which salloc passes the option to steps, removed.
            refused(
                "salloc -Q --vm-image=tiny sh -c 'unset SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image; srun ./probe A'",
                &["--vm-image=tiny", "--vm-image=none"],
            ),
            refused(
                "salloc -Q --vm-image=tiny -n1 : -n1 --vm-image=tiny sh -c \
                 'unset SLURM_SPANK__SLURM_SPANK_OPTION_spank_vm_vm_image; srun --het-group=0,1 ./probe A'",
                &["--vm-image=tiny", "--vm-image=none"],
            ),
            runs("salloc -Q --vm-image=tiny salloc -Q --vm-image=none srun ./probe A", &["A host"]),
            // Changes of the environment on the node come after the command line was replaced.
            refused("srun --vm-image=tiny --task-prolog=$PWD/prolog ./probe A", &["SPANK_VM_REQUEST is not set"]),
        ],
    );
}

fn nodes_without_plugin(cluster: &Cluster) {
    let file = cluster.dir.join("plugstack.conf");
    let _mode = with_mode(&file, 0o666);
    for (typed, ran) in [
        ("srun --prolog=./lose --vm-image=tiny ./probe A", &[][..]),
        ("srun --prolog=./lose -n1 --vm-image=tiny ./probe A : -n1 --vm-image=tiny ./probe B", &[]),
        ("srun --prolog=./lose -n1 --vm-image=tiny ./probe A : -n1 --vm-image=none ./probe B", &["B host"]),
        ("srun --prolog=./lose -n1 --vm-image=none ./probe A : -n1 --vm-image=tiny ./probe B", &["A host"]),
        ("salloc -Q -n1 : -n1 srun --prolog=./lose --het-group=0,1 --vm-image=tiny ./probe A", &[]),
        ("salloc -Q -N2 srun --prolog=./lose -N1 --vm-image=tiny ./probe A : -N1 --vm-image=tiny ./probe B", &[]),
        ("echo '0 ./probe A' >m; srun --prolog=./lose --vm-image=tiny --multi-prog m", &[]),
    ] {
        let dir = prepared(cluster);
        script(&dir, "lose", &format!("#!/bin/sh\n: >{}\n", file.display()));
        let line = unchanged(&file);
        let ended = cluster.run_in(&dir, &["sh", "-c", typed]);
        drop(line);
        assert_eq!(what_ran(&dir), ran, "{typed}: {ended:?}");
        assert!(ended.code != 0, "{typed}: {ended:?}");
    }
}

/// Tries every way and reports all failures together.
fn go(cluster: &Cluster, ways: &[Way]) {
    report(ways, ways.iter().filter_map(|way| tried(cluster, way).err()).collect());
}

/// The same for ways that mostly wait: `sbatch -W` asks for the job's end only every few seconds.
fn go_at_once(cluster: &Cluster, ways: &[Way]) {
    // As many as there are nodes: a job without --mem has a node for itself.
    let each = ways.len().div_ceil(cluster.nodes().len());
    let try_all = |ways: &[Way]| ways.iter().filter_map(|way| tried(cluster, way).err()).collect::<Vec<_>>();
    let wrong = thread::scope(|scope| {
        let parts: Vec<_> = ways.chunks(each).map(|part| scope.spawn(move || try_all(part))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("no way panics")).collect()
    });
    report(ways, wrong);
}

fn report(ways: &[Way], wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} of {} ways:\n{}", wrong.len(), ways.len(), wrong.join("\n"));
}

fn tried(cluster: &Cluster, way: &Way) -> Result<(), String> {
    let dir = prepared(cluster);
    let ended = cluster.run_in(&dir, &["sh", "-c", way.typed]);
    let ran = what_ran(&dir);
    if way.ran == ["..."] {
        let on_host = ran.iter().any(|line| line.ends_with(" host"));
        return if on_host { Err(format!("  {}\n    ran: {ran:?}", way.typed)) } else { Ok(()) };
    }
    if ran != way.ran {
        return Err(format!("  {}\n    ran: {ran:?}, not {:?}\n    {ended:?}", way.typed, way.ran));
    }
    let said = if way.says.is_empty() { ended.code == 0 } else { refused_with(&ended, way.says) };
    if said { Ok(()) } else { Err(format!("  {}\n    said: {ended:?}", way.typed)) }
}

/// Whether it failed with one line of ours that contains all words.
fn refused_with(ended: &Ran, words: &[&str]) -> bool {
    let lines: Vec<&str> =
        ended.stderr.lines().filter(|line| line.contains("error: vm: ") || line.starts_with("vm: error: ")).collect();
    ended.code != 0 && lines.len() == 1 && words.iter().all(|word| lines[0].contains(word))
}

/// A new directory of the user with the scripts.
fn prepared(cluster: &Cluster) -> std::path::PathBuf {
    let dir = cluster.work_dir();
    for (name, text) in SCRIPTS {
        script(&dir, name, text);
    }
    script(
        &dir,
        "prolog",
        "#!/bin/sh\nfor v in $(env | sed -n 's/^\\([A-Z_]*SPANK[A-Za-z_]*\\)=.*/\\1/p'); do echo \"unset $v\"; done\n",
    );
    let owned = Command::new("chown").arg("-R").arg(&cluster.user).arg(&dir).status().unwrap();
    assert!(owned.success());
    dir
}

fn script(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

fn what_ran(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("ran")).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
