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
        // What differs between any two steps is removed: job numbers, times, ports, processes. And what is dropped, which
        // has rows of its own.
        "srun $VM -n2 -c1 --cpu-bind=none env | grep '^SLURM' | \
         grep -v -e SLURM_VM -e SLURM_SPANK -e SLURM_SRUN_COMM -e SLURM_STEP_LAUNCHER_PORT -e SLURM_CPU_BIND | \
         grep -vE '^SLURM_(JOB_?ID|STEP_?ID|TASK_PID|LAUNCH_NODE_IPADDR|JOB_(START|END)_TIME|TOPOLOGY_ADDR)=' | \
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
        "A=1 LANG=C.UTF-8 MANPATH=/m PYTHONPATH=/p srun $VM env | grep -vE '^(SLURM|_=|(OMPI_MCA|PRTE_MCA|HYDRA|I_MPI)_)' | sort",
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
    differs(
        "environment",
        "variables that keep mpirun from looking for srun",
        "srun $VM env | grep -E '^(OMPI_MCA|PRTE_MCA|HYDRA|I_MPI)_' | sort",
        "mpirun starts its processes in the VM, as docs/environment.md says",
    ),
    differs(
        "environment",
        "the way to srun and to slurmstepd",
        "PMI_FD=9 PMI_RANK=0 PMIX_RANK=0 srun $VM env | \
         grep -oE '^(PMI_|PMIX_|SLURM_SRUN_COMM_|SLURM_STEP_LAUNCHER_)[A-Z_]*' | sort",
        "descriptors and ports of the host, which the VM does not reach",
    ),
    same(
        "environment",
        "--mpi=pmi2",
        "srun -Q $VM --mpi=pmi2 -n2 sh -c 'echo $PMI_RANK of $PMI_SIZE, $(readlink /proc/self/fd/$PMI_FD | cut -d : -f 1)' | sort",
    ),
    same("environment", "--mpi=none", "srun $VM --mpi=none sh -c 'echo ${PMI_FD-no PMI}'"),
    same("environment", "--mpi=none by its variable", "SLURM_MPI_TYPE=none srun $VM sh -c 'echo ${PMI_FD-no PMI}'"),
    differs(
        "environment",
        "the screen of a login",
        "DISPLAY=localhost:10.0 XAUTHORITY=$PWD/x WAYLAND_DISPLAY=wayland-0 TMUX=/tmp/t,1,0 srun $VM env | \
         grep -cE '^(DISPLAY|XAUTHORITY|WAYLAND|TMUX)'",
        "they name sockets of the host",
    ),
    differs(
        "environment",
        "sockets of the host's systemd",
        "NOTIFY_SOCKET=/run/n LISTEN_FDS=1 LISTEN_PID=1 JOURNAL_STREAM=8:1 srun $VM env | \
         grep -cE '^(NOTIFY|LISTEN|JOURNAL)'",
        "they name what is not in the VM",
    ),
    same(
        "environment",
        "a credential in a shared directory",
        ": > cc; KRB5CCNAME=FILE:$PWD/cc X509_USER_PROXY=$PWD/cc \
         srun $VM sh -c 'echo $KRB5CCNAME $X509_USER_PROXY; test -e ${KRB5CCNAME#FILE:}'",
    ),
    differs(
        "environment",
        "a credential that only the host has",
        "KRB5CCNAME=KEYRING:persistent:7 srun $VM sh -c 'echo ${KRB5CCNAME-unset}'; \
         KRB5CCNAME=FILE:/run/cc srun $VM sh -c 'echo ${KRB5CCNAME-unset}'",
        "a program would look for it and fail",
    ),
    differs(
        "environment",
        "graphics processors",
        "CUDA_VISIBLE_DEVICES=0 ROCR_VISIBLE_DEVICES=1 ZE_AFFINITY_MASK=0 srun $VM env | grep -cE '^(CUDA|ROCR|ZE)_'",
        "a VM has none",
    ),
    same(
        "environment",
        "where threads go, in words",
        "OMP_PLACES=cores OMP_PROC_BIND=close KMP_AFFINITY=granularity=fine,compact,1,0 srun $VM env | \
         grep -E '^(OMP|KMP)_' | sort",
    ),
    same(
        "environment",
        "where threads go, on a processor that is there",
        "GOMP_CPU_AFFINITY=0 OMP_PLACES={0} srun $VM env | grep -E '^(GOMP|OMP)_' | sort",
    ),
    differs(
        "environment",
        "where threads go, on processors of the node",
        "GOMP_CPU_AFFINITY=64-67 OMP_PLACES={64:4} KMP_AFFINITY=proclist=[64,65],explicit srun $VM env | \
         grep -cE '^(GOMP|OMP|KMP)_'",
        "the VM's processors have the numbers from 0",
    ),
    differs(
        "environment",
        "how Slurm has bound the task",
        "srun $VM --cpu-bind=cores env | grep -oE '^SLURM_CPU_BIND[A-Z_]*' | sort",
        "numbers of the node's processors; the VM as a whole is bound",
    ),
    same("environment", "an empty value", "X= srun $VM sh -c 'echo ${X+set}'"),
    same("environment", "a function of bash", "f() { echo \"$1 and $X\"; }; export -f f; X=1 srun $VM bash -c 'f 2'"),
    same(
        "environment",
        "a thousand variables",
        "for ((i = 0; i < 1000; i++)); do export V$i=$i; done; srun $VM env | grep '^V[0-9]*=' | sort | sha256sum",
    ),
    same("environment", "names that no shell has", "env a-b=1 c.d=2 srun $VM env | grep -E '^(a-b|c.d)=' | sort"),
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
