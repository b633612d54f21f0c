//! Who and where.

use super::{Case, by_root, differs, same};

pub const CASES: &[Case] = &[
    same(
        "identity",
        "ids and groups",
        "[ \"$(srun $VM id -G) $(srun $VM id -un)\" = \"$(id -G) $(id -un)\" ] && echo as here",
    ),
    by_root("identity", "root's own job", "srun $VM id -u"),
    same(
        "identity",
        "the account: name, home, shell",
        "[ \"$(srun $VM getent passwd $(id -u) | cut -d: -f1,3,4,6,7)\" = \"$(getent passwd $(id -u) | cut -d: -f1,3,4,6,7)\" ] \
         && echo as here",
    ),
    same("identity", "umask", "umask 027; srun $VM sh -c 'umask; : > f'; stat -c %a f"),
    same(
        "identity",
        "limits of the user",
        "ulimit -n 512; ulimit -c 0; ulimit -s 4096; srun $VM bash -c 'ulimit -n; ulimit -c; ulimit -s; ulimit -f; ulimit -t'",
    ),
    same("identity", "working directory", "srun $VM pwd"),
    same("identity", "--chdir", "mkdir sub; srun $VM --chdir=$PWD/sub pwd"),
    differs(
        "identity",
        "--chdir to a directory that only the host has",
        "srun $VM --chdir=/usr/lib/x86_64-linux-gnu/slurm-wlm pwd",
        "the image's directory counts; where it has none the command runs in /tmp, with one warning",
    ),
    differs(
        "identity",
        "host name",
        "[ \"$(srun $VM hostname)\" = \"$(hostname)\" ] && echo the node\\'s || echo its own",
        "each VM has a name of its own",
    ),
    same("identity", "the clock", "t=$(srun $VM date +%s); n=$(date +%s); [ $((n - t)) -le 3 ] && echo right"),
    same("identity", "the time zone", "TZ=America/New_York srun $VM date -d @0 +%z"),
];
