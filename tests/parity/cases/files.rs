//! Files in the submit directory.

use super::{Case, same};

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
    same(
        "files",
        "nanoseconds in times that are set",
        "srun $VM sh -c 'touch -d @1.123456789 f; stat -c %.9Y f'; stat -c %.9Y f",
    ),
    same(
        "files",
        "space set aside, and a hole made in it",
        "srun $VM sh -c 'fallocate -l 1M room; stat -c %s room; fallocate -p -l 512K room; du -k room'; du -k room",
    ),
    same(
        "files",
        "holes",
        "srun $VM sh -c 'truncate -s 10M s; echo x >> s; cp --sparse=auto s t; du -k s t'; du -k s t",
    ),
    same(
        "files",
        "a deleted file opened again through /proc",
        "srun $VM bash -c 'exec 4<> f; rm f; echo text >&4; cat /proc/self/fd/4'",
    ),
    same(
        "files",
        "a temporary file without a name",
        "srun $VM perl -e 'open F, \"+>\", \"f\"; unlink \"f\"; truncate F, 5; print -s F, \"\\n\"; syswrite F, \"text\"; \
         sysseek F, 0, 0; sysread F, $text, 9; print length $text, (stat F)[3], \"\\n\"'; ls",
    ),
    same(
        "files",
        "a deep tree",
        "d=$(printf 'd/%.0s' {1..60}); srun $VM sh -c \"mkdir -p $d && echo deep > $d/f\"; cat $d/f",
    ),
    same("files", "a lock", "srun $VM flock lock echo locked"),
    same(
        "files",
        "a lock that a process on the host holds",
        "exec 3> lock; flock 3; srun $VM flock -n lock echo got it",
    ),
    same(
        "files",
        "a lock that a task holds, until it is killed",
        "srun -J holder $VM bash -c 'exec 3> lock; flock 3; : > held; sleep 100' & until_file held; \
         flock -n lock echo got it || echo refused; scancel -s KILL $(job holder).0; wait; flock -w 20 lock echo free",
    ),
    same(
        "files",
        "a POSIX lock that a task holds",
        "srun $VM perl -MFcntl=:flock -e 'open F, \">\", \"lock\"; \
         $lock = pack(\"ssx4qqlx4\", 1, 0, 0, 0, 0); fcntl F, 6, $lock or die; open H, \">\", \"held\"; close H; \
         select undef, undef, undef, 0.1 until -e \"done\"' & until_file held; \
         perl -e 'open F, \">\", \"lock\"; $lock = pack(\"ssx4qqlx4\", 1, 0, 0, 0, 0); print fcntl(F, 6, $lock) ? \"got it\" : \"refused\"'; \
         : > done; wait",
    ),
    same(
        "files",
        "the modes that a directory gives its files",
        "mkdir d; perl -e 'syscall 188, \"d\", \"system.posix_acl_default\", \
         pack(\"V(vvV)3\", 2, 1, 7, -1, 4, 7, -1, 32, 0, -1), 28, 0'; \
         srun $VM sh -c 'umask 077; : > d/f; mkdir d/e'; stat -c '%a %n' d/f d/e",
    ),
    same(
        "files",
        "labels, and a copy with all attributes",
        "echo text > f; srun $VM sh -c 'ls -Z f; cp -a f g; cat g'",
    ),
    same(
        "files",
        "a file that another process changes",
        "echo one > f; srun $VM sh -c 'cat f; : > seen; until [ -e changed ]; do sleep 0.1; done; cat f' & until_file seen; \
         echo two > f; : > changed; wait",
    ),
    same(
        "files",
        "appending from two tasks",
        "srun $VM -n2 bash -c 'for i in {1..100}; do echo $SLURM_PROCID $i; done >> log'; wc -l < log; sort -u log | wc -l",
    ),
    same(
        "files",
        "appending from a task and from the host",
        "srun $VM bash -c 'for i in {1..200}; do echo guest $i; done >> log; : > done' & \
         for i in {1..200}; do echo host $i >> log; done; until_file done; wait; wc -l < log; sort -u log | wc -l",
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
        "four large files copied at once",
        "for i in {1..4}; do yes $i | head -c $((6000000 + i * 4097)) > f$i; done; \
         srun $VM bash -c 'for i in {1..4}; do { dd if=f$i of=c$i bs=1M status=none; cmp f$i c$i; } & done; wait'; \
         for i in {1..4}; do cmp f$i c$i && echo same; done",
    ),
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
