//! Batch jobs.

use super::{Case, differs, same};

pub const CASES: &[Case] = &[
    same(
        "batch",
        "directives, arguments, here-document",
        "printf '#!/bin/bash\\n#SBATCH -J name\\necho $SLURM_JOB_NAME $# $1\\ncat <<END\\nhere\\nEND\\n' > j; \
         sbatch -Q --wait $VM -o out j 'a b' > /dev/null; echo $?; cat out",
    ),
    same(
        "batch",
        "--wrap and exit code",
        "sbatch -Q --wait $VM -o out --wrap 'echo wrapped; exit 9' > /dev/null; echo $?; cat out",
    ),
    same(
        "batch",
        "scripts for perl and awk",
        "printf '#!/usr/bin/perl\\nprint \"perl @ARGV\\\\n\";\\n' > p; printf '#!/usr/bin/awk -f\\nBEGIN { print \"awk\" }\\n' > a; \
         sbatch -Q --wait $VM -o out-p p 1 2 > /dev/null; sbatch -Q --wait $VM -o out-a a > /dev/null; cat out-p out-a",
    ),
    same(
        "batch",
        "an interpreter that does not exist",
        "printf '#!/no/such/shell\\necho x\\n' > j; sbatch -Q --wait $VM -o out j > /dev/null; [ $? != 0 ] && echo failed; \
         grep -c 'No such file' out",
    ),
    same(
        "batch",
        "array with %A and %a",
        "sbatch -Q --wait $VM -a 1-2 -o out-%A-%a --wrap 'echo $SLURM_ARRAY_TASK_ID out-$SLURM_ARRAY_JOB_ID-' > /dev/null; \
         for f in out-*; do read index name < $f; [ $f = $name$index ] && echo $index; done",
    ),
    same(
        "batch",
        "--export=NONE",
        "A=1 sbatch -Q --wait --export=NONE $VM -o out --wrap 'echo ${A-unset}' > /dev/null; cat out",
    ),
    same(
        "batch",
        "--export=ALL,NAME=value",
        "A=1 sbatch -Q --wait --export=ALL,B=2 $VM -o out --wrap 'echo $A $B' > /dev/null; cat out",
    ),
    same(
        "batch",
        "standard input and error of a script",
        "echo text > in; sbatch -Q --wait $VM -i in -o out -e err --wrap 'cat; echo e >&2' > /dev/null; cat out err",
    ),
    same(
        "batch",
        "a dependency",
        "id=$(sbatch --parsable $VM -o first --wrap 'exit 0'); \
         sbatch -Q --wait -d afterok:$id $VM -o second --wrap 'echo after' > /dev/null; cat second",
    ),
    differs(
        "batch",
        "srun in a batch script",
        "sbatch -Q --wait $VM -o out --wrap 'srun true' > /dev/null; echo $?; sed 's/.*: //' out",
        "Slurm's commands are not in the guest",
    ),
];

pub const LONG: &[Case] = &[same(
    "batch",
    "a job that is requeued",
    "id=$(sbatch --parsable --requeue $VM --open-mode=append -o out --wrap \
     ': > started; echo run $SLURM_RESTART_COUNT; [ -n \"$SLURM_RESTART_COUNT\" ] || sleep 100'); \
     until_file started; until [ -s out ]; do sleep 0.1; done; scontrol requeue $id; until_completed $id; grep -v slurmstepd out",
)];
