//! Standard streams.

use super::{Case, same};

pub const CASES: &[Case] = &[
    same("stdio", "stdout and stderr stay apart", "srun $VM sh -c 'echo out; echo err >&2'"),
    same(
        "stdio",
        "every byte value arrives",
        r"srun $VM bash -c 'for i in {0..255}; do printf \\x$(printf %x $i); done' | sha256sum",
    ),
    same("stdio", "stdin from a file", "seq 1000 > in; srun $VM sha256sum < in"),
    same("stdio", "stdin from a pipe", "seq 1000 | srun $VM sha256sum"),
    same("stdio", "stdin from /dev/null", "srun $VM wc -c < /dev/null"),
    same("stdio", "stdin of two tasks", "seq 1000 | srun $VM -n2 sha256sum"),
    same("stdio", "--input names a file", "seq 10 > in; srun $VM --input=in tail -1"),
    same("stdio", "--input=none", "echo unread | srun $VM --input=none wc -c"),
    same(
        "stdio",
        "--input=0 reaches one of two tasks",
        "echo once | srun $VM -n2 --input=0 sh -c 'echo $SLURM_PROCID $(cat)' | sort",
    ),
    same(
        "stdio",
        "--output and --error with patterns",
        "srun $VM -n2 -o o-%t -e e-%t sh -c 'echo $SLURM_PROCID; echo e$SLURM_PROCID >&2'; head o-* e-*",
    ),
    same(
        "stdio",
        "--output with %j %s %N",
        "srun $VM -o out-%j-%s-%N sh -c 'echo $SLURM_JOB_ID $SLURM_STEP_ID' && \
         for f in out-*; do read job step < $f; [[ $f == out-$job-$step-?* ]] && echo right; done",
    ),
    same("stdio", "--label", "srun $VM -n2 -l sh -c 'echo one; echo two' | sort"),
    same("stdio", "--unbuffered without a final newline", r"srun $VM -u printf 'a\nb'"),
    same("stdio", "a command that closes its stdout", "srun $VM sh -c 'exec >&-; sleep 0.2; exit 3'"),
    same("stdio", "a background child that keeps stdout open", "srun $VM sh -c 'sleep 100 & echo done'"),
    same(
        "stdio",
        "both outputs in one file",
        // Their order there is random: slurmstepd reads two pipes.
        "srun $VM -o both.out sh -c 'for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done'; sort both.out",
    ),
    same(
        "stdio",
        "the order of two outputs that the command joins",
        "srun $VM sh -c 'exec 2>&1; for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done'",
    ),
    same("stdio", "SIGPIPE within the step", "srun $VM bash -c 'yes | head -1; echo ${PIPESTATUS[*]}'"),
    same("stdio", "a reader that leaves early", "srun $VM seq 300000 | head -2; echo ${PIPESTATUS[0]}"),
    same(
        "stdio",
        "a command that does not read its input",
        "{ head -c 3000000 /dev/zero | srun $VM echo done; } 2> said; code=$?; without_reset < said >&2; exit $code",
    ),
    same("stdio", "10 MB out and in again", "seq 1400000 > in; srun $VM cat < in | cmp - in && echo equal"),
    same(
        "stdio",
        "a reader that stops reading does not fill the memory",
        "srun $VM -J stalled head -c 60000000 /dev/zero | { sleep 5; \
         for p in $(task_pids stalled); do awk '/^VmRSS/ && $2 > 30000 { print \"grew to\", $2, \"kB\" }' /proc/$p/status; \
         done; wc -c; }",
    ),
];

pub const LONG: &[Case] = &[
    same("stdio", "1 GB through stdout", "srun $VM sh -c 'yes 0123456789abcdef | head -c 1000000000' | sha256sum"),
    same("stdio", "1 GB through stdin", "yes 0123456789abcdef | head -c 1000000000 | srun $VM sha256sum"),
];
