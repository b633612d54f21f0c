//! What a command inherits: its streams by their names, limits, and what a kernel gives a machine of its size.

use super::{Case, same};

pub const CASES: &[Case] = &[
    same(
        "inherited",
        "streams opened by their names",
        "seq 3 > in; srun $VM sh -c 'echo out >/dev/stdout; echo err >/dev/stderr; cat </dev/stdin; \
         echo fd >/dev/fd/1; echo proc >>/proc/self/fd/2' < in",
    ),
    same(
        "inherited",
        "two joined streams opened by their names",
        "srun $VM sh -c 'exec 2>&1; echo out >>/dev/stdout; echo err >>/dev/stderr'",
    ),
    same(
        "inherited",
        "streams of a batch script opened by their names",
        "sbatch -Q --wait $VM -o out --wrap 'echo out >>/dev/stdout; echo err >>/dev/stderr; cat /dev/stdin' > /dev/null; \
         cat out",
    ),
    same(
        "inherited",
        "500 MB in /dev/shm",
        "srun ${VM/1200/2000} sh -c 'f=/dev/shm/parity.$$; head -c 500000000 /dev/zero > $f; stat -c %s $f; rm $f'",
    ),
    same(
        "inherited",
        "200 MB of /dev/shm mapped",
        "srun $VM perl -e '$f = \"/dev/shm/parity.$$\"; open F, \"+>\", $f; truncate F, 200000000; unlink $f; \
         $map = syscall 9, 0, 200000000, 3, 1, fileno F, 0; pipe R, W; for ($at = 0; $at < 200000000; $at += 4096) \
         { syswrite W, \"x\"; syscall 0, fileno(R), $map + $at, 1; } print \"ok\\n\"'",
    ),
    same(
        "inherited",
        "4000 threads",
        "printf '%s\\n' '#include <pthread.h>' '#include <stdio.h>' 'static pthread_barrier_t all;' \
         'static void *wait_for_all(void *x) { pthread_barrier_wait(&all); return x; }' \
         'int main(void) { pthread_t t; pthread_attr_t a; int i; pthread_attr_init(&a); pthread_attr_setstacksize(&a, 65536);' \
         'pthread_barrier_init(&all, 0, 4001); for (i = 0; i < 4000; i++) if (pthread_create(&t, &a, wait_for_all, 0)) break;' \
         'printf(\"%d threads\\n\", i); fflush(stdout); if (i == 4000) pthread_barrier_wait(&all); _Exit(0); }' \
         > thr.c; cc -D_DEFAULT_SOURCE -include stdlib.h -pthread thr.c -o thr && srun $VM ./thr",
    ),
    same(
        "inherited",
        "a file without a name in /tmp",
        "srun $VM perl -e 'sysopen F, \"/tmp\", 0x410002 or die \"$!\\n\"; print F \"x\"; print \"ok\\n\"'",
    ),
    same("inherited", "/tmp is everybody's", "srun $VM stat -c '%A %U' /tmp"),
    same(
        "inherited",
        "all soft limits",
        "ulimit -S -c 0 -d 8000000 -f 20000 -l 64 -m 3000000 -n 512 -s 4096 -t 100 -u 5000 -v 9000000; \
         srun $VM bash -c 'ulimit -Sa'",
    ),
    same("inherited", "all hard limits", "srun $VM bash -c 'ulimit -Ha'"),
    same(
        "inherited",
        "a file that grows over its limit",
        "ulimit -c 0 -f 20000; srun $VM sh -c 'head -c 40000000 /dev/zero > big; echo $?; stat -c %s big; \
         head -c 40000000 /dev/zero > /tmp/parity.$$; echo $?; rm /tmp/parity.$$'",
    ),
    same(
        "inherited",
        "more memory than the limit allows",
        "ulimit -v 300000; srun $VM perl -e '$x = \"x\" x 400000000; print \"fits\\n\"' 2> /dev/null || echo refused",
    ),
    same(
        "inherited",
        "an output that grows over the limit of files",
        "ulimit -c 0 -f 1000; sbatch -Q --wait $VM -o out --wrap 'head -c 4000000 /dev/zero' > /dev/null; \
         [ $? = 0 ] || echo failed; head -c 1024000 out | wc -c; [ $(stat -c %s out) -lt 1100000 ] && echo bounded",
    ),
    same("inherited", "a umask that takes everything from everybody", "umask 777; srun $VM sh -c umask"),
];
