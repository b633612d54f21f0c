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
    same("identity", "id, with all names", "srun $VM id"),
    same("identity", "whoami and groups", "srun $VM sh -c 'whoami; groups; id -gn'"),
    same(
        "identity",
        "the account as getent shows it, but for the password's place",
        "srun $VM getent passwd $(id -un) | cut -d: -f1,3-7; srun $VM getent passwd $(id -u) | cut -d: -f1,3-7",
    ),
    same("identity", "the group as getent shows it", "srun $VM getent group $(id -g) | cut -d: -f1,3"),
    same("identity", "the home directory of a name", "srun $VM sh -c \"eval echo ~$(id -un)\""),
    same("identity", "owner and group of a new file, by name", ": > f; srun $VM sh -c ': > g; stat -c %U:%G f g'"),
    same("identity", "chgrp to the own group, by name", "srun $VM sh -c ': > f; chgrp \"$(id -gn)\" f; stat -c %G f'"),
    same(
        "identity",
        "the account in perl",
        "srun $VM perl -e 'print join(\":\", (getpwuid($<))[0,2,3,6,7,8]), \"\\n\"'",
    ),
    by_root("identity", "root's name, home and groups", "srun $VM sh -c 'id -un; id -gn; echo ~'"),
    same("identity", "the time zone without TZ", "unset TZ; srun $VM date -d @0 '+%z %Z'"),
    same(
        "identity",
        "the time zone without TZ, in perl",
        "unset TZ; srun $VM perl -e 'print join(\" \", localtime(0)), \"\\n\"'",
    ),
    same("identity", "a locale that every system has", "LC_ALL=C.UTF-8 srun $VM locale charmap"),
    same("identity", "a locale that no system has", "LC_ALL=xx_YY.UTF-8 srun $VM locale charmap 2>/dev/null"),
];
