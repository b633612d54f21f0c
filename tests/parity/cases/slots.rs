//! Two VMs in one slot, beside two tasks on bare metal.

use super::{Case, same};

pub const CASES: &[Case] = &[
    same("slots", "stdin reaches both", "seq 1000 | srun $TWO sha256sum"),
    same("slots", "each has its number", "srun $TWO sh -c \"echo \\$$RANK\" | sort"),
    same("slots", "the highest exit code wins", "srun -Q $TWO sh -c \"exit \\$(($RANK * 7))\" 2> /dev/null"),
    same("slots", "lines with their VM's number", "srun $TWO $LABEL sh -c 'echo one; echo two; printf three' | sort"),
    same(
        "slots",
        "long lines are not mixed",
        "srun $TWO bash -c 'l=$(printf %02000d 7); for i in {1..300}; do echo $l; done' | sort | uniq -c",
    ),
    same(
        "slots",
        "a signal reaches both",
        "srun -Q -J both $TWO sh -c \"trap 'echo got; exit 2' USR1; : > started\\$$RANK; \
         while :; do sleep 0.1; done\" 2> /dev/null & until_file started0; until_file started1; scancel -s USR1 -n both; wait $!",
    ),
];
