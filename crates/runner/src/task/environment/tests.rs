//! What becomes of a task's variables.

use super::*;
use crate::shares::Share;
use request::{VmEnv, VmOption};

fn guest_of(env: &[(&str, &str)], wanted: &str, shared: &[&str]) -> Vec<String> {
    let env: Vec<Variable> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let wanted = if wanted.is_empty() { Vec::new() } else { VmEnv::parse(wanted).unwrap() };
    let share = |path: &&str| {
        let (source, target) = (path.into(), path.into());
        Share { source, target, read_only: false, is_file: false }
    };
    let shares: Vec<Share> = shared.iter().map(share).collect();
    let seen = View { shares: &shares, aliases: &[] };
    let pairs = for_guest(&env, &wanted, Surroundings { seen, processors: 4, has_pmi: false, pmix: None });
    pairs.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect()
}

/// The same without what is always added.
fn guest(env: &[(&str, &str)], wanted: &str, shared: &[&str]) -> Vec<String> {
    let added: Vec<String> = LAUNCHERS.iter().map(|(name, value)| format!("{name}={value}")).collect();
    guest_of(env, wanted, shared).into_iter().filter(|pair| !added.contains(pair)).collect()
}

#[test]
fn only_what_belongs_to_the_host_is_lost() {
    let env = [
        ("SLURM_JOB_ID", "7"),
        ("SPANK_VM_REQUEST", "secret"),
        ("XDG_RUNTIME_DIR", "/run/user/1"),
        ("DISPLAY", "localhost:10.0"),
        ("DISPLAY_NAME", "Ada"),
        ("PYTHONPATH", "/usr/lib"),
    ];
    assert_eq!(guest(&env, "", &[]), ["SLURM_JOB_ID=7", "DISPLAY_NAME=Ada", "PYTHONPATH=/usr/lib"]);
}

#[test]
fn the_way_to_srun_does_not_lead_out_of_a_vm() {
    let env = [
        ("PMI_FD", "9"),
        ("PMI_RANK", "1"),
        ("PMIX_RANK", "1"),
        ("PMIX_SERVER_URI41", "pmix-server.1;tcp4://127.0.0.1:4000"),
        ("SLURM_PMIX_MAPPING_SERV", "(vector,(0,1,2))"),
        ("SLURM_SRUN_COMM_HOST", "10.0.0.1"),
        ("SLURM_SRUN_COMM_PORT", "4001"),
        ("SLURM_STEP_LAUNCHER_PORT", "4001"),
        ("SLURM_PROCID", "1"),
        ("SLURM_MPI_TYPE", "pmix"),
    ];
    assert_eq!(guest(&env, "", &[]), ["SLURM_PROCID=1", "SLURM_MPI_TYPE=pmix"]);
    // The socket to slurmstepd is in the VM too.
    let env: Vec<Variable> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let kept = for_guest(&env, &[], Surroundings { seen: View::default(), processors: 4, has_pmi: true, pmix: None });
    let pmi: Vec<_> =
        kept.iter().filter_map(|(name, _)| name.to_str().filter(|name| name.starts_with("PMI"))).collect();
    assert_eq!(pmi, ["PMI_FD", "PMI_RANK"]);
}

#[test]
fn processors_are_named_only_if_the_vm_has_them() {
    let env = [
        ("SLURM_CPU_BIND_LIST", "0x30"),
        ("SLURM_MEM_BIND", "local"),
        ("GOMP_CPU_AFFINITY", "12-15"),
        ("OMP_PLACES", "cores"),
        ("KMP_AFFINITY", "granularity=fine,compact,1,0"),
        ("OMP_NUM_THREADS", "64"),
    ];
    let kept = ["OMP_PLACES=cores", "KMP_AFFINITY=granularity=fine,compact,1,0", "OMP_NUM_THREADS=64"];
    assert_eq!(guest(&env, "", &[]), kept);
    assert_eq!(guest(&[("GOMP_CPU_AFFINITY", "0-3")], "", &[]), ["GOMP_CPU_AFFINITY=0-3"]);
}

#[test]
fn a_credential_is_named_if_its_file_is_there() {
    for kept in ["FILE:/home/ada/cc", "/home/ada/cc", "DIR:/home/ada/cc", "DIR::/home/ada/cc/tkt"] {
        assert_eq!(guest(&[("KRB5CCNAME", kept)], "", &["/home/ada"]), [format!("KRB5CCNAME={kept}")]);
    }
    for lost in ["FILE:/tmp/krb5cc_1000", "KEYRING:persistent:1000", "KCM:", "MEMORY:x", ""] {
        assert_eq!(guest(&[("KRB5CCNAME", lost)], "", &["/home/ada"]), [""; 0], "{lost}");
    }
}

