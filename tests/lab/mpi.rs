//! Slurm's interfaces for MPI in VMs, with what each release of Slurm has.

use testkit::lab::Lab;
use testkit::place::repository;
use testkit::system;

use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("pmi_lets_tasks_in_vms_find_each_other_through_both_of_its_wires", pmi),
    case("pmix_starts_a_program_of_open_mpi_in_a_vm_where_the_node_s_slurm_has_it", pmix).nightly(),
];

/// For a cluster of two nodes, which have no directory in common.
pub const ON_TWO: &[Case] = &[
    case("pmi_lets_tasks_in_vms_of_two_kernels_find_each_other", |lab| {
        exchange(lab, "-N2 -n4 --mem=900 --vm-scope=slot", 4);
    })
    .nightly(),
    case("open_mpi_has_the_answer_of_bare_metal_across_two_kernels_with_a_vm_for_each_node_and_for_each_task", across)
        .nightly(),
];

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn pmi(lab: &Lab) {
    exchange(lab, "-n2 --mem=900", 2);
}

/// The program `pmi` of so many ranks, bare and in VMs, with both wires.
fn exchange(lab: &Lab, options: &str, ranks: u32) {
    // The nodes have no compiler.
    let made = system(&["mktemp", "-d", "/tmp/spank-vm-pmi.XXXXXX"]);
    let dir = made.trim();
    let source = repository().join("tests/slurm/pmi.c");
    system(&["cc", "-O1", "-static", "-s", "-o", &format!("{dir}/pmi"), source.to_str().unwrap()]);
    let text = system(&["sh", "-c", &format!("gzip -9 <{dir}/pmi | base64")]);
    system(&["rm", "-r", dir]);
    on_all(lab, &format!("base64 -d <<'END' | gunzip >pmi\n{text}END\nchmod 755 pmi"));
    let (sum, bytes) = (ranks * (ranks - 1) / 2, ranks * 456);
    let expected: Vec<String> =
        (0..ranks).map(|rank| format!("rank {rank} of {ranks}: sum {sum}, {bytes} bytes")).collect();
    for wire in [1, 2] {
        for image in ["none", "tiny"] {
            // Without an image there is no scope.
            let options = if image == "none" { options.replace(" --vm-scope=slot", "") } else { options.to_owned() };
            let step = format!("srun -Q {options} --mpi=pmi2 -K1 --vm-image={image} ./pmi {wire}");
            assert_eq!(sorted(&lab.sh("ada", &step).ok()), expected, "{step}");
        }
    }
    on_all(lab, "rm pmi");
}

/// A script of ada's on each node.
fn on_all(lab: &Lab, script: &str) {
    (1..=lab.nodes()).for_each(|node| drop(lab.sh_on(node, "ada", script).ok()));
}

/// The program's directory is on both nodes; Open MPI's temporary files are in each VM's own `/tmp`.
fn across(lab: &Lab) {
    let halo = repository().join("tests/slurm/halo.py");
    on_all(lab, &format!("cat >halo.py <<'END'\n{}END", std::fs::read_to_string(&halo).unwrap()));
    let serial = system(&["python3", halo.to_str().unwrap(), "serial"]);
    let expected = format!("4 {}\n", serial.trim().strip_prefix("1 ").expect("one rank")).repeat(4);
    for scope in ["node", "slot"] {
        let step = format!(
            "srun -Q -N2 -n4 -t3 --mem=1500 --mpi=pmix -K1 --vm-net=job --vm-image=debian12-mpi --vm-scope={scope} \
             python3 halo.py openmpi"
        );
        assert_eq!(lab.sh("ada", &step).ok(), expected, "{step}");
    }
    on_all(lab, "rm halo.py");
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
