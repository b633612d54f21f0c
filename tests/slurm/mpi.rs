//! MPI programs within one VM. Between VMs there is no way yet, and Slurm's interfaces are refused.

use testkit::Cluster;

use crate::Case;

pub const CASES: &[Case] = &[("an_mpi_interface_that_vms_do_not_have_is_refused_and_none_is_not", interfaces)];

pub const LONG_CASES: &[Case] = &[("mpirun_of_open_mpi_and_of_mpich_starts_its_processes_in_the_vm", mpirun)];

fn interfaces(cluster: &Cluster) {
    // Where Slurm has no plugin for pmix, it refuses that itself.
    let refusal = ["--mpi=pmi2 with --vm-image", "--mpi=none", "docs/environment.md"];
    cluster.run(&["env", "SLURM_MPI_TYPE=pmi2", "srun", "--vm-image=tiny", "true"]).fails_with_one_line(&refusal);
    let refusal = ["--mpi=pmi2 with --vm-image", "--mpi=none"];
    cluster.srun(&["--vm-image=tiny", "--mpi=pmi2", "true"]).fails_with_one_line(&refusal);
    cluster.srun(&["--mpi=pmi2", "--vm-image=none", "true"]).ok();
    // The same words behind the command are the command's.
    let stdout = cluster.srun(&["--vm-image=tiny", "--mpi=none", "echo", "--mpi=pmi2"]).ok();
    assert_eq!(stdout, "--mpi=pmi2\n");
}

fn mpirun(cluster: &Cluster) {
    let program = "from mpi4py import MPI; c = MPI.COMM_WORLD; print(c.allreduce(c.rank + 1), c.size)";
    let step = ["-Q", "-c2", "--mem=1500", "--vm-image=debian12-mpi"];
    let open_mpi = ["mpirun.openmpi", "-n", "2", "python3", "-c", program];
    assert_eq!(cluster.srun(&[&step[..], &open_mpi].concat()).ok(), "3 2\n3 2\n");
    // A program of MPICH that fails if it cannot start: it prints what MPI_Init has set up.
    let mpich = ["sh", "-c", "mpirun.mpich -n 2 mpivars > out && grep -c 'MPI Control Variables' out"];
    assert_eq!(cluster.srun(&[&step[..], &mpich].concat()).ok(), "2\n");
}
