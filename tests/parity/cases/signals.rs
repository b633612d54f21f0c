//! Signals, cancelling, suspending, time limits.

use super::{Case, by_root, same};

pub const CASES: &[Case] = &[
    same(
        "signals",
        "scancel -s USR1 reaches the command",
        "srun $VM -J usr1 sh -c 'trap \"echo got; exit 4\" USR1; : > started; while :; do sleep 0.1; done' & \
         until_file started; scancel -s USR1 -n usr1; wait $!",
    ),
    same(
        "signals",
        "scancel lets the command clean up",
        "srun $VM -J term sh -c 'trap \"echo cleaned > cleaned; exit\" TERM; : > started; while :; do sleep 0.1; done' \
         2>/dev/null & until_file started; scancel -n term; wait $!; cat cleaned",
    ),
    same(
        "signals",
        "Ctrl-C once on srun changes nothing",
        "srun $VM sh -c ': > started; sleep 2; echo still there' 2>/dev/null & until_file started; kill -INT $!; wait $!",
    ),
    same(
        "signals",
        "Ctrl-C twice on srun ends the step",
        "srun $VM sh -c ': > started; sleep 100' 2>/dev/null & \
         until_file started; kill -INT $!; sleep 0.3; kill -INT $!; wait $!; echo ended",
    ),
    same(
        "signals",
        "a command that ignores TERM is killed after KillWait",
        "srun $VM -J stubborn sh -c 'trap \"\" TERM; : > started; while :; do sleep 0.1; done' 2> err & \
         until_file started; SECONDS=0; scancel -n stubborn; wait $!; code=$?; \
         [ $SECONDS -ge 4 -a $SECONDS -le 15 ] && echo in time; grep -o 'task 0: .*' err; exit $code",
    ),
    same(
        "signals",
        "a real-time signal",
        "srun $VM -J rt bash -c 'trap \"echo got; exit 6\" RTMIN+3; : > started; while :; do sleep 0.1; done' & \
         until_file started; scancel -s 37 -n rt; wait $!",
    ),
    by_root(
        "signals",
        "scontrol suspend and resume; the clock afterwards",
        "srun $VM -J sleepy sh -c ': > started; while [ ! -e go ]; do sleep 0.1; done; date +%s > inside; echo awake' & \
         until_file started; scontrol suspend $(job sleepy); sleep 4; squeue -h -n sleepy -o %T; \
         scontrol resume $(job sleepy); : > go; wait $!; code=$?; \
         late=$(($(stat -c %Y inside) - $(cat inside))); [ ${late#-} -le 1 ] && echo the clock is right || echo $late s late; \
         exit $code",
    ),
];

pub const LONG: &[Case] = &[
    same(
        "signals",
        "--signal=USR1 before the time limit",
        "srun -Q $VM -t1 --signal=USR1@50 bash -c 'trap \"echo got; exit 4\" USR1; while :; do sleep 0.1; done'",
    ),
    same(
        "signals",
        "--signal=B:USR1 reaches the batch script",
        "printf '#!/bin/bash\\ntrap \"echo got; exit 4\" USR1\\nwhile :; do sleep 0.1; done\\n' > j; \
         sbatch -Q --wait -t1 --signal=B:USR1@50 $VM -o out j > /dev/null; echo $?; cat out",
    ),
    same(
        "signals",
        "the time limit",
        "srun -Q $VM -t1 sh -c 'trap \"echo cleaning; exit 3\" TERM; while :; do sleep 0.1; done' 2> err; code=$?; sort err; exit $code",
    ),
];
