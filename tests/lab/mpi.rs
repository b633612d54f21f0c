//! Slurm's interfaces for MPI in VMs, with what each release of Slurm has.

use testkit::lab::Lab;
use testkit::place::repository;
use testkit::system;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("pmi_lets_tasks_in_vms_find_each_other_through_both_of_its_wires", pmi),
    case("pmix_starts_a_program_of_open_mpi_in_a_vm_where_the_node_s_slurm_has_it", pmix).nightly(),
];

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn pmi(lab: &Lab) {
    // The nodes have no compiler.
    let made = system(&["mktemp", "-d", "/tmp/spank-vm-pmi.XXXXXX"]);
    let dir = made.trim();
    let source = repository().join("tests/slurm/pmi.c");
    system(&["cc", "-O1", "-static", "-s", "-o", &format!("{dir}/pmi"), source.to_str().unwrap()]);
    let text = system(&["sh", "-c", &format!("gzip -9 <{dir}/pmi | base64")]);
    system(&["rm", "-r", dir]);
    lab.sh("ada", &format!("base64 -d <<'END' | gunzip >pmi\n{text}END\nchmod 755 pmi")).ok();
    let expected: Vec<String> = (0..2).map(|rank| format!("rank {rank} of 2: sum 1, 912 bytes")).collect();
    for wire in [1, 2] {
        for image in ["none", "tiny"] {
            let step = format!("srun -Q -n2 --mem=900 --mpi=pmi2 -K1 --vm-image={image} ./pmi {wire}");
            assert_eq!(sorted(&lab.sh("ada", &step).ok()), expected, "{step}");
        }
    }
    lab.sh("ada", "rm pmi").ok();
}

fn pmix(lab: &Lab) {
    let has_it = lab.sh("ada", "srun --mpi=list 2>&1 | grep -v error | grep -w pmix").code == 0;
    let halo = std::fs::read_to_string(repository().join("tests/slurm/halo.py")).unwrap();
    lab.sh("ada", &format!("cat >halo.py <<'END'\n{halo}END")).ok();
    let step = "srun -Q -n2 --mem=1500 --mpi=pmix -K1 --vm-image=debian12-mpi --vm-scope=node python3 halo.py openmpi";
    let ran = lab.sh("ada", step);
    if has_it {
        let serial = system(&["python3", repository().join("tests/slurm/halo.py").to_str().unwrap(), "serial"]);
        let sum = serial.trim().strip_prefix("1 ").expect("one rank");
        assert_eq!(ran.ok(), format!("2 {sum}\n").repeat(2));
    } else {
        // srun has no such type, and says so.
        assert!(ran.code != 0 && ran.stdout.is_empty(), "{ran:?}");
    }
    lab.sh("ada", "rm halo.py").ok();
}
