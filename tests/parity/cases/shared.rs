//! Two tasks of a node in one VM, beside two tasks on bare metal: every row is what a task of a node sees of the other.

use super::{Case, differs, same};

pub const CASES: &[Case] = &[
    same(
        "shared VM",
        "ranks",
        "srun $BOTH sh -c 'echo $SLURM_PROCID $SLURM_LOCALID $SLURM_NTASKS $SLURM_STEP_NUM_TASKS' | sort",
    ),
    same(
        "shared VM",
        "each rank's SLURM_ and PMI_ variables, four tasks on two nodes",
        // Without those of `environment` that differ between any two steps, or are dropped.
        "nodes=$(sinfo -h -N -o %N | head -n 2 | paste -sd ,); \
         srun ${BOTH/-N1 -n2/-N2 -n4 -w $nodes} --mpi=pmi2 sh -c 'env | sed -n \"s/^\\(SLURM\\|PMI\\)/$SLURM_PROCID &/p\"' | \
         grep -v -e SLURM_VM -e SLURM_SPANK -e SLURM_SRUN_COMM -e SLURM_STEP_LAUNCHER_PORT -e SLURM_CPU_BIND | \
         grep -vE ' (SLURM_(JOB_?ID|STEP_?ID|TASK_PID|LAUNCH_NODE_IPADDR|JOB_(START|END)_TIME|TOPOLOGY_ADDR)|PMI_(JOBID|FD))=' | sort",
    ),
    same("shared VM", "stdin reaches both", "seq 1000 | srun $BOTH sha256sum"),
    same(
        "shared VM",
        "stdin of one task",
        "seq 1000 | srun $BOTH --input=1 sh -c 'echo $SLURM_PROCID $(sha256sum)' | sort",
    ),
    same("shared VM", "--label", "srun $BOTH --label sh -c 'echo one; echo two; printf three' | sort"),
    same(
        "shared VM",
        "output files by task",
        "srun $BOTH -o out.%t sh -c 'echo $SLURM_PROCID; echo err >&2'; tail -n+1 out.*",
    ),
    same("shared VM", "the highest exit code wins", "srun -Q $BOTH sh -c 'exit $((SLURM_PROCID * 7))' 2> /dev/null"),
    same(
        "shared VM",
        "one task dies of a signal",
        "srun -Q $BOTH sh -c '[ $SLURM_PROCID = 0 ] || kill -KILL $$; echo fine' 2> /dev/null",
    ),
    same(
        "shared VM",
        "one task ends before the other",
        "srun $BOTH sh -c '[ $SLURM_PROCID = 0 ] && exit; sleep 1; echo later'",
    ),
    same(
        "shared VM",
        "a signal reaches both",
        "srun -Q -J both $BOTH sh -c \"trap 'echo got; exit 2' USR1; : > started\\$SLURM_PROCID; \
         while :; do sleep 0.1; done\" 2> /dev/null & until_file started0; until_file started1; scancel -s USR1 -n both; wait $!",
    ),
    same(
        "shared VM",
        "--kill-on-bad-exit",
        "srun -Q -K $BOTH sh -c '[ $SLURM_PROCID = 0 ] && exit 3; sleep 100' 2> /dev/null",
    ),
    same("shared VM", "--wait", "srun -Q --wait=1 $BOTH sh -c '[ $SLURM_PROCID = 0 ] && exit; sleep 100' 2> /dev/null"),
    same(
        "shared VM",
        "memory in /dev/shm is shared",
        "srun $BOTH sh -c 'f=/dev/shm/of-$SLURM_JOB_ID; if [ $SLURM_PROCID = 0 ]; then echo word > $f.new; mv $f.new $f; \
         until [ -e $f.seen ]; do sleep 0.1; done; rm $f*; else until [ -e $f ]; do sleep 0.1; done; cat $f; : > $f.seen; fi'",
    ),
    same(
        "shared VM",
        "one task signals the other",
        "srun $BOTH bash -c 'if [ $SLURM_PROCID = 0 ]; then trap \"echo got; exit\" USR1; echo $$ > pid.new; mv pid.new pid; \
         while :; do sleep 0.1; done; else until [ -e pid ]; do sleep 0.1; done; kill -USR1 $(cat pid); fi'",
    ),
    same(
        "shared VM",
        "a process in the background outlives its task",
        "srun $BOTH bash -c 'if [ $SLURM_PROCID = 0 ]; then sleep 100 > /dev/null 2>&1 & echo $! > pid; \
         else until [ -s pid ]; do sleep 0.1; done; sleep 2; kill -0 $(cat pid) && echo alive; fi'",
    ),
    same(
        "shared VM",
        "the processor of each task, with --cpu-bind=cores and map_cpu",
        "for bind in cores map_cpu:1,0; do srun ${BOTH/=none/=$bind} sh -c \
         'echo $SLURM_PROCID $(grep Cpus_allowed_list /proc/self/status | cut -f 2)' | sort; done",
    ),
    same("shared VM", "processors of both", "srun $BOTH nproc"),
    same(
        "shared VM",
        "one terminal",
        "script -qec \"srun --pty $BOTH sh -c 'test -t 1 && echo yes'\" /dev/null | grep -o yes",
    ),
    same("shared VM", "limits of each task", "srun $BOTH bash -c 'echo $(ulimit -n; ulimit -u; ulimit -s; ulimit -c)'"),
    same("shared VM", "a working directory", "mkdir d; srun $BOTH --chdir=$PWD/d sh -c 'basename $PWD'"),
    same(
        "shared VM",
        "steps that overlap",
        "{ srun $BOTH sh -c 'echo a' & srun $BOTH --overlap sh -c 'echo b'; wait; } | sort",
    ),
    differs(
        "shared VM",
        "what is left in the background writes after its task's end",
        "srun $BOTH bash -c 'if [ $SLURM_PROCID = 0 ]; then (sleep 1; echo late; : > wrote) & \
         else until [ -e wrote ]; do sleep 0.1; done; sleep 1; fi'",
        "nobody reads a task's output in the VM after its end; it is dropped (docs/parallel.md)",
    ),
];
