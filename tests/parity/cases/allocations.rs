//! Allocations of all shapes, and srun's less common options.

use super::{Case, differs, same};

pub const CASES: &[Case] = &[
    same(
        "allocations",
        "steps in salloc, one after the other and at once",
        "salloc -Q $VM bash -c 'srun echo one; srun --overlap echo two; srun --overlap echo three > a & srun --overlap echo four > b; \
         wait; cat a b'",
    ),
    same(
        "allocations",
        "exit codes of a step and of salloc",
        "salloc -Q $VM bash -c 'srun sh -c \"exit 3\"; echo $?; exit 4'",
    ),
    same(
        "allocations",
        "salloc --no-shell and a step from elsewhere",
        "salloc -Q $VM --no-shell -J later; id=$(job later); srun --jobid=$id ${VM#--mem=1200} echo there; scancel $id",
    ),
    same(
        "allocations",
        "a second step beside a running one, by --jobid and --overlap",
        "srun $VM -J shared sh -c ': > started; until [ -e go ]; do sleep 0.1; done; echo first' & until_file started; \
         srun --overlap --jobid=$(job shared) ${VM#--mem=1200} --mem=300 echo second; : > go; wait",
    ),
    same(
        "allocations",
        "sattach shows a step's output",
        "srun $VM -J seen sh -c ': > started; until [ -e go ]; do echo early; sleep 0.1; done; echo shown; sleep 1' > own & \
         until_file started; : > attached; sattach $(job seen).0 > attached 2> err & until_said early grep -om1 early attached > told; \
         : > go; wait; tail -n 1 own; tail -n 1 attached",
    ),
    same(
        "allocations",
        "variables of a heterogeneous step",
        "srun $VM -n1 env : $VM -n1 env | grep -E '^SLURM_(HET|NTASKS|NPROCS|PROCID|STEP_NUM)' | grep -vE 'JOB_?ID' | sort",
    ),
    same(
        "allocations",
        "a heterogeneous job of sbatch and a step in each component",
        "printf '#!/bin/sh\\necho $SLURM_HET_SIZE $SLURM_NTASKS\\n' > j; \
         sbatch -Q --wait -o out -n1 $VM : -n1 $VM j > /dev/null; echo $?; cat out",
    ),
    same(
        "allocations",
        "--het-group",
        "salloc -Q -n1 $VM : -n1 $VM bash -c 'srun --het-group=1 sh -c \"echo \\$SLURM_PROCID of \\$SLURM_NTASKS\"; \
         srun --het-group=0,1 sh -c \"echo \\$SLURM_PROCID\" | sort; env | grep ^SLURM_HET_SIZE'",
    ),
    same("allocations", "--overcommit", "srun ${VM/1200/2400} -N1 -n4 --overcommit sh -c 'echo $SLURM_PROCID' | sort"),
    same(
        "allocations",
        "--mem=0 gives all memory of the node",
        "srun $VM --mem=0 sh -c '[ $(awk \"/^MemTotal/ { print \\$2 }\" /proc/meminfo) -gt 2500000 ] && echo all'",
    ),
    same("allocations", "--mem-per-cpu", "srun ${VM/--mem/--mem-per-cpu} -c2 nproc"),
    same("allocations", "--gres that the site does not have", "srun $VM --gres=gpu:1 true"),
    same("allocations", "--x11 where the site does not forward it", "DISPLAY=:1 srun $VM --x11 true"),
    same(
        "allocations",
        "--input=1 of two tasks",
        "echo once | srun $VM -n2 --input=1 sh -c 'echo $SLURM_PROCID $(cat)' | sort",
    ),
    same(
        "allocations",
        "--open-mode=append and truncate",
        "echo old > a; cp a t; srun $VM --open-mode=append -o a echo new; srun $VM --open-mode=truncate -o t echo new; cat a; cat t",
    ),
    same(
        "allocations",
        "sbatch --export-file",
        "printf 'A=from a file\\0PATH=/usr/bin:/bin\\0' > e; B=lost sbatch -Q --wait $VM --export-file=e -o out \
         --wrap 'echo $A ${B-unset}' > /dev/null; cat out",
    ),
    same(
        "allocations",
        "an array of which one at a time may run",
        "sbatch -Q --wait $VM -a 0-2%1 -o out --open-mode=append --wrap 'echo $SLURM_ARRAY_TASK_ID' > /dev/null; sort out",
    ),
    same(
        "allocations",
        "srun's own --prolog and --epilog, and --task-epilog",
        "for f in before after each; do printf '#!/bin/sh\\necho %s >> log\\n' $f > $f; chmod +x $f; done; \
         srun $VM --prolog=./before --epilog=./after --task-epilog=$PWD/each sh -c 'echo during >> log'; sort log",
    ),
    same(
        "allocations",
        "sbcast to a directory that VMs share",
        "echo sent > f; salloc -Q $VM bash -c \"sbcast -f f $PWD/copy && srun cat $PWD/copy\"",
    ),
    same(
        "allocations",
        "the name of a step",
        "srun $VM -J has-steps sh -c ': > started; until [ -e go ]; do sleep 0.1; done' & until_file started; \
         squeue -s -h -j $(job has-steps) -o %j; : > go; wait",
    ),
    same("allocations", "--test-only", "srun -Q $VM --test-only true 2>&1 | grep -c 'to start at'"),
    same("allocations", "a size that no node has", "srun $VM --mem=900G true"),
    differs(
        "allocations",
        "sbcast to a directory of the node",
        "echo sent > f; t=/var/tmp/parity-$$; salloc -Q $VM bash -c \"sbcast f $t && srun cat $t; rm -f $t\"",
        "the file is on the node, and the VM has a /var of its own: send it to a shared directory",
    ),
];
