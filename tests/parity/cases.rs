//! The table. Each script is run by bash with `$VM` set to the options of the step.

/// One thing that must not surprise.
pub struct Case {
    pub area: &'static str,
    pub name: &'static str,
    pub script: &'static str,
    /// Why a VM step shows something else here, where it does.
    pub differs: Option<&'static str>,
}

const fn same(area: &'static str, name: &'static str, script: &'static str) -> Case {
    Case { area, name, script, differs: None }
}

const fn differs(area: &'static str, name: &'static str, script: &'static str, reason: &'static str) -> Case {
    Case { area, name, script, differs: Some(reason) }
}

pub static CASES: &[Case] = &[
    // Standard streams.
    same("stdio", "stdout and stderr stay apart", "srun $VM sh -c 'echo out; echo err >&2'"),
    same(
        "stdio",
        "every byte value arrives",
        r"srun $VM bash -c 'for i in {0..255}; do printf \\x$(printf %x $i); done' | sha256sum",
    ),
    same("stdio", "stdin from a file", "seq 1000 > in; srun $VM sha256sum < in"),
    same("stdio", "stdin from a pipe", "seq 1000 | srun $VM sha256sum"),
    same("stdio", "stdin from /dev/null", "srun $VM wc -c < /dev/null"),
    same("stdio", "--input names a file", "seq 10 > in; srun $VM --input=in tail -1"),
    same(
        "stdio",
        "--output and --error with patterns",
        "srun $VM -n2 -o o-%t -e e-%t sh -c 'echo $SLURM_PROCID; echo e$SLURM_PROCID >&2'; head o-* e-*",
    ),
    same("stdio", "--label", "srun $VM -n2 -l sh -c 'echo one; echo two' | sort"),
    same("stdio", "--unbuffered without a final newline", r"srun $VM -u printf 'a\nb'"),
    same("stdio", "a command that closes its stdout", "srun $VM sh -c 'exec >&-; sleep 0.2; exit 3'"),
    same("stdio", "a background child that keeps stdout open", "srun $VM sh -c 'sleep 100 & echo done'"),
    same(
        "stdio",
        "order of stdout and stderr in one file",
        "srun $VM -o both.out sh -c 'for i in 1 2 3 4 5; do echo o$i; echo e$i >&2; done'; cat both.out",
    ),
    // How a command ends.
    same("exit", "code 0", "srun $VM true"),
    same("exit", "code 1", "srun $VM false"),
    same("exit", "code 42", "srun $VM sh -c 'exit 42'"),
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
    // Signals.
    same(
        "signals",
        "scancel -s USR1 reaches the command",
        "srun $VM -J usr1 sh -c 'trap \"echo got; exit 4\" USR1; : > started; while :; do sleep 0.1; done' & \
         while [ ! -e started ]; do sleep 0.1; done; scancel -s USR1 -n usr1; wait $!",
    ),
    same(
        "signals",
        "scancel lets the command clean up",
        "srun $VM -J term sh -c 'trap \"echo cleaned > cleaned; exit\" TERM; : > started; while :; do sleep 0.1; done' \
         2>/dev/null & while [ ! -e started ]; do sleep 0.1; done; scancel -n term; wait $!; cat cleaned",
    ),
    same(
        "signals",
        "Ctrl-C twice on srun ends the step",
        "srun $VM sh -c ': > started; sleep 100' 2>/dev/null & \
         while [ ! -e started ]; do sleep 0.1; done; kill -INT $!; sleep 0.3; kill -INT $!; wait $!; echo ended",
    ),
    // Environment.
    same("environment", "a value with newline, = and UTF-8", "X=$'a\\nb=c \\u00e9\\u4f60' srun $VM printenv X"),
    same("environment", "a value of 100 kB", "X=$(head -c 100000 /dev/zero | tr '\\0' x) srun $VM sh -c 'echo ${#X}'"),
    differs(
        "environment",
        "--export=NONE without a path to the command",
        "A=1 srun $VM --export=NONE sh -c 'echo ${A-unset}'",
        "without PATH the VM looks in the standard directories, slurmstepd nowhere",
    ),
    same("environment", "--export=NONE", "A=1 srun $VM --export=NONE /bin/sh -c 'echo ${A-unset}'"),
    same("environment", "--export=ALL,NAME=value", "A=1 srun $VM --export=ALL,B=2 sh -c 'echo $A $B'"),
    same(
        "environment",
        "the names of all SLURM_ variables",
        "srun $VM env | grep -o '^SLURM[A-Z]*_[A-Z_]*' | \
         grep -v -e SLURM_VM -e SLURM_SPANK -e SLURM_VMS | sort",
    ),
    differs(
        "environment",
        "variables that are added",
        "srun $VM env | grep -o '^SLURM_VM[A-Z_]*' | sort",
        "by them a command tells the VMs of a slot apart",
    ),
    same(
        "environment",
        "what --task-prolog exports",
        "printf '#!/bin/sh\\necho export FROM_PROLOG=1\\n' > p; chmod +x p; srun $VM --task-prolog=$PWD/p printenv FROM_PROLOG",
    ),
    // Who and where.
    same("identity", "ids and groups", "srun $VM id"),
    same("identity", "umask", "umask 027; srun $VM sh -c 'umask; : > f'; stat -c %a f"),
    same("identity", "open file limit", "ulimit -n 512; srun $VM sh -c 'ulimit -n'"),
    same("identity", "working directory", "srun $VM pwd"),
    same("identity", "--chdir", "mkdir sub; srun $VM --chdir=$PWD/sub pwd"),
    differs("identity", "host name", "srun $VM hostname", "each VM has a name of its own"),
    // Files in the submit directory.
    same(
        "files",
        "links, modes, times, names",
        "srun $VM bash -c 'umask 022; echo 1 > a; ln a hard; ln -s a soft; mkdir -p d/e/f; echo 2 > \"d/with blank\"; \
         echo 3 > d/\u{e9}\u{4f60}; chmod 750 a; touch -d @1000000000 d/e'; \
         find . -mindepth 1 -printf '%p %y %m %n %l\\n' | sort; stat -c %Y d/e",
    ),
    same(
        "files",
        "rename over, append, truncate, unlink while open",
        "srun $VM bash -c 'echo old > t; echo new > n; mv n t; echo more >> t; exec 3< t; rm t; cat <&3; \
         echo long > s; : > s; stat -c %s s'; ls",
    ),
    same("files", "a sparse file of 5 GiB", "srun $VM truncate -s 5G big; stat -c %s big; rm big"),
    same("files", "a lock", "srun $VM flock lock echo locked"),
    same(
        "files",
        "a program in the submit directory",
        "printf '#!/bin/sh\\necho $0 $1\\n' > prog; chmod +x prog; srun $VM ./prog x",
    ),
    same(
        "files",
        "1000 small files",
        "srun $VM bash -c 'for i in {1..1000}; do echo $i > f$i; done'; cat f* | sort -n | sha256sum",
    ),
    // Where tasks run.
    same("placement", "two tasks on two nodes", "srun $VM -N2 -n2 sh -c 'echo $SLURM_PROCID $SLURM_NODEID' | sort"),
    same("placement", "processors of one task", "srun $VM -c1 nproc; srun $VM -c2 nproc"),
    same("placement", "--ntasks-per-node", "srun $VM -N2 --ntasks-per-node=1 sh -c 'echo $SLURM_LOCALID' | sort"),
    differs(
        "placement",
        "--multi-prog",
        "echo '0 echo zero' > mp; srun $VM --multi-prog mp",
        "before Slurm 23.11 a plugin cannot reach these command lines: refused in one line",
    ),
    // Batch jobs.
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
        "array with %a",
        "sbatch -Q --wait $VM -a 1-2 -o out-%a --wrap 'echo $SLURM_ARRAY_TASK_ID' > /dev/null; cat out-1 out-2",
    ),
    same(
        "batch",
        "--export=NONE",
        "A=1 sbatch -Q --wait --export=NONE $VM -o out --wrap 'echo ${A-unset}' > /dev/null; cat out",
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
