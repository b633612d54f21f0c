//! Where tasks run, what they get, and Slurm's record of it.

use super::{Case, differs, same};

pub const CASES: &[Case] = &[
    same("placement", "two tasks on two nodes", "srun $VM -N2 -n2 sh -c 'echo $SLURM_PROCID $SLURM_NODEID' | sort"),
    same(
        "placement",
        "four tasks on two nodes, cyclic",
        "srun ${VM/1200/2000} -N2 -n4 -m cyclic sh -c 'echo $SLURM_PROCID $SLURM_NODEID $SLURM_LOCALID' | sort",
    ),
    same("placement", "processors of one task", "srun $VM -c1 nproc; srun $VM -c2 nproc"),
    same(
        "placement",
        "--cpu-bind=cores and none",
        "srun $VM -n1 -c1 --cpu-bind=cores nproc; srun $VM -n1 -c1 --cpu-bind=none nproc",
    ),
    same("placement", "--exclusive", "srun $VM --exclusive -n1 sh -c 'echo $SLURM_JOB_CPUS_PER_NODE; nproc'"),
    same("placement", "--ntasks-per-node", "srun $VM -N2 --ntasks-per-node=1 sh -c 'echo $SLURM_LOCALID' | sort"),
    same(
        "placement",
        "memory of the machine, less at most 200 MiB",
        "srun $VM sh -c 'm=$(free -m | awk \"/Mem:/ { print \\$2 }\"); [ $m -ge 1000 ] && echo enough'",
    ),
    same(
        "placement",
        "a command that takes more memory than it has",
        "srun $VM perl -e '$x = \"x\" x 1500000000; print \"fits\\n\"' > out 2> err; [ $? = 0 ] || echo ended; cat out",
    ),
    same(
        "placement",
        "heterogeneous job",
        "srun $VM -n1 sh -c 'echo $SLURM_PROCID' : $VM -n1 sh -c 'echo $SLURM_PROCID' | sort",
    ),
    same(
        "placement",
        "--bcast",
        "printf '#!/bin/sh\\necho sent $1\\n' > prog; chmod +x prog; srun $VM --bcast=$PWD/copy ./prog x",
    ),
    differs(
        "placement",
        "--multi-prog",
        "echo '0 echo zero' > mp; srun $VM --multi-prog mp",
        "before Slurm 23.11 a plugin cannot reach these command lines: refused in one line",
    ),
    same(
        "records",
        "scontrol show step, job name and comment",
        "srun $VM -J named --comment='a word' sh -c ': > started; until [ -e go ]; do sleep 0.1; done' & until_file started; \
         scontrol show step $(job named).0 | grep -oE '(State|Tasks|CPUs|Name|Network|TRES)=[^ ]*'; \
         scontrol show job $(job named) | grep -oE '(JobName|Comment|Command)=.*'; : > go; wait",
    ),
    same(
        "records",
        "sstat counts the step's memory and processor time",
        "said() { sstat -n -P -o MaxRSS,AveCPU $(job counted).0 | \
         awk -F '[|:K]' '{ print ($1 > 290000 ? \"memory counted\" : $0), ($NF >= 2 ? \"time counted\" : $0) }'; }; \
         srun $VM -J counted perl -e '$x = \"x\" x 300000000; 1 while (times)[0] < 3; open F, \">started\"; close F; \
         sleep 1 until -e \"go\"' & until_file started; until_said 'memory counted time counted' said; : > go; wait",
    ),
];
