//! Batch jobs whose script runs inside a VM.

use std::fs;

use testkit::Cluster;
use testkit::place::repository;

use crate::Case;

pub const CASES: &[Case] = &[
    ("a_job_array_computes_in_four_vms_and_each_writes_its_result", array),
    ("an_sbatch_directive_chooses_the_image_and_the_script_gets_its_arguments", directive),
    ("sbatch_with_export_none_still_runs_in_the_vm", export_none),
    ("the_sample_job_runs_in_one_vm_as_it_says", sample_job),
    ("a_wrapped_command_runs_in_the_vm", wrap),
    ("a_batch_job_s_exit_code_is_the_script_s", exit_code),
];

/// Counts the primes below N with the tools of the image: 168 below 1000, 303 below 2000, …
const COUNT_PRIMES: &str = r#"#!/bin/bash
limit=$(( (SLURM_ARRAY_TASK_ID + 1) * 1000 ))
count=0
for (( n = 2; n < limit; n++ )); do
    prime=1
    for (( d = 2; d * d <= n; d++ )); do
        if (( n % d == 0 )); then prime=0; break; fi
    done
    (( count += prime ))
done
. /etc/os-release
echo "$VERSION_CODENAME $limit $count $(printf abc | sha256sum | cut -c1-16)" > "result-$SLURM_ARRAY_TASK_ID"
"#;

fn array(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("job.sh"), COUNT_PRIMES).unwrap();
    let submit = ["sbatch", "--wait", "--mem=600", "--vm-image=debian12", "--array=0-3", "-o", "out-%A_%a", "job.sh"];
    let ran = cluster.run_in(&dir, &submit);
    assert_eq!(ran.code, 0, "{ran:?} {:?}", outputs(&dir));
    for (element, primes) in [168, 303, 430, 550].into_iter().enumerate() {
        let limit = (element + 1) * 1000;
        let result = fs::read_to_string(dir.join(format!("result-{element}"))).unwrap();
        // FIPS 180: the digest of "abc" begins with ba7816bf8f01cfea.
        assert_eq!(result, format!("bookworm {limit} {primes} ba7816bf8f01cfea\n"));
    }
}

fn directive(cluster: &Cluster) {
    let dir = cluster.work_dir();
    let script = "#!/bin/sh\n#SBATCH --vm-image=tiny\n. /etc/os-release\necho \"$ID $# $1|$2\"\ncat <<END\nhere\nEND\n";
    fs::write(dir.join("job.sh"), script).unwrap();
    cluster.run_in(&dir, &["sbatch", "--wait", "-o", "out", "job.sh", "a b", "c"]).ok();
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "tiny 2 a b|c\nhere\n");
}

fn export_none(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("job.sh"), "#!/bin/sh\n. /etc/os-release\necho $ID\n").unwrap();
    cluster.run_in(&dir, &["sbatch", "--wait", "--export=NONE", "--vm-image=tiny", "-o", "out", "job.sh"]).ok();
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "tiny\n");
}

fn sample_job(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::copy(repository().join("slurm-conf/example-job.sh"), dir.join("job.sh")).unwrap();
    cluster.run_in(&dir, &["sbatch", "--wait", "job.sh"]).ok();
    let out = fs::read_dir(&dir)
        .unwrap()
        .flatten()
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|end| end == "out"));
    let text = fs::read_to_string(out.expect("its output has the name that it chose")).unwrap();
    assert!(text.starts_with("The script runs on Debian GNU/Linux 12"), "{text}");
    assert!(text.contains("with 2 processors.") && text.ends_with("\n2147483647 is prime\n"), "{text}");
}

fn wrap(cluster: &Cluster) {
    let dir = cluster.work_dir();
    cluster
        .run_in(&dir, &["sbatch", "--wait", "--vm-image=tiny", "-o", "out", "--wrap", ". /etc/os-release; echo $ID"])
        .ok();
    assert_eq!(fs::read_to_string(dir.join("out")).unwrap(), "tiny\n");
}

fn exit_code(cluster: &Cluster) {
    let dir = cluster.work_dir();
    fs::write(dir.join("job.sh"), "#!/bin/sh\nexit 9\n").unwrap();
    let ran = cluster.run_in(&dir, &["sbatch", "--wait", "--vm-image=tiny", "-o", "out", "job.sh"]);
    assert_eq!(ran.code, 9, "{ran:?}");
}

fn outputs(dir: &std::path::Path) -> Vec<String> {
    let files = fs::read_dir(dir).unwrap().flatten().filter(|f| f.file_name().to_string_lossy().starts_with("out"));
    files.map(|f| fs::read_to_string(f.path()).unwrap_or_default()).collect()
}
