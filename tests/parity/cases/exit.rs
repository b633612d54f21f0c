//! How a command ends.

use super::{Case, differs, same};

pub const CASES: &[Case] = &[
    same("exit", "code 0", "srun $VM true"),
    same("exit", "code 1", "srun $VM false"),
    same("exit", "code 255", "srun $VM sh -c 'exit 255'"),
    same("exit", "the highest code of several tasks", "srun $VM -n2 sh -c 'exit $((SLURM_PROCID * 5))'"),
    same("exit", "death by SIGTERM", "srun $VM sh -c 'kill -TERM $$'"),
    same("exit", "death by SIGKILL", "srun $VM sh -c 'kill -KILL $$'"),
    same("exit", "death by SIGSEGV", "ulimit -c 0; srun $VM sh -c 'kill -SEGV $$'"),
    differs(
        "exit",
        "a command that does not exist",
        "srun $VM no-such-command",
        "127 and the command's name as in a shell, where slurmstepd ends with 2",
    ),
    differs(
        "exit",
        "a file that is no program",
        "srun $VM /etc/os-release",
        "126 as in a shell, where slurmstepd ends with 13",
    ),
    same(
        "exit",
        "--kill-on-bad-exit",
        "srun -Q $VM -n2 -K sh -c '[ $SLURM_PROCID = 0 ] || exit 3; sleep 60' 2> err; code=$?; grep -v CANCELLED err | sort; exit $code",
    ),
    // Whether slurmstepd's line "STEP CANCELLED" still reaches an srun that has given up is random, on bare metal too.
    same(
        "exit",
        "--wait",
        "srun -Q $VM -n2 -W1 sh -c '[ $SLURM_PROCID = 0 ] || exit 0; sleep 60' 2>&1 | grep -v CANCELLED | sort",
    ),
];

pub const LONG: &[Case] = &[same(
    "exit",
    "codes between 0 and 255",
    "for code in 2 3 7 15 31 63 64 100 125 126 127 128 129 137 143 192 254; do \
     srun -Q $VM sh -c \"exit $code\" 2> /dev/null; echo $code $?; done",
)];
