//! Files in the submit directory.

use super::{Case, differs, same};

pub const CASES: &[Case] = &[
    same(
        "files",
        "links, modes, times, names",
        "srun $VM bash -c 'umask 022; echo 1 > a; ln a hard; ln -s a soft; mkdir -p d/e/f; echo 2 > \"d/with blank\"; \
         echo 3 > d/\u{e9}\u{4f60}; echo 4 > d/$'\\''new\\nline'\\''; chmod 750 a; touch -d @1000000000 d/e'; \
         find . -mindepth 1 -printf '%p %y %m %n %l\\n' | sort; stat -c %Y d/e; \
         [ -z \"$(find . ! -user $(id -un))\" ] && echo all mine",
    ),
    same(
        "files",
        "rename over, append, truncate, unlink while open",
        "srun $VM bash -c 'echo old > t; echo new > n; mv n t; echo more >> t; exec 3< t; rm t; cat <&3; \
         echo long > s; : > s; stat -c %s s; mkdir -p x/y; mv x z; exec 4<> u; rm u; echo gone >&4'; ls -R",
    ),
    same("files", "a sparse file of 5 GiB", "srun $VM truncate -s 5G big; stat -c %s big; rm big"),
    same(
        "files",
        "data behind 4 GiB",
        "srun $VM sh -c 'echo end | dd of=big bs=1 seek=5000000000 2> /dev/null'; \
         stat -c %s big; tail -c 4 big; rm big",
    ),
    differs(
        "files",
        "fractions of a second in times that are set",
        "srun $VM touch -d @1.5 f; stat -c %.1Y f",
        "Linux's 9p sets whole seconds; the time of a write is exact",
    ),
    differs(
        "files",
        "space set aside",
        "srun $VM fallocate -l 1M room",
        "9p has no such request; programs that use posix_fallocate write zeros instead",
    ),
    differs(
        "files",
        "a deleted file opened again through /proc",
        "srun $VM bash -c 'exec 4<> f; rm f; echo text >&4; cat /proc/self/fd/4'",
        "9p opens files by their names; the descriptor itself goes on working",
    ),
    same(
        "files",
        "a deep tree",
        "d=$(printf 'd/%.0s' {1..60}); srun $VM sh -c \"mkdir -p $d && echo deep > $d/f\"; cat $d/f",
    ),
    same("files", "a lock", "srun $VM flock lock echo locked"),
    differs(
        "files",
        "a lock that a process on the host holds",
        "exec 3> lock; flock 3; srun $VM flock -n lock echo got it",
        "locks of 9p shares hold within one VM",
    ),
    same(
        "files",
        "a file that another process changes",
        "srun $VM sh -c 'cat f; : > seen; until [ -e changed ]; do sleep 0.1; done; cat f' & echo one > f; \
         until_file seen; echo two > f; : > changed; wait",
    ),
    same(
        "files",
        "appending from two tasks",
        "srun $VM -n2 bash -c 'for i in {1..100}; do echo $SLURM_PROCID $i; done >> log'; wc -l < log; sort -u log | wc -l",
    ),
    same(
        "files",
        "a file written through a mapping",
        "head -c 8192 /dev/zero > m; srun $VM perl -e 'open F, \"+<\", \"m\"; $map = syscall 9, 0, 8192, 3, 1, fileno F, 0; \
         pipe R, W; syswrite W, \"mapped\"; syscall 0, fileno(R), $map, 6; print \"ok\\n\"'; \
         head -c 6 m; echo; stat -c %s m",
    ),
    same(
        "files",
        "a file nobody may read, a directory nobody may enter",
        "echo x > f; chmod 0 f; mkdir d; chmod 0 d; srun $VM sh -c 'cat f; ls d; true'; chmod 700 d",
    ),
    same(
        "files",
        "a program in the submit directory",
        "printf '#!/bin/sh\\necho $0 $1\\n' > prog; chmod +x prog; srun $VM ./prog x",
    ),
    same(
        "files",
        "a working directory by the name of a link",
        "mkdir real; l=/var/tmp/parity-link.$$; ln -s $PWD/real $l; cd $l; \
         srun $VM bash -c 'pwd | sed s/[0-9]*$//; pwd -P; : > made'; ls; cd /; rm $l",
    ),
    same(
        "files",
        "a home by the name of a link",
        "l=/var/tmp/parity-home.$$; ln -s ~ $l; HOME=$l srun $VM bash -c 'cd; pwd | sed s/[0-9]*$//; pwd -P; \
         f=.parity-$SLURM_JOB_ID; echo text > ~/$f; cat $f; rm $f'; rm $l",
    ),
    same(
        "files",
        "pwd and pwd -P with links in the path",
        "mkdir -p a/b; ln -s a/b l; cd l; ln -s . self; srun $VM bash -c 'pwd; pwd -P; cd self && pwd; cd -P . && pwd'",
    ),
    same(
        "files",
        "a working directory with commas, colons and blanks in its name",
        "d=$(mktemp -d \"/var/tmp/parity, a:b\\\\c d=e.XXXXXX\"); cd \"$d\"; \
         srun $VM bash -c 'pwd | sed s/......$//; echo text > f'; cat f; cd /; rm -r \"$d\"",
    ),
    same(
        "files",
        "a mount with commas, colons and blanks in its names",
        "mkdir 'a,b:c d\\e'; echo text > 'a,b:c d\\e/f'; cp 'a,b:c d\\e/f' one; M=(); [[ $VM != *image* ]] || \
         M=(\"--vm-mount=$PWD/a\\,b\\:c d\\e:/mnt/x\\,y\\:z,$PWD/one:/mnt/one:ro\"); \
         srun $VM \"${M[@]}\" bash -c 'cat one; [[ -e /mnt/one ]] && cmp one /mnt/one && cat /mnt/x,y:z/f || cat a,b*/f'",
    ),
    same("files", "a binary in the submit directory", "cp /bin/true mine; srun $VM ./mine && echo ran"),
    same(
        "files",
        "1000 small files",
        "srun $VM bash -c 'for i in {1..1000}; do echo $i > f$i; done'; cat f* | sort -n | sha256sum",
    ),
];

pub const LONG: &[Case] = &[same(
    "files",
    "200 MB written and read",
    "srun $VM sh -c 'yes 0123456789abcdef | head -c 200000000 > f; sha256sum < f'; sha256sum < f",
)];