#[test]
fn mpirun_starts_its_processes_here_unless_the_user_says_otherwise() {
    let all = guest_of(&[("SLURM_JOB_ID", "7")], "", &[]);
    assert!(all.contains(&"OMPI_MCA_plm=^slurm".to_owned()) && all.contains(&"HYDRA_LAUNCHER=fork".to_owned()));
    let own = guest_of(&[("OMPI_MCA_plm", "rsh")], "HYDRA_LAUNCHER=ssh,HYDRA_RMK", &[]);
    let of = |name: &str| own.iter().filter(|pair| pair.starts_with(name)).cloned().collect::<Vec<_>>();
    assert_eq!(of("OMPI_MCA_plm"), ["OMPI_MCA_plm=rsh"]);
    assert_eq!(of("HYDRA_"), ["HYDRA_LAUNCHER=ssh"], "and NAME of a variable that is not set takes it away");
}

#[test]
fn a_temporary_directory_is_one_that_the_guest_has() {
    assert_eq!(guest(&[("TMPDIR", "/scratch/7")], "", &[]), ["TMPDIR=/tmp"]);
    assert_eq!(guest(&[("TMPDIR", "/scratch/7")], "", &["/scratch"]), ["TMPDIR=/scratch/7"]);
    assert_eq!(guest(&[("TMP", "/var/tmp")], "", &[]), ["TMP=/var/tmp"]);
}

#[test]
fn the_image_s_programs_are_found_after_those_of_the_user() {
    assert_eq!(guest(&[("PATH", "/opt/x/bin:/bin")], "", &[]), ["PATH=/opt/x/bin:/bin:/usr/local/bin:/usr/bin"]);
    let usual = "/usr/local/bin:/usr/bin:/bin:/usr/games";
    assert_eq!(guest(&[("PATH", usual)], "", &[]), [format!("PATH={usual}")]);
}

#[test]
fn libraries_of_the_host_alone_are_not_loaded() {
    assert_eq!(guest(&[("LD_LIBRARY_PATH", "/usr/lib:/none/x:/tmp")], "", &["/tmp"]), ["LD_LIBRARY_PATH=/none/x:/tmp"]);
    assert_eq!(guest(&[("LD_LIBRARY_PATH", "/usr/lib:")], "", &[]), [""; 0]);
    assert_eq!(guest(&[("LD_PRELOAD", "libm.so.6 /usr/lib")], "", &[]), ["LD_PRELOAD=libm.so.6"]);
    assert_eq!(guest(&[("LD_PRELOAD", "/none/lib.so")], "", &[]), ["LD_PRELOAD=/none/lib.so"]);
}

#[test]
fn what_the_user_asks_for_is_passed_whatever_the_rules_say() {
    let env = [("XDG_RUNTIME_DIR", "/run/user/1"), ("TMPDIR", "/scratch"), ("A", "1")];
    let wanted = "A=0,XDG_RUNTIME_DIR,TMPDIR,A=2,MISSING,EMPTY=";
    assert_eq!(guest(&env, wanted, &[]), ["XDG_RUNTIME_DIR=/run/user/1", "TMPDIR=/scratch", "A=2", "EMPTY="]);
}

#[test]
fn the_way_to_slurm_s_pmix_server_is_at_another_address_in_the_guest() {
    let env = [
        ("PMIX_NAMESPACE", "slurm.pmix.7.0"),
        ("PMIX_SERVER_URI41", "slurm.pmix.7.0.0;tcp4://127.0.0.1:4000"),
        ("PMIX_SERVER_URI3", "no address"),
        ("PMIX_GDS_MODULE", "ds21,ds12,hash"),
        ("PMIX_SECURITY_MODE", "munge,native"),
        ("PMIX_SERVER_TMPDIR", "/var/spool/slurmd/pmix.7.0"),
        ("PMIX_DSTORE_21_BASE_PATH", "/var/spool/slurmd/pmix.7.0/ds21"),
        ("PMI_FD", "9"),
    ];
    let env: Vec<Variable> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let address = "127.80.0.1:4000".parse().unwrap();
    let seen = |is_shared| {
        let pmix = Some(Server { address, is_shared });
        let kept = for_guest(&env, &[], Surroundings { seen: View::default(), processors: 4, has_pmi: false, pmix });
        let pairs = kept.iter().map(|(name, value)| format!("{}={}", name.display(), value.display()));
        pairs.filter(|pair| pair.starts_with("PMI") || pair.contains("_btl")).collect::<Vec<_>>()
    };
    let shared = [
        "PMIX_NAMESPACE=slurm.pmix.7.0",
        "PMIX_SERVER_URI41=slurm.pmix.7.0.0;tcp4://127.80.0.1:4000",
        "PMIX_GDS_MODULE=hash",
        "PMIX_SECURITY_MODE=native",
    ];
    assert_eq!(seen(true), shared);
    assert_eq!(seen(false), [&shared[..], &["OMPI_MCA_btl=self,tcp"]].concat());
}
