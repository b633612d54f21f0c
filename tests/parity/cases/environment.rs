//! Variables.

use super::{Case, differs, same};

pub const CASES: &[Case] = &[
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
    same("environment", "--export=NAME", "A=1 B=2 srun $VM --export=A,PATH sh -c 'echo $A ${B-unset}'"),
    same(
        "environment",
        "names and values of SLURM_ variables",
        // What differs between any two steps is removed: job numbers, times, ports, processes.
        "srun $VM -n2 -c1 --cpu-bind=none env | grep '^SLURM' | grep -v -e SLURM_VM -e SLURM_SPANK | \
         grep -vE '^SLURM_(JOB_?ID|STEP_?ID|TASK_PID|SRUN_COMM_PORT|STEP_LAUNCHER_PORT|LAUNCH_NODE_IPADDR|JOB_(START|END)_TIME|TOPOLOGY_ADDR)=' | \
         sort",
    ),
    differs(
        "environment",
        "variables that are added",
        "srun $VM env | grep -o '^SLURM_VM[A-Z_]*' | sort",
        "by them a command tells the VMs of a slot apart",
    ),
    same(
        "environment",
        "all other variables",
        "A=1 LANG=C.UTF-8 MANPATH=/m PYTHONPATH=/p srun $VM env | grep -vE '^(SLURM|_=)' | sort",
    ),
    differs(
        "environment",
        "directories and sockets of the host",
        "XDG_RUNTIME_DIR=/run/user/1 SSH_AUTH_SOCK=/run/agent DBUS_SESSION_BUS_ADDRESS=unix:x srun $VM env | \
         grep -cE '^(XDG_|SSH_|DBUS_)'",
        "they name what is not in the VM",
    ),
    differs(
        "environment",
        "libraries of the host",
        "LD_LIBRARY_PATH=/usr/lib:/none:$PWD LD_PRELOAD=/usr/lib/os-release srun $VM env 2> /dev/null | grep '^LD_' | sort",
        "of the list remains what a share contains or the host lacks: the rest is of another system",
    ),
    same(
        "environment",
        "TMPDIR can be written",
        "mkdir t; TMPDIR=$PWD/t srun $VM sh -c 'echo $TMPDIR; : > $TMPDIR/x'; ls t",
    ),
    differs(
        "environment",
        "a TMPDIR that only the host has",
        "d=$(mktemp -d /var/tmp/parity.XXXXXX); TMPDIR=$d srun $VM sh -c 'echo $TMPDIR' | sed \"s,$d,as on the host,\"; rmdir $d",
        "/tmp of the VM takes its place",
    ),
    same(
        "environment",
        "a PATH without the standard directories",
        "PATH=/nowhere $(command -v srun) $VM /bin/sh -c 'echo here'",
    ),
    same(
        "environment",
        "what --task-prolog exports",
        "printf '#!/bin/sh\\necho export FROM_PROLOG=1\\n' > p; chmod +x p; srun $VM --task-prolog=$PWD/p printenv FROM_PROLOG",
    ),
];
