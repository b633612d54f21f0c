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
    differs(
        "exit",
        "a script whose interpreter is missing",
        "printf '#!/none/python3\\n' > s; chmod +x s; srun $VM ./s",
        "126 and the interpreter's name as in bash, where slurmstepd ends with 2",
    ),
    differs(
        "exit",
        "a script with the line ends of Windows",
        "printf '#!/bin/sh\\r\\necho hello\\r\\n' > s; chmod +x s; srun $VM ./s",
        "126 and the reason, where slurmstepd ends with 2",
    ),
    differs(
        "exit",
        "a script without a first line",
        "echo 'echo hello' > s; chmod +x s; srun $VM ./s",
        "126 and what is missing, where slurmstepd ends with 8",
    ),
    differs(
        "exit",
        "an empty file",
        ": > s; chmod +x s; srun $VM ./s",
        "126 and the reason, where slurmstepd ends with 8",
    ),
    differs(
        "exit",
        "a program for another processor",
        "{ printf '\\177ELF\\2\\1\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\2\\0\\267\\0'; head -c 4096 /dev/zero; } > s; chmod +x s; srun $VM ./s",
        "126 and the processor, where slurmstepd ends with 8",
    ),
    differs(
        "exit",
        "a script that may not be executed",
        "echo '#!/bin/sh' > s; srun $VM ./s",
        "126 as in a shell, where slurmstepd ends with 13",
    ),
    differs(
        "exit",
        "a directory as the command",
        "mkdir d; srun $VM ./d",
        "126 and the reason, where slurmstepd ends with 13",
    ),
    differs(
        "exit",
        "a command that only the host has",
        "srun $VM tmux -V | cut -d' ' -f1",
        "127, the image's name, and where the node has it",
    ),
    same("exit", "a directory of the command's name in PATH", "mkdir -p d/true; PATH=$PWD/d:$PATH srun $VM true"),
    same(
        "exit",
        "a command with blanks in its name",
        "printf '#!/bin/sh\\necho here\\n' > 'a b'; chmod +x 'a b'; srun $VM './a b'",
    ),
    same("exit", "a command by a symbolic link", "ln -s /bin/echo e; srun $VM ./e here"),
    same(
        "exit",
        "an interpreter with arguments",
        "printf '#!/usr/bin/env -S sh -e\\nfalse\\necho no\\n' > s; chmod +x s; srun $VM ./s",
    ),
    same("exit", "an argument of 130 kB", "srun $VM sh -c 'echo ${#1}' x \"$(head -c 130000 /dev/zero | tr '\\0' x)\""),
    same("exit", "ten thousand arguments", "srun $VM sh -c 'echo $#' x {1..10000}"),
    same(
        "exit",
        "an argument that is too long, within the step",
        "srun -Q $VM bash -c '/bin/true \"$(head -c 140000 /dev/zero | tr \"\\0\" x)\"' 2>&1 | grep -o 'Argument list too long'",
    ),
];

pub const LONG: &[Case] = &[same(
    "exit",
    "codes between 0 and 255",
    "for code in 2 3 7 15 31 63 64 100 125 126 127 128 129 137 143 192 254; do \
     srun -Q $VM sh -c \"exit $code\" 2> /dev/null; echo $code $?; done",
)];
